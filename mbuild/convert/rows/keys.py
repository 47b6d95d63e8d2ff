"""Metadata keys of an architecture: declared as a table, read from the hyper-parameters.

A row lists :class:`Key` values, and functions where several keys hang together
(RoPE scaling). Each is called with the hyper-parameters and gives the entries
that it writes, none where the config has nothing to say. A key that is written
twice keeps its first place and its last value, as in llama.cpp's converter.
Names are those of the GGUF specification; ``{arch}`` stands for the
architecture's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import OutType
from mbuild.convert.rows.hyper import HEAD_NAMES, WIDTH_NAMES, Hyper, as_integer, as_number, missing
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import FrozenValue
from mbuild.gguf.model import KV
from mbuild.gguf.types import GGMLType, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator

KeyRule = Callable[[Hyper], Iterable[KV]]

U32 = ValueType.UINT32
F32 = ValueType.FLOAT32
BOOL = ValueType.BOOL
TEXT = ValueType.STRING

FILE_TYPES: dict[OutType, int] = {
    OutType.F32: 0,
    OutType.F16: 1,
    OutType.Q8_0: 7,
    OutType.BF16: 32,
    OutType.TQ1_0: 36,
    OutType.TQ2_0: 37,
}
"""``general.file_type`` (``llama_ftype`` of llama.h)."""
FILE_TYPE_MXFP4 = 38
_FILE_TYPES_OF_KEPT = (
    (GGMLType.NVFP4, 39),
    (GGMLType.MXFP4, FILE_TYPE_MXFP4),
    (GGMLType.Q4_0, 2),
    (GGMLType.Q8_0, 7),
)
"""The same where weights stay as the checkpoint has them; the first that some have counts."""


class Key(FrozenValue):
    """One key and where its value comes from.

    Attributes:
        name: the key without the architecture's name in front, or a whole ``tokenizer.`` key.
        type: UINT32, FLOAT32, BOOL or STRING; a list makes it an array.
        names: names in the config in order of preference.
        compute: the value instead, from the hyper-parameters; None writes nothing.
        default: the value where the config has none.
        required: refuse a config that has none.
        truthy: write nothing for zero either.
        low: the least number allowed.
    """

    name: str
    type: ValueType
    names: tuple[str, ...] = ()
    compute: Callable[[Hyper], Any] | None = None
    default: Any = None
    required: bool = False
    truthy: bool = False
    low: int = 0

    def __call__(self, hp: Hyper) -> Iterator[KV]:
        """The entry, if there is a value; raises :class:`FormatError` for one that does not fit."""
        value = self.compute(hp) if self.compute else hp.value(*self.names) if self.names else None
        if value is None:
            value = self.default
        if value is None:
            if self.required:
                raise missing(self.names[0])
            return
        if self.truthy and not value:
            return
        label = self.names[0] if self.names else self.name
        whole = self.name.startswith("tokenizer.")
        key = self.name if whole else f"{hp.arch}.{self.name}"
        yield entry(key, self.type, value, label, self.low)


def entry(key: str, type_: ValueType, value: Any, label: str, low: int = 0) -> KV:
    """A checked entry; a list becomes an array (of INT32 for whole numbers, as in the reference).

    ``label`` is the config's name of the value, for messages.
    """
    if isinstance(value, list):
        element = ValueType.INT32 if type_ is U32 else type_
        items = [_checked(item, type_, label, low) for item in value]
        return KV(key, ValueType.ARRAY, items, element)
    return KV(key, type_, _checked(value, type_, label, low))


def _checked(value: Any, type_: ValueType, label: str, low: int) -> Any:
    if type_ is U32:
        return as_integer(value, label, low)
    if type_ is F32:
        return as_number(value, label)
    kind = bool if type_ is BOOL else str
    if not isinstance(value, kind):
        raise FormatError(f"config.json: {label} is {value!r}; a {kind.__name__} is needed")
    return value


def u32(name: str, *names: str, low: int = 0, default: Any = None, required: bool = False) -> Key:
    """A whole number (or a list of them) straight from the config."""
    return Key(name, U32, names, low=low, default=default, required=required)


def f32(
    name: str, *names: str, default: Any = None, required: bool = False, truthy: bool = False
) -> Key:
    """A number (or a list of them) straight from the config."""
    return Key(name, F32, names, default=default, required=required, truthy=truthy)


def computed(name: str, type_: ValueType, compute: Callable[[Hyper], Any]) -> Key:
    """A key whose value is computed; None writes nothing."""
    return Key(name, type_, compute=compute)


def within(section: str, name: str, type_: ValueType, field: str, *, required: bool = True) -> Key:
    """A key whose value stands in an object of the config; null writes nothing unless required."""

    def compute(hp: Hyper) -> Any:
        settings = hp.value(section)
        value = settings.get(field) if isinstance(settings, dict) else None
        if value is None and required:
            raise missing(f"{section}.{field}")
        if isinstance(value, list | dict):
            raise FormatError(f"config.json: {section}.{field} is not a single value")
        return value

    return computed(name, type_, compute)


def file_type(hp: Hyper) -> Iterator[KV]:
    """``general.file_type``, which stands among the architecture's keys."""
    quant = hp.config.get("quantization_config")
    is_mxfp4 = isinstance(quant, dict) and quant.get("quant_method") == "mxfp4"
    number = FILE_TYPES[hp.outtype]
    if hp.outtype in (OutType.F32, OutType.F16, OutType.BF16):
        kept = (file_type for type_, file_type in _FILE_TYPES_OF_KEPT if type_ in hp.kept)
        number = FILE_TYPE_MXFP4 if is_mxfp4 else next(kept, number)
    yield KV("general.file_type", U32, number)


def rope_scaling(hp: Hyper) -> Iterator[KV]:
    """The keys of linear, YaRN and long RoPE scaling; Llama 3's is a tensor, not a key."""
    rope = hp.full_rope
    kind, prefix = rope.get("rope_type"), f"{hp.arch}.rope.scaling."
    factor = rope.get("factor")
    if kind == "linear" and factor is not None:
        yield KV(prefix + "type", TEXT, "linear")
        yield KV(prefix + "factor", F32, hp.rope_number("factor"))
    elif kind == "yarn" and factor is not None:
        yield KV(prefix + "type", TEXT, "yarn")
        yield KV(prefix + "factor", F32, hp.rope_number("factor"))
        original = rope.get("original_max_position_embeddings")
        label = "original_max_position_embeddings"
        yield KV(prefix + "original_context_length", U32, as_integer(original, label))
        for key, names in _YARN:
            value = next((rope[name] for name in names if name in rope), None)
            if value is not None:
                yield KV(prefix + key, F32, as_number(value, f"rope_parameters.{names[0]}"))
    elif kind in ("su", "longrope"):
        yield KV(prefix + "type", TEXT, "longrope")


_YARN = (
    ("yarn_ext_factor", ("extrapolation_factor",)),
    ("yarn_attn_factor", ("attention_factor", "attn_factor")),
    ("yarn_beta_fast", ("beta_fast",)),
    ("yarn_beta_slow", ("beta_slow",)),
)


def rope_sections(hp: Hyper) -> Iterator[KV]:
    """The four sections of multi-axis RoPE (time, height, width, extra)."""
    sections = hp.rope.get("mrope_section")
    if sections is None:
        return
    if not isinstance(sections, list):
        raise FormatError(f"config.json: mrope_section is {sections!r}; a list is needed")
    four = [*sections, 0, 0, 0, 0][:4]
    yield entry(f"{hp.arch}.rope.dimension_sections", U32, four, "mrope_section")


def rope_bases(hp: Hyper) -> Iterator[KV]:
    """The RoPE bases of the full layers and of those with a sliding window."""
    prefix = f"{hp.arch}.rope.freq_base"
    if hp.full_rope.get("rope_theta") is not None:
        yield KV(prefix, F32, hp.rope_number("rope_theta"))
    sliding = hp.rope.get("sliding_attention")
    if isinstance(sliding, dict) and sliding.get("rope_theta") is not None:
        theta = as_number(sliding["rope_theta"], "rope_parameters.sliding_attention.rope_theta")
        yield KV(f"{prefix}_swa", F32, theta)


GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
"""``expert_gating_func`` (``llama_expert_gating_func_type`` of llama.cpp)."""


def _gating(hp: Hyper) -> int | None:
    name = hp.value(
        "score_function",
        "scoring_func",
        "score_func",
        "moe_router_activation",
        "moe_router_activation_func",
        "expert_selection_fn",
    )
    if name is None:
        return None
    if not isinstance(name, str) or name not in GATING:
        raise UnsupportedError(
            f"config.json: the expert scoring function {name!r} is not supported",
            hint=f"supported: {', '.join(GATING)}",
        )
    return GATING[name]


def _not_causal(hp: Hyper) -> bool | None:
    return False if hp.config.get("is_causal") is False else None


def blocks(hp: Hyper) -> int:
    """The number of layers."""
    return hp.blocks


BLOCK_COUNT = computed("block_count", U32, blocks)
CONTEXT = u32(
    "context_length",
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
    low=1,
)
WIDTH = u32("embedding_length", *WIDTH_NAMES, low=1)
HEADS = u32("attention.head_count", *HEAD_NAMES, low=1)
KV_HEADS = u32("attention.head_count_kv", "num_key_value_heads", "n_kv_heads")
RMS_EPS = f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", "norm_eps")
NORM_EPS = f32(
    "attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"
)
KEY_LENGTH = u32("attention.key_length", "head_dim", low=1)
VALUE_LENGTH = u32("attention.value_length", "head_dim", low=1)
VOCAB_SIZE = u32("vocab_size", "vocab_size", low=1, required=True)

COMMON: tuple[KeyRule, ...] = (
    BLOCK_COUNT,
    CONTEXT,
    WIDTH,
    u32(
        "feed_forward_length",
        "prefix_dense_intermediate_size",
        "dense_intermediate_size",
        "intermediate_size",
        "n_inner",
        "hidden_dim",
    ),
    HEADS,
    KV_HEADS,
    computed("attention.causal", BOOL, _not_causal),
    rope_scaling,
    rope_sections,
    rope_bases,
    RMS_EPS,
    NORM_EPS,
    u32("expert_count", "num_local_experts", "num_experts", "n_routed_experts"),
    u32("expert_used_count", "num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    u32("expert_group_count", "n_group"),
    u32("expert_group_used_count", "topk_group"),
    computed("expert_gating_func", U32, _gating),
    KEY_LENGTH,
    VALUE_LENGTH,
    file_type,
)
"""What nearly every architecture writes, in llama.cpp's order."""

MASK_TOKEN = u32("tokenizer.ggml.mask_token_id", "mask_token_id")
MASK_OF_DRAFT = "mask_token_of_draft"
"""A setting that a draft's row settles: the mask token, which stands behind the target's tokens."""
NEXTN = u32("nextn_predict_layers", "num_nextn_predict_layers")
NO_BOS = Key("tokenizer.ggml.add_bos_token", BOOL, default=False)
NOT_CAUSAL = Key("attention.causal", BOOL, default=False)
ROPE_SCALING_NONE = Key("rope.scaling.type", TEXT, default="none")
ROPE_HEAD_DIM = computed("rope.dimension_count", U32, lambda hp: hp.head_dim)


def replaced(rules: Sequence[KeyRule], *others: Key) -> tuple[KeyRule, ...]:
    """The same rules with some keys read in another way, at the same place."""
    names = {key.name: key for key in others}
    return tuple(names.get(r.name, r) if isinstance(r, Key) else r for r in rules)


def without(rules: Sequence[KeyRule], *names: str) -> tuple[KeyRule, ...]:
    """The same rules but for some keys."""
    return tuple(r for r in rules if not (isinstance(r, Key) and r.name in names))


def constant(name: str, type_: ValueType, value: Any) -> Key:
    """A key with the same value in every model."""
    return Key(name, type_, default=value)


def sliding_pattern(hp: Hyper) -> list[bool] | None:
    """Which layers have a sliding window, from ``layer_types``."""
    kinds = hp.texts("layer_types")
    return None if kinds is None else [kind == "sliding_attention" for kind in kinds]


def clamps(key: str, name: str) -> Key:
    """A limit for each layer, 0 where config.json has none; nothing where it has no list."""

    def compute(hp: Hyper) -> list[float] | None:
        given = hp.value(name)
        if not isinstance(given, list):
            return None
        limits = [0.0 if limit is None else as_number(limit, name) for limit in given]
        return [*limits, *[0.0] * hp.blocks][: hp.blocks]

    return computed(key, F32, compute)


def merged(entries: Iterable[KV]) -> tuple[KV, ...]:
    """Entries with each key once: at its first place, with its last value."""
    result: dict[str, KV] = {}
    for kv in entries:
        result[kv.key] = kv
    return tuple(result.values())


def write(rules: Sequence[KeyRule], hp: Hyper) -> list[KV]:
    """All entries of a row's rules, in order; empty arrays are not written."""
    return [
        kv for rule in rules for kv in rule(hp) if kv.type is not ValueType.ARRAY or len(kv.value)
    ]
