"""Which RoPE scaling a configuration class of transformers takes.

llama.cpp's converter reads config.json through transformers. Where the class refuses the file, it
takes the file as it stands, without the class's defaults. Source: transformers 4.57.6,
``modeling_rope_utils.rope_config_validation`` and the classes' own checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_NARROW = frozenset({"chameleon", "olmo", "olmo2"})
"""Classes that take nothing but ``type``, linear or dynamic, and ``factor``."""

_EITHER = frozenset(
    {
        *("apertus", "arcee", "deepseek_v2", "deepseek_v3", "ernie4_5", "ernie4_5_moe", "glm4_moe"),
        *("glm4v_text", "gpt_neox", "gpt_oss", "llama", "olmoe", "phi", "qwen2", "qwen2_moe"),
        *("qwen2_vl_text", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    }
)
"""Classes that check a scaling, whose kind may stand under its older name, ``type``."""

_NEW = frozenset(
    {
        *("cohere", "cohere2", "gemma3_text", "gemma3n_text", "granite", "granitemoe"),
        *("granitemoeshared", "olmo3", "qwen3_next", "qwen3_vl_moe_text", "qwen3_vl_text"),
    }
)
"""Classes that check a scaling, whose kind has to be its ``rope_type``."""

_NUMBERS = ("factor", "beta_fast", "beta_slow")
"""What DeepSeek V3's class makes a float of."""

_NEEDED: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "yarn": frozenset({"factor"}),
    "longrope": frozenset({"short_factor", "long_factor"}),
    "llama3": frozenset(
        {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}
    ),
}
"""What a scaling of each kind has to have; of kinds that are not here nothing is asked."""


def taken(model_type: str, config: Mapping[str, Any]) -> bool:
    """Whether the class of a type takes a config's ``rope_scaling``."""
    scaling = config.get("rope_scaling")
    if scaling is None:
        return True
    if model_type in _NARROW:
        return _is_narrow(scaling)
    if model_type not in _EITHER | _NEW:
        return True
    if not isinstance(scaling, dict):
        return False
    given = dict(scaling)
    if "type" in given and model_type in _EITHER:
        given["rope_type"] = given["type"]
    if model_type == "deepseek_v3" and not _are_floats(given):
        return False
    with suppress(TypeError, ZeroDivisionError, AttributeError):  # what the class ends with, too
        return _is_complete(given, config.get("max_position_embeddings", 1))
    return False


def _is_narrow(scaling: Any) -> bool:
    if not isinstance(scaling, dict) or len(scaling) != 2:
        return False
    factor = scaling.get("factor")
    return scaling.get("type") in ("linear", "dynamic") and type(factor) is float and factor > 1


def _is_complete(scaling: Mapping[str, Any], longest: Any) -> bool:
    """Whether nothing is missing; raises what computing with wrong values raises."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    needed = _NEEDED.get(kind)
    if needed is None:
        return True
    if "rope_type" not in scaling or needed - scaling.keys():
        return False
    original = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and original is not None:
        _ = longest / original
    if kind == "llama3":
        _ = scaling["high_freq_factor"] <= scaling["low_freq_factor"], original >= longest
    if kind == "longrope":
        _ = [len(scaling[name]) for name in ("short_factor", "long_factor")]
    return True


def _are_floats(scaling: Mapping[str, Any]) -> bool:
    with suppress(TypeError, ValueError):
        return bool([float(scaling[name]) for name in _NUMBERS if name in scaling] or True)
    return False
