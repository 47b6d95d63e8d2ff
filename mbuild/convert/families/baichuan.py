"""Baichuan 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.xverse import XVERSE, kv_groups
from mbuild.convert.rows.rules import Rule, rotary
from mbuild.convert.vocabulary.rules import SPM
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _unpacked(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries, keys and values from one matrix; the first two in ggml's order of RoPE."""
    third = (lazy.shape or (0,))[0] // 3
    queries, keys, values = lazy.split(0, (third, third, third))
    turned = (rotary(queries, hp.heads), rotary(keys, kv_groups(hp)), values)
    return [
        (name.replace("W_pack", f"{part}_proj"), piece)
        for part, piece in zip("qkv", turned, strict=True)
    ]


BAICHUAN = replace(
    XVERSE,
    gguf="baichuan",
    names=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    vocabulary=SPM,
    rules=(Rule(regex(r"self_attn\.W_pack\.weight$"), _unpacked),),
)
"""llama.cpp's converter of October 2026 recurses without end here; the rules are its own."""

ROWS = (BAICHUAN,)
