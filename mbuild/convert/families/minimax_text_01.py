"""MiniMax-Text-01 and M1: lightning attention, full attention at intervals, experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, F32, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes

_KINDS = ("full_attention", "linear_attention", "mlp")


def _silenced(hp: Hyper) -> Iterator[KV]:
    """Added tokens whose rows of the embedding are zero: no answer may have them."""
    from mbuild.convert.read.dtypes import to_f32
    from mbuild.convert.vocabulary.tokenizer_json import read_tokenizer_json

    embedding, tokenizer = hp.tensors.get("model.embed_tokens.weight"), None
    if "tokenizer.json" in hp.files:
        tokenizer = read_tokenizer_json(hp.files)
    if embedding is None or tokenizer is None or len(embedding.shape) != 2:
        return
    first = len(tokenizer.vocab)
    if first >= embedding.shape[0]:
        return
    rows = to_f32(embedding.slice(0, first).load(), embedding.dtype)
    used: list[bool] = [bool(row.any()) for row in rows]
    ids = [first + row for row, here in enumerate(used) if not here]
    if ids:
        yield KV("tokenizer.ggml.suppress_tokens", ValueType.ARRAY, ids, ValueType.INT32)


def _residual(hp: Hyper) -> float:
    found = [hp.number(f"layernorm_{kind}_alpha") for kind in _KINDS]
    others = {hp.number(f"layernorm_{kind}_beta") for kind in _KINDS}
    if set(found) != {found[0]} or others != {1.0}:
        raise UnsupportedError(
            "config.json: layernorm_*_alpha differ, or layernorm_*_beta are not 1",
            hint="llama.cpp has one factor for all residual streams",
        )
    return found[0]


_INTERVAL = 8
"""Every so many layers one has full attention; llama.cpp reads it from no key."""


def _full(sizes: Sizes, layer: int) -> bool:
    return (layer + 1) % _INTERVAL == 0


def _linear(sizes: Sizes, layer: int) -> bool:
    return not _full(sizes, layer)


MINIMAX_TEXT_01 = Family(
    gguf="minimax-01",
    names=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    keys=(
        *COMMON,
        _silenced,
        computed("residual_scale", F32, _residual),
        u32("rope.dimension_count", "rotary_dim", low=1, required=True),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.experts())),
            Group(p.separate(), _full),
            Group(
                slots("""
                    attn_norm_2 heads*key
                    attn_qkv width 3*heads*key
                    attn_gate width heads*key
                    attn_output heads*key width
                """),
                _linear,
            ),
        ),
        (*p.RMS, "residual_scale"),
    ),
    vocabulary=VocabRule(file_template=True, elsewhere="MiniMax-M1.jinja"),
    renamed=placed(
        {
            "self_attn.qkv_proj": "attn_qkv",
            "self_attn.output_gate": "attn_gate",
            "self_attn.out_proj": "attn_output",
            "self_attn.norm": "attn_norm_2",
        }
    ),
    stacks=(MIXTRAL_EXPERTS,),
)

ROWS = (MINIMAX_TEXT_01,)
