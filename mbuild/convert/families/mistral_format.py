"""Mistral's models in Mistral's own format: no permutation for RoPE, tokens from tekken.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import DEEPSEEK_V3
from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.hyper import as_integer, as_number
from mbuild.convert.rows.keys import (
    COMMON,
    F32,
    ROPE_HEAD_DIM,
    TEXT,
    U32,
    KeyRule,
    computed,
    constant,
)
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper


def _section(hp: Hyper, name: str) -> dict[str, Any] | None:
    value = hp.config.get(name)
    if value is not None and not isinstance(value, dict):
        raise FormatError(f"params.json: {name} is not an object")
    return value


def _number(hp: Hyper, section: str, name: str) -> float | None:
    found = _section(hp, section)
    return None if found is None else as_number(found.get(name), f"{section}.{name}")


def _context(hp: Hyper) -> int | None:
    found = _section(hp, "yarn")
    name = "original_max_position_embeddings"
    return None if found is None else as_integer(found.get(name), f"yarn.{name}")


def _multiplier(hp: Hyper) -> float | None:
    found = _section(hp, "yarn")
    return None if found is None else 0.0 if found.get("apply_scale") else 1.0


_SCALING: tuple[KeyRule, ...] = (
    computed("rope.scaling.type", TEXT, lambda hp: "yarn" if _section(hp, "yarn") else None),
    computed("rope.scaling.factor", F32, lambda hp: _number(hp, "yarn", "factor")),
    computed("rope.scaling.yarn_beta_fast", F32, lambda hp: _number(hp, "yarn", "beta")),
    computed("rope.scaling.yarn_beta_slow", F32, lambda hp: _number(hp, "yarn", "alpha")),
    computed("rope.scaling.yarn_log_multiplier", F32, _multiplier),
    computed("rope.scaling.original_context_length", U32, _context),
    computed("attention.temperature_scale", F32, lambda hp: _number(hp, "llama_4_scaling", "beta")),
)

_KEYS: tuple[KeyRule, ...] = (*COMMON, ROPE_HEAD_DIM, *_SCALING)

DENSE = replace(
    LLAMA,
    names=(),
    keys=_KEYS,
    hf=NO_HF_CONFIG,
    rules=(),
    extra=None,
    head="output",
    vocabulary=VocabRule((Reader.TEKKEN,), size_key="llama.vocab_size"),
)

MISTRAL3_FORMAT = replace(
    DENSE,
    gguf="mistral3",
    layout=replace(LLAMA.layout, one_head=False),
    vocabulary=VocabRule((Reader.TEKKEN,), size_key="mistral3.vocab_size"),
)

_EXPERT = regex(r"^(layers\.\d+)\.(experts\.\d+)\.w([123])\.")
_PARTS = {"1": "gate_proj", "2": "down_proj", "3": "up_proj"}


def _as_deepseek(config: Mapping[str, Any], name: str) -> str:
    """The names of experts, and of keys and values, that DeepSeek's rules know."""
    name = name.replace(".wkv_b.", ".kv_b_proj.")
    return _EXPERT.sub(lambda m: f"model.{m[1]}.mlp.{m[2]}.{_PARTS[m[3]]}.", name)


MOE_FORMAT = replace(
    DEEPSEEK_V3,
    names=(),
    keys=(
        *DEEPSEEK_V3.keys,
        *_SCALING,
        computed("attention.temperature_length", U32, _context),
        # llama.cpp multiplies it by ten here: https://github.com/ggml-org/llama.cpp/pull/17945
        constant("rope.scaling.yarn_log_multiplier", F32, 0.1),
    ),
    hf=NO_HF_CONFIG,
    head="output",
    renamed=_as_deepseek,
    vocabulary=VocabRule((Reader.TEKKEN,), size_key="deepseek2.vocab_size"),
)
"""Mixtures of experts are DeepSeek V3's in another format."""

ROWS = (DENSE, MISTRAL3_FORMAT, MOE_FORMAT)
