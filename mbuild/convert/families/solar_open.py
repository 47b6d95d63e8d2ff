"""Solar Open: GLM-4.5's architecture with tokens of its own."""

from __future__ import annotations

from mbuild.convert.families.glm import GLM4_MOE
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.values import replace

SOLAR_OPEN = replace(
    GLM4_MOE,
    names=("SolarOpenForCausalLM",),
    vocabulary=VocabRule(
        tokens=(
            ("eos", "<|endoftext|>"),
            ("eot", "<|endoftext|>"),
            ("unk", "<unk>"),
            ("bos", "<|startoftext|>"),
        )
    ),
    hf=NO_HF_CONFIG,
)

ROWS = (SOLAR_OPEN,)
