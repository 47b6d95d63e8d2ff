"""Snowflake Arctic: a dense network beside the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, U32, VOCAB_SIZE, computed
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, ROTARY_WEIGHTS
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.sizes import Sizes


def _square(sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    width, found = sizes.value("width", 0), shapes.get("blk.0.ffn_up.weight", (0,))[0]
    if found != width:
        yield f"llama.cpp loads only a residual_mlp as wide as hidden_size {width}, not {found}"


ARCTIC = replace(
    LLAMA,
    gguf="arctic",
    names=("ArcticForCausalLM",),
    vocabulary=VocabRule((Reader.ARCTIC,)),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        computed("rope.dimension_count", U32, lambda hp: hp.width // hp.heads),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.WIDE, *p.experts())),
            Group(
                slots("""
                    ffn_norm_exps width
                    ffn_gate width free
                    ffn_up width free
                    ffn_down free width
                """)
            ),
        ),
        p.RMS,
        doubts=_square,
    ),
    hf=NO_HF_CONFIG,
    rules=ROTARY_WEIGHTS,
    stacks=(replace(MIXTRAL_EXPERTS, parts=("w1", "w2", "w3")),),
    extra=None,
    silu=False,
)

ROWS = (ARCTIC,)
