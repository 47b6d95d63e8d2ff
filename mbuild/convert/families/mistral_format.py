"""Mistral's models in Mistral's own format: no permutation for RoPE, tokens from tekken.json."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.hyper import as_integer, as_number
from mbuild.convert.rows.keys import COMMON, F32, ROPE_HEAD_DIM, TEXT, U32, KeyRule, computed
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
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


_KEYS: tuple[KeyRule, ...] = (
    *COMMON,
    ROPE_HEAD_DIM,
    computed("rope.scaling.type", TEXT, lambda hp: "yarn" if _section(hp, "yarn") else None),
    computed("rope.scaling.factor", F32, lambda hp: _number(hp, "yarn", "factor")),
    computed("rope.scaling.yarn_beta_fast", F32, lambda hp: _number(hp, "yarn", "beta")),
    computed("rope.scaling.yarn_beta_slow", F32, lambda hp: _number(hp, "yarn", "alpha")),
    computed("rope.scaling.yarn_log_multiplier", F32, _multiplier),
    computed("rope.scaling.original_context_length", U32, _context),
    computed("attention.temperature_scale", F32, lambda hp: _number(hp, "llama_4_scaling", "beta")),
)

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

ROWS = (DENSE, MISTRAL3_FORMAT)
