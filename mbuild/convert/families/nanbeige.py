"""Nanbeige 4.2: Llama's layers, gone through several times."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, computed
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

NANBEIGE = replace(
    LLAMA,
    gguf="nanbeige",
    names=("NanbeigeForCausalLM",),
    keys=(
        *LLAMA.keys,
        computed("num_loops", U32, lambda hp: hp.integer("num_loops", default=1) or 1),
        computed("skip_loop_final_norm", BOOL, lambda hp: hp.flag("skip_loop_final_norm")),
    ),
    layout=replace(p.DENSE, model=(*p.USUAL, *p.ROPE_FREQS)),
    hf=NO_HF_CONFIG,
)

ROWS = (NANBEIGE,)
