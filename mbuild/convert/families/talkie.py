"""Talkie: gains for heads and layers, no norms with weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.joining import joined
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, F32, constant
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, times
from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors

_GAIN = "lm_head_gain.w_g"


def _scale(hp: Hyper, tensors: Tensors) -> Iterator[KV]:
    """What logits are multiplied by, which is a tensor of one value."""
    from mbuild.convert.read.dtypes import to_f32

    gain = tensors.get(_GAIN)
    if gain is None or gain.size != 1:
        raise FormatError(f"the checkpoint has no {_GAIN} of one value")
    yield KV(f"{hp.arch}.logit_scale", F32, float(to_f32(gain.load(), gain.dtype).reshape(-1)[0]))


def _turned_back(hp: Hyper, lazy: Lazy) -> Lazy:
    """Other signs in the second half of each head, where RoPE turns the other way."""
    half, rest = hp.head_dim // 2, lazy.shape[-1]
    heads = lazy.reshape(lazy.size // rest // (2 * half), 2, half, rest)
    first, second = heads.split(1, (1, 1))
    return joined([times(first, 1), times(second, -1)], 1).reshape(*lazy.shape)


TALKIE = Family(
    gguf="talkie",
    names=("TalkieForCausalLM",),
    early=_scale,
    # The model's norms have no epsilon of their own: it is that of float32.
    keys=(*COMMON, constant("attention.layer_norm_rms_epsilon", F32, 2.0**-23)),
    layout=TensorLayout(
        (*p.EMBEDDING, *p.HEAD),
        (
            Group((*p.separate(), *p.GATED)),
            Group(
                slots("""
                    attn_output.scale. 1
                    attn_q_norm 1 heads
                    ffn_down.scale. 1
                    layer_output_scale 1
                """)
            ),
        ),
        (*p.RMS, "logit_scale"),
    ),
    renamed=placed(
        {
            "model.embed.weight": "token_embd.weight",
            "attn.attn_query": "attn_q",
            "attn.attn_key": "attn_k",
            "attn.attn_value": "attn_v",
            "attn.attn_resid": "attn_output",
            "attn.head_gain.head_g": "attn_q_norm",
            "attn_gain.a_g": "attn_output.scale.",
            "mlp_gain.a_g": "ffn_down.scale.",
            "embed_skip.a_g": "layer_output_scale",
            "mlp.mlp_gate": "ffn_gate",
            "mlp.mlp_linear": "ffn_up",
            "mlp.mlp_resid": "ffn_down",
        }
    ),
    rules=(
        each(r"attn_[qk]\.weight$", _turned_back),
        each(r"attn_q_norm\.weight$", lambda hp, lazy: lazy.reshape(lazy.size, 1)),
    ),
    skip=(_GAIN,),
)

ROWS = (TALKIE,)
