"""XVERSE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, TEXT, U32, computed, constant
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, rotary
from mbuild.convert.vocabulary.rules import Reader, VocabRule

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def kv_groups(hp: Hyper) -> int:
    """What the keys are turned by: heads over key-value heads where these are fewer, as llama.cpp's
    converter has it."""
    return hp.heads if hp.kv_heads == hp.heads else hp.heads // hp.kv_heads


XVERSE = Family(
    gguf="xverse",
    names=("XverseForCausalLM",),
    vocabulary=VocabRule((Reader.XVERSE,)),
    keys=(
        *COMMON,
        constant("tensor_data_layout", TEXT, "Meta AI original pth"),
        computed("rope.dimension_count", U32, lambda hp: hp.width // hp.heads),
    ),
    layout=TensorLayout(p.UNTIED, (Group((*p.NORMS, *p.WIDE, *p.GATED)),), p.RMS),
    rules=(
        each(r"q_proj\.weight$", lambda hp, lazy: rotary(lazy, hp.heads)),
        each(r"k_proj\.weight$", lambda hp, lazy: rotary(lazy, kv_groups(hp))),
    ),
)

ROWS = (XVERSE,)
