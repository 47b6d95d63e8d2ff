"""Chameleon (text)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BOOL, COMMON, Key
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import TOWERS, Family
from mbuild.convert.rows.rules import ROTARY, each
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _turned(hp: Hyper, lazy: Lazy) -> Lazy:
    """The first head's norm in ggml's order of RoPE, for every head: all have the same."""
    lazy.need_dims(2)
    heads, width = lazy.shape
    return lazy.move(
        lazy.shape,
        lambda values: values[:1].reshape(2, width // 2).T.reshape(1, width).repeat(heads, 0),
    )


CHAMELEON = Family(
    gguf="chameleon",
    names=("ChameleonForConditionalGeneration", "ChameleonForCausalLM"),
    keys=(*COMMON, Key("swin_norm", BOOL, ("swin_norm",), default=False)),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.WIDE, *p.GATED)),
            Group(
                slots("""
                    attn_q_norm key heads
                    attn_k_norm key kv
                    ?norms attn_q_norm.bias key heads
                    ?norms attn_k_norm.bias key kv
                """)
            ),
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "chameleon",
        untied=True,
        values={
            **{"max_position_embeddings": 4096, "num_key_value_heads": 32, "vocab_size": 65536},
            **{"rms_norm_eps": 1e-5, "swin_norm": False},
        },
    ),
    rules=(*ROTARY, each(r"[qk]_norm\.(weight|bias)$", _turned)),
    towers=regex(rf"^model\.vqmodel|{TOWERS.pattern}"),
)

ROWS = (CHAMELEON,)
