"""T5, Flan-T5, mT5 and UMT5, and their encoders alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BLOCK_COUNT, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.parts import EMBEDDING, RMS
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.keys import KeyRule
    from mbuild.convert.rows.layout import Where
    from mbuild.convert.rows.sizes import Sizes

_ATTENTION = """
    {0}attn_norm width
    {0}attn_q width heads*key
    {0}attn_k width heads*key
    {0}attn_v width heads*value
    {0}attn_o heads*value width
"""
_FEED_FORWARD = """
    {0}ffn_norm width
    ?{0}gated {0}ffn_gate width ff
    {0}ffn_up width ff
    {0}ffn_down ff width
"""


def _stack(prefix: str, there: Where, *, crossed: bool = False) -> tuple[Group, ...]:
    """The layers of one half; the positions of later ones may be those of the first."""
    attention = _ATTENTION.format(prefix)
    cross = _ATTENTION.format(f"{prefix}cross_") if crossed else ""
    bias = f"{prefix}attn_rel_b heads buckets"

    def first(sizes: Sizes, layer: int) -> bool:
        return there(sizes, layer) and layer == 0

    def later(sizes: Sizes, layer: int) -> bool:
        return there(sizes, layer) and layer > 0

    return (
        Group(slots(attention + cross + _FEED_FORWARD.format(prefix)), there),
        Group(slots(bias), first),
        Group(slots(f"?{prefix}later {bias}"), later),
    )


def _decoded(sizes: Sizes, layer: int) -> bool:
    count = sizes.value("decoder", layer)
    return layer < (count if count is not None else 0)


def _decoder_layers(config: Mapping[str, Any]) -> Any:
    return config.get("num_layers")


_ENCODER = _stack("enc.", lambda sizes, layer: True)
_HEAD = slots("? output width tokens")
_KEYS: tuple[KeyRule, ...] = (
    u32("context_length", "n_positions", low=1, default=512),
    u32("embedding_length", "d_model", low=1, required=True),
    u32("feed_forward_length", "d_ff", low=1, required=True),
    BLOCK_COUNT,
    u32("attention.head_count", "num_heads", low=1, required=True),
    u32("attention.key_length", "d_kv", low=1, required=True),
    u32("attention.value_length", "d_kv", low=1, required=True),
    f32("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
    u32("attention.relative_buckets_count", "relative_attention_num_buckets", required=True),
    f32("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
)
_VALUES = {
    "d_kv": 64,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "vocab_size": 32128,
}

T5 = Family(
    gguf="t5",
    names=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    vocabulary=VocabRule((Reader.T5,)),
    keys=(
        *_KEYS[:4],
        u32("decoder_block_count", "num_decoder_layers"),
        *_KEYS[4:],
        u32("decoder_start_token_id", "decoder_start_token_id", required=True),
        file_type,
    ),
    layout=TensorLayout(
        (*EMBEDDING, *_HEAD, *slots("enc.output_norm width\ndec.output_norm width")),
        (*_ENCODER, *_stack("dec.", _decoded, crossed=True)),
        (*RMS, "attention.relative_buckets_count"),
    ),
    hf=HFConfig("t5", values=_VALUES, fills={"num_decoder_layers": _decoder_layers}, theta=None),
    alike=("decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "shared.weight"),
)

_MULTILINGUAL = {**_VALUES, "vocab_size": 250112, "decoder_start_token_id": 0}

MT5 = replace(
    T5,
    names=("MT5ForConditionalGeneration",),
    hf=replace(T5.hf, model_type="mt5", values=_MULTILINGUAL),
)

UMT5 = replace(
    T5,
    names=("UMT5ForConditionalGeneration", "UMT5Model"),
    hf=replace(T5.hf, model_type="umt5", values=_MULTILINGUAL),
)

T5_ENCODER = replace(
    T5,
    gguf="t5encoder",
    names=("T5EncoderModel",),
    keys=(*_KEYS, file_type),
    layout=TensorLayout(
        (*EMBEDDING, *_HEAD, *slots("enc.output_norm width")), _ENCODER, T5.layout.keys
    ),
)

ROWS = (T5, MT5, UMT5, T5_ENCODER)
