"""Lines of tensors that many encoders need, and keys that several kinds of projectors have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows.projector import GELU, SILU
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.projector import TowerKey
    from mbuild.convert.rows.towers import Towers
    from mbuild.gguf.model import KV

PATCHES = "v.patch_embd patch patch 3 width\n"
TWO_FRAMES = PATCHES + "v.patch_embd.weight.1. patch patch 3 width\n"
"""The patch embedding, a convolution over an image or over two frames."""

PATCH_BIAS = "v.patch_embd.bias width\n"
POSITIONS = "v.position_embd width free\n"
POST_NORM = "v.post_ln width\n"
POST_NORM_BIAS = "v.post_ln.bias width\n"
PRE_NORM = "v.pre_ln width\n"


def block(
    encoder: str = "v",
    *,
    attention: str = "q k v",
    bias: str = "",
    norms: str = "ln1 ln2",
    feed: str = "up down",
    feed_bias: bool = True,
    norm_bias: bool = True,
) -> str:
    """The tensors of one layer of a transformer.

    Args:
        encoder: ``v`` for images, ``a`` for sound.
        attention: the projections in front of it: ``q k v`` or ``qkv``.
        bias: which of them and of ``out`` have a bias.
        norms: the norms.
        feed: the feed-forward network's matrices.
        feed_bias: whether they have biases.
        norm_bias: whether the norms have.
    """
    lines = []
    for name in (*attention.split(), "out"):
        wide = "width*3" if name == "qkv" else "width"
        lines.append(f"attn_{name} width {wide}")
        if name in bias.split():
            lines.append(f"attn_{name}.bias {wide}")
    for name in norms.split():
        lines += [f"{name} width", *([f"{name}.bias width"] if norm_bias else [])]
    for name in feed.split():
        # llama.cpp takes the inner width from the tensors, whatever config.json says.
        sizes = "free width" if name == "down" else "width free"
        wide = sizes.split()[1]
        lines += [f"ffn_{name} {sizes}", *([f"ffn_{name}.bias {wide}"] if feed_bias else [])]
    return "".join(f"{encoder}.blk.{line}\n" for line in lines)


SIGLIP = PATCHES + PATCH_BIAS + POSITIONS + block(bias="q k v out")
"""SigLIP's layers, without the norm behind them."""

PLAIN_GATED = block(feed="gate up down", feed_bias=False, norm_bias=False)
"""Layers with RMS norms and gated feed-forward networks, and no bias."""


def activation(
    *, default: str = "", needed: bool = False, gelu: tuple[str, ...] = ("gelu",)
) -> TowerKey:
    """``use_gelu`` or ``use_silu``, by the encoder's ``hidden_act``."""

    def rule(towers: Towers) -> Iterator[KV]:
        name = towers.first.text("hidden_act", default=default)
        name = name if needed else name.lower()
        if name in gelu:
            yield from GELU(towers)
        elif name == "silu":
            yield from SILU(towers)
        elif needed:
            raise UnsupportedError(
                f"config.json: vision_config.hidden_act is {name[:40]!r}; llama.cpp computes"
                " gelu or silu there"
            )

    return rule
