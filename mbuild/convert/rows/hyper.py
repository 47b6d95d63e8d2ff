"""Hyper-parameters: ``config.json`` read with types, bounds and the defaults of transformers.

llama.cpp's converter reads a checkpoint's config through transformers, which
fills in what the file leaves out; the same keys come out of the file alone
only if the same defaults are known here. :class:`HFConfig` holds them, one
value a configuration class, as transformers 5 has them.

Every number is hostile until it has been read by :meth:`Hyper.integer` and its
like: they refuse other types, NaN, infinity and what is out of bounds, and say
where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.scaling import taken
from mbuild.core.errors import FormatError
from mbuild.core.values import EMPTY, FrozenValue

if TYPE_CHECKING:
    from mbuild.convert.read.dtypes import OutType
    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.gguf.types import GGMLType

U32_MAX = (1 << 32) - 1
LAYER_NAMES = (
    *("n_layers", "num_hidden_layers", "n_layer", "num_layers"),
    "num_transformer_layers",
)
HEAD_NAMES = ("num_attention_heads", "n_head", "n_heads")
WIDTH_NAMES = ("hidden_size", "n_embd", "dim")
LAYER_TYPES = ("full_attention", "sliding_attention")

_THETA = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta")
_LOCAL_THETA = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta")

COMPOSED = frozenset(
    {
        *("aria", "aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "emu3"),
        *("fuyu", "gemma3", "gemma3n", "glm4v", "glm4v_moe", "got_ocr2", "granite_speech"),
        *("idefics2", "idefics3", "instructblip", "instructblipvideo", "internvl", "janus"),
        *("llama4", "llava", "llava_next", "llava_next_video", "llava_onevision", "mistral3"),
        *("mllama", "ovis2", "paligemma", "perception_lm", "qwen2_5_omni", "qwen2_5_vl"),
        *("qwen2_audio", "qwen2_vl", "qwen3_omni_moe", "qwen3_vl", "qwen3_vl_moe", "shieldgemma2"),
        *("smolvlm", "video_llava", "vipllava", "voxtral"),
    }
)
"""Types of models made of several, of which transformers 4.57.6 has a class. Of others it adds
nothing to the text model's config either."""

Fill = Callable[[Mapping[str, Any]], Any]


def main_layers(config: Mapping[str, Any]) -> int:
    """The number of layers that config.json says, without those for multi-token prediction; 0
    where it is no sensible number."""
    count = next((config[name] for name in LAYER_NAMES if name in config), 0)
    return count if type(count) is int and 0 < count < 1 << 16 else 0


def heads(config: Mapping[str, Any]) -> Any:
    """As many key-value heads as attention heads."""
    return config.get("num_attention_heads")


def head_width(config: Mapping[str, Any]) -> Any:
    """The hidden size over the number of heads, rounded down."""
    width, count = config.get("hidden_size"), config.get("num_attention_heads")
    if type(width) is int and type(count) is int and count > 0:
        return width // count
    return None


class HFConfig(FrozenValue):
    """What transformers' configuration class of one ``model_type`` adds to a config.json.

    Attributes:
        model_type: the class; another type in the file means a class that
            transformers does not have, and nothing is added.
        aliases: other names that the class takes for an attribute.
        values: attributes that are missing in the file.
        fills: attributes computed when missing or null.
        forced: attributes computed whatever the file says.
        theta: the RoPE base when the file has none; None: the class has no RoPE.
        partial: the rotary part of a head when the file has none.
        rope: RoPE parameters when the file has none.
        sliding_theta: the RoPE base of layers with a sliding window, for classes
            that keep RoPE parameters for each type of layer.
        untied: a file that does not say tie_word_embeddings means false.
    """

    model_type: str
    aliases: Mapping[str, str] = EMPTY
    values: Mapping[str, Any] = EMPTY
    fills: Mapping[str, Fill] = EMPTY
    forced: Mapping[str, Fill] = EMPTY
    theta: float | None = 10000.0
    partial: float | None = None
    rope: Mapping[str, Any] = EMPTY
    sliding_theta: float | None = None
    untied: bool = False

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config as transformers would have it; the given one is left as it is."""
        full = dict(config)
        if full.get("model_type") != self.model_type:
            return full
        if not taken(self.model_type, full):
            return full
        for alias, name in self.aliases.items():
            if alias in full:
                full.setdefault(name, full[alias])
                del full[alias]
        for name, value in self.values.items():
            full.setdefault(name, value)
        for name, fill in self.fills.items():
            if full.get(name) is None:
                full[name] = fill(full)
        for name, fill in self.forced.items():
            full[name] = fill(full)
        if self.theta is not None:
            full["rope_parameters"] = self._rope(full)
            for name in ("rope_scaling", "rope_theta", "partial_rotary_factor"):
                full.pop(name, None)
        return full

    def _rope(self, config: Mapping[str, Any]) -> dict[str, Any]:
        said = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
        given = config.get(said) or dict(self.rope)
        rope = dict(_mapping(given, "rope_parameters"))
        theta = config.get("rope_theta", self.theta)
        if self.sliding_theta is not None:
            return self._nested_rope(config, rope)
        partial = config.get("partial_rotary_factor", self.partial)
        original = config.get("original_max_position_embeddings")
        kinds = config.get("layer_types")
        inner = [key for key in LAYER_TYPES if isinstance(kinds, list) and key in kinds]
        if any(key in rope for key in inner):  # nothing is added to those of a kind of layers
            return {
                key: _mapping(value, key) if key in inner else value for key, value in rope.items()
            }
        return _standard(rope, theta, partial, original, config)

    def _nested_rope(self, config: Mapping[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
        """Gemma 3's way: ``rope_scaling`` and ``rope_theta`` are the full layers', another base
        (``rope_local_base_freq``) the sliding ones'. Nothing is added to those that a file has for
        each kind of layers."""
        if any(t in rope for t in LAYER_TYPES):
            return {k: _mapping(v, k) if k in LAYER_TYPES else v for k, v in rope.items()}
        result = {k: v for k, v in rope.items() if k == "mrope_section"}  # of all layers
        rope = {"full_attention": rope} if rope else {}
        bases = (
            config.get("rope_theta", self.theta),
            config.get("rope_local_base_freq", self.sliding_theta),
        )
        originals = (config.get("original_max_position_embeddings"), None)
        for label, theta, original in zip(LAYER_TYPES, bases, originals, strict=True):
            given = _mapping(rope.get(label) or {}, label)
            result[label] = _standard(given, theta, None, original, config)
        return result


def _standard(
    rope: Mapping[str, Any], theta: Any, partial: Any, original: Any, config: Mapping[str, Any]
) -> dict[str, Any]:
    """One dict of RoPE parameters under transformers 5's names."""
    result = dict(rope)
    result.setdefault("rope_type", result.get("type", "default"))
    result.setdefault("rope_theta", theta)
    if partial is not None:
        result.setdefault("partial_rotary_factor", partial)
    if original is None and result["rope_type"] in ("yarn", "longrope"):
        original = config.get("max_position_embeddings")
    if original is not None:
        result.setdefault("original_max_position_embeddings", original)
    return result


def unified_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """One dict of RoPE parameters from the several spellings that configs have.

    What stands at the config's root is mirrored into the dict; a base for the
    layers with a sliding window becomes its ``sliding_attention``.
    """
    given = config.get("rope_parameters", config.get("rope_scaling")) or {}
    rope = dict(_mapping(given, "rope_parameters"))
    if any(label in rope for label in LAYER_TYPES):
        return rope
    local = _first(config, (*_LOCAL_THETA, "rope_local_base_freq"))
    if local is not None:
        rope["sliding_attention"] = {"rope_theta": local}
    mirrored = {
        "rope_theta": _first(config, (*_THETA, "rotary_emb_base")),
        "rope_type": rope.get("type"),
        "partial_rotary_factor": _first(
            config, ("partial_rotary_factor", "rope_pct", "rope_percent")
        ),
        "original_max_position_embeddings": config.get("original_max_position_embeddings"),
    }
    for name, value in mirrored.items():
        if value is not None:
            rope.setdefault(name, value)
    return rope


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first name that is there, even if it is null."""
    return next((config[name] for name in names if name in config), None)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FormatError(f"config.json: {name} is {_quote(value)}; an object is needed")
    return value


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


INCOMPLETE = "config.json is incomplete: take it from the base model"
"""What to do where a value is not there."""


def missing(name: str, *, file: str = "config.json") -> FormatError:
    """The error for a value that the conversion needs and the file does not have."""
    return FormatError(f"{file} has no {name}", hint=INCOMPLETE)


def as_integer(value: Any, name: str, low: int = 0, high: int = U32_MAX) -> int:
    """A whole number in bounds; raises :class:`FormatError` for anything else."""
    if type(value) is not int or not low <= value <= high:
        raise FormatError(
            f"config.json: {name} is {_quote(value)}; a whole number from {low} to {high} is needed"
        )
    return value


def as_number(value: Any, name: str) -> float:
    """A finite number that a float32 can hold; raises :class:`FormatError` for anything else."""
    if type(value) not in (int, float) or not abs(value) < 3.4e38:  # NaN compares false
        raise FormatError(f"config.json: {name} is {_quote(value)}; a finite number is needed")
    return float(value)


class Hyper(FrozenValue):
    """A checkpoint's hyper-parameters, for one architecture.

    ``arch`` is GGUF's name of it, ``config`` the completed config, ``rope`` its
    unified RoPE parameters, ``blocks`` the number of layers, the last
    ``nextn`` of them for multi-token prediction, ``outtype`` what
    matrices become (never ``auto``), ``files`` the checkpoint's other files, ``tensors`` the
    checkpoint's by name, for the few numbers that stand in them, ``kept`` the types of weights
    that stay as the checkpoint has them.
    """

    arch: str
    hf_arch: str
    config: Mapping[str, Any]
    rope: Mapping[str, Any]
    blocks: int
    outtype: OutType
    files: CheckpointFiles
    nextn: int = 0
    tensors: Mapping[str, Any] = EMPTY
    kept: frozenset[GGMLType] = frozenset()

    @property
    def main(self) -> int:
        """The number of layers without those for multi-token prediction."""
        return self.blocks - self.nextn

    def value(self, *names: str) -> Any:
        """The raw value of the first of these names that the config has, or None."""
        return _first(self.config, names)

    def integer(self, *names: str, low: int = 0, default: int | None = None) -> int:
        """A whole number; raises :class:`FormatError` if it is missing and has no default."""
        found = self.optional_integer(*names, low=low)
        if found is not None:
            return found
        if default is None:
            raise missing(names[0])
        return default

    def optional_integer(self, *names: str, low: int = 0) -> int | None:
        """A whole number, or None where the config has none of the names or null."""
        value = self.value(*names)
        return None if value is None else as_integer(value, self._name(names), low)

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number; raises :class:`FormatError` if it is missing and has no default."""
        value = self.value(*names)
        if value is not None:
            return as_number(value, self._name(names))
        if default is None:
            raise missing(names[0])
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; raises :class:`FormatError` for another type."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FormatError(f"config.json: {name} is {_quote(value)}; true or false is needed")
        return value

    def texts(self, name: str) -> list[str] | None:
        """A list of strings with one item a layer, or None where the config has none."""
        value = self.config.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise FormatError(
                f"config.json: {name} is {_quote(value)}; a list of strings is needed"
            )
        if len(value) not in (self.main, self.blocks):
            raise FormatError(f"config.json: {name} has {len(value)} items for {self.main} layers")
        return value

    @property
    def width(self) -> int:
        """The hidden size."""
        return self.integer(*WIDTH_NAMES, low=1)

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.integer("n_heads", *HEAD_NAMES[:2], low=1)

    @property
    def kv_heads(self) -> int:
        """The number of key-value heads: the attention heads' where none is named."""
        return self.integer("n_kv_heads", "num_key_value_heads", low=1, default=self.heads)

    @property
    def head_dim(self) -> int:
        """The width of one head, the hidden size over the heads where none is named."""
        return self.integer("head_dim", low=1, default=self.width // self.heads)

    @property
    def full_rope(self) -> Mapping[str, Any]:
        """The RoPE parameters of the layers with full attention."""
        return _mapping(self.rope.get("full_attention") or self.rope, "full_attention")

    def rope_number(self, name: str, default: float | None = None) -> float:
        """A number among the RoPE parameters of the full layers.

        Raises :class:`FormatError` for null, too, with which no reader of config.json computes.
        """
        if name not in self.full_rope and default is not None:
            return default
        return as_number(self.full_rope.get(name), f"rope_parameters.{name}")

    def _name(self, names: tuple[str, ...]) -> str:
        return next(name for name in names if name in self.config)
