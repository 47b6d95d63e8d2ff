"""Hyper-parameters with which no program loads a model: wrong types, impossible values.

llama.cpp takes each key in one type (``llama_model_loader::get_key``) and stops for any other;
some relations it asserts, which ends its process (``llama-model.cpp``). Ollama's own engine
takes the same types. What a key that is not listed here holds is no matter of this module, nor
are keys that are missing: some programs do without what others need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple
from mbuild.gguf.model import MetadataEntry, RawKV
from mbuild.gguf.types import ValueType

MAX_LAYERS = 512
"""``LLAMA_MAX_LAYERS`` of llama.cpp."""

MAX_EXPERTS = 1024
"""``LLAMA_MAX_EXPERTS`` of llama.cpp."""

_MAX_SIZE = (1 << 31) - 1
_MAX_NUMBER = (1 << 32) - 1
_INTEGERS = frozenset({ValueType.UINT32, ValueType.INT32})
_HINT = (
    "llama.cpp does not load such a model: convert the original checkpoint again, "
    "or correct the key"
)


class HyperparameterRow(NamedTuple):
    """What one key may hold: a type, and for numbers the least and the most.

    ``items`` are the element types of an array that may stand in its place; ``each`` says
    that such an array has one item for each layer.
    """

    type: ValueType
    least: float = -math.inf
    most: float = math.inf
    items: frozenset[ValueType] = frozenset()
    each: bool = False


def _number(least: int = 0, most: int = _MAX_SIZE) -> HyperparameterRow:
    return HyperparameterRow(ValueType.UINT32, least, most)


_ID = _number(0, _MAX_NUMBER)
_SIZE = HyperparameterRow(ValueType.UINT32, 0, _MAX_SIZE, _INTEGERS)
"""A size of which newer architectures have one for each layer."""
_LAYERS = HyperparameterRow(ValueType.UINT32, 0, _MAX_SIZE, _INTEGERS, each=True)
_FLOAT = HyperparameterRow(ValueType.FLOAT32)
_EPSILON = HyperparameterRow(ValueType.FLOAT32, 0, 1)
_FLAG = HyperparameterRow(ValueType.BOOL)
_TEXT = HyperparameterRow(ValueType.STRING)

OF_ARCHITECTURE: Mapping[str, HyperparameterRow] = {
    "block_count": _number(1, MAX_LAYERS),
    "context_length": _number(1, _MAX_NUMBER),
    "embedding_length": _number(1),
    "feed_forward_length": _LAYERS,
    "attention.head_count": _LAYERS,
    "attention.head_count_kv": _LAYERS,
    "expert_count": _number(0, MAX_EXPERTS),
    "expert_used_count": _SIZE._replace(most=MAX_EXPERTS),
    **dict.fromkeys(
        (
            *("expert_feed_forward_length", "expert_shared_feed_forward_length"),
            *("expert_shared_count", "expert_group_count", "expert_group_used_count"),
            *("leading_dense_block_count", "nextn_predict_layers", "moe_every_n_layers"),
            *("interleave_moe_layer_step", "attention.sliding_window"),
            *("attention.q_lora_rank", "attention.kv_lora_rank"),
            *("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank"),
            *("ssm.group_count", "wkv.head_size", "token_shift_count", "shortconv.l_cache"),
        ),
        _SIZE,
    ),
    "rope.dimension_count": _number(),
    "rope.dimension_count_swa": _number(),
    **dict.fromkeys(
        (
            *("attention.key_length", "attention.value_length"),
            *("attention.key_length_mla", "attention.value_length_mla"),
            *("attention.key_length_swa", "attention.value_length_swa"),
        ),
        _number(1),
    ),
    **dict.fromkeys(
        (
            *("expert_gating_func", "pooling_type", "rope.scaling.original_context_length"),
            *("vision.block_count", "vision.embedding_length", "vision.feed_forward_length"),
            *("vision.attention.head_count", "vision.image_size", "vision.patch_size"),
            *("audio.block_count", "audio.embedding_length", "audio.feed_forward_length"),
            *("audio.attention.head_count", "vision.projection_dim", "audio.projection_dim"),
            *("vision.spatial_merge_size", "decoder_block_count", "decoder_start_token_id"),
        ),
        _ID,
    ),
    **dict.fromkeys(
        (
            "attention.layer_norm_epsilon",
            "attention.layer_norm_rms_epsilon",
            "attention.group_norm_epsilon",
            "vision.attention.layer_norm_epsilon",
            "audio.attention.layer_norm_epsilon",
        ),
        _EPSILON,
    ),
    **dict.fromkeys(
        (
            *("rope.freq_base", "rope.freq_base_swa", "rope.scale_linear", "rope.scaling.factor"),
            *("rope.scaling.attn_factor", "attention.scale", "attention.clamp_kqv"),
            *("attention.max_alibi_bias", "logit_scale", "residual_scale", "embedding_scale"),
            *("attn_logit_softcapping", "final_logit_softcapping", "expert_weights_scale"),
        ),
        _FLOAT,
    ),
    **dict.fromkeys(
        (
            *("use_parallel_residual", "attention.causal", "expert_weights_norm"),
            *("rope.scaling.finetuned", "has_vision_encoder", "has_audio_encoder"),
        ),
        _FLAG,
    ),
    "rope.scaling.type": _TEXT,
}
"""Keys behind the architecture's name and a dot."""

WHOLE: Mapping[str, HyperparameterRow] = {
    "general.file_type": _ID,
    "general.type": _TEXT,
    "adapter.type": _TEXT,
    "adapter.lora.alpha": _FLOAT,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.chat_template": _TEXT,
    "tokenizer.ggml.token_type_count": _ID,
    **dict.fromkeys(
        (
            f"tokenizer.ggml.{name}_token_id"
            for name in (
                *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask"),
                *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
            )
        ),
        _ID,
    ),
    **dict.fromkeys(
        (
            f"tokenizer.ggml.{name}"
            for name in (
                *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"),
                "remove_extra_whitespaces",
            )
        ),
        _FLAG,
    ),
}
"""Keys of all architectures, and of adapters."""


def check_hyperparameters(metadata: Iterable[MetadataEntry], name: str) -> None:
    """Raise :class:`FormatError` where no program could load a model with these keys.

    ``name`` is what the error calls the file.
    """
    for problem in _problems({entry.key: entry for entry in metadata}):
        raise FormatError(f"{name}: {problem}", hint=_HINT)


def _problems(entries: Mapping[str, MetadataEntry]) -> Iterator[str]:
    """What is wrong, each in words; values are read after their types were found good."""
    named = entries.get("general.architecture")
    prefix = f"{named.value}." if named is not None else ""
    rows = [(prefix, key, row) for key, row in OF_ARCHITECTURE.items()] if prefix else []
    rows += [("", key, row) for key, row in WHOLE.items()]
    found: dict[str, Any] = {}
    for start, key, row in rows:
        entry = entries.get(start + key)
        if entry is None:
            continue
        problem = _wrong_type(entry, row, found.get("block_count"))
        if problem:
            yield problem
        elif row.type is not ValueType.STRING:
            found[key] = value = entry.value
            yield from _wrong_value(entry.key, value, row)
    for relation in RELATIONS:
        yield from relation(found, prefix)


def _wrong_type(entry: MetadataEntry, row: HyperparameterRow, layers: int | None) -> str:
    """What is wrong with a value's type, or with the length of an array; "" for nothing."""
    if entry.type is row.type:
        return ""
    if entry.type is not ValueType.ARRAY or entry.element not in row.items:
        of = f" of {entry.element.name}" if entry.element is not None else ""
        return f"{entry.key} has the type {entry.type.name}{of}, not {row.type.name}"
    count = entry.count if isinstance(entry, RawKV) else len(entry.value)
    if row.each and layers is not None and count != layers:
        return f"{entry.key} has {count} items for {layers} layers"
    return f"{entry.key} has {count} items" if not 1 <= count <= MAX_LAYERS else ""


def _wrong_value(key: str, value: Any, row: HyperparameterRow) -> Iterator[str]:
    for item in value if isinstance(value, list | tuple) else (value,):
        if not math.isfinite(item):
            yield f"{key} is {item}, which is not a number"
        elif item < row.least:
            yield f"{key} is {item}, less than {row.least:g}"
        elif item > row.most:
            yield f"{key} is {item}, more than {row.most:g}"


Relation = Callable[[Mapping[str, Any], str], Iterator[str]]
"""What is wrong with values beside each other; given them by key, and what keys begin with."""


def _single(found: Mapping[str, Any], key: str) -> int:
    """A number that is one for all layers, else 0."""
    value = found.get(key, 0)
    return value if isinstance(value, int) else 0


def _experts(found: Mapping[str, Any], prefix: str) -> Iterator[str]:
    count, used = found.get("expert_count", 0), found.get("expert_used_count", 0)
    for number in used if isinstance(used, list | tuple) else (used,):
        if number > count or (count and not number):
            yield (
                f"{prefix}expert_used_count is {number}, and {prefix}expert_count is {count}: "
                "a token uses at least one of the experts and at most all"
            )


def _heads(found: Mapping[str, Any], prefix: str) -> Iterator[str]:
    width, heads = _single(found, "embedding_length"), _single(found, "attention.head_count")
    if heads and width % heads and "attention.key_length" not in found:
        yield (
            f"{prefix}attention.head_count is {heads}, which does not divide "
            f"{prefix}embedding_length, {width}"
        )


def _groups(found: Mapping[str, Any], prefix: str) -> Iterator[str]:
    heads, groups = (_single(found, f"attention.head_count{end}") for end in ("", "_kv"))
    if heads and groups and heads % groups:
        yield (
            f"{prefix}attention.head_count_kv is {groups}, which does not divide "
            f"{prefix}attention.head_count, {heads}"
        )


def _rotary(found: Mapping[str, Any], prefix: str) -> Iterator[str]:
    width, heads = _single(found, "embedding_length"), _single(found, "attention.head_count")
    head = _single(found, "attention.key_length") or (width // heads if heads else 0)
    turned = _single(found, "rope.dimension_count")
    if head and turned > head:
        yield f"{prefix}rope.dimension_count is {turned}, more than a head's width, {head}"


RELATIONS: tuple[Relation, ...] = (_experts, _heads, _groups, _rotary)
