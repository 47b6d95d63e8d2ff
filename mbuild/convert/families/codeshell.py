"""CodeShell."""

from __future__ import annotations

from mbuild.convert.families.gpt import EPS, FOUR_WIDE, GPT2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BLOCK_COUNT, F32, TEXT, constant, file_type, u32
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.row import Family
from mbuild.core.values import replace

CODESHELL = Family(
    gguf="codeshell",
    names=("CodeShellForCausalLM",),
    keys=(
        u32("context_length", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        FOUR_WIDE,
        BLOCK_COUNT,
        u32("attention.head_count", "n_head", low=1, required=True),
        u32("attention.head_count_kv", "num_query_groups", low=1, required=True),
        EPS,
        file_type,
        constant("rope.freq_base", F32, 10000.0),
        constant("rope.scaling.type", TEXT, "linear"),
        constant("rope.scaling.factor", F32, 1.0),
    ),
    layout=replace(
        GPT2.layout,
        model=(*p.OUTPUT_NORM, *p.OUTPUT_NORM_BIAS, *p.HEAD, *slots("? token_embd width tokens")),
    ),
)

ROWS = (CODESHELL,)
