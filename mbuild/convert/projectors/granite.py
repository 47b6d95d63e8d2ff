"""Granite's encoder of sound: a conformer and a q-former."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.conformer import depthwise, folded, pointwise
from mbuild.convert.rows.projector import (
    U32,
    Projector,
    drop,
    each,
    epsilon,
    force,
    key,
    kind,
    mels,
    only,
    parts,
)
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers


def _encoder(towers: Towers) -> Mapping[str, Any] | None:
    given = towers.root.section("encoder_config")
    if not given.values:
        return None
    width = given.integer("hidden_dim", low=1)
    return {
        **given.values,
        "hidden_size": width,
        "intermediate_size": width * given.integer("feedforward_mult", low=1),
        "num_attention_heads": given.integer("num_heads", low=1),
        "num_hidden_layers": given.integer("num_layers", low=1),
    }


def _of_encoder(name: str) -> Callable[[Towers], int]:
    return lambda towers: towers.hearing.integer(name)


def _of_root(name: str) -> Callable[[Towers], int]:
    return lambda towers: towers.root.integer(name)


def _heads(towers: Towers) -> int:
    return towers.root.section("projector_config").integer("num_attention_heads")


def _if_three(change: Callable[[Towers, Lazy], Lazy]) -> Callable[[Towers, Lazy], Lazy]:
    return lambda towers, lazy: change(towers, lazy) if len(lazy.shape) == 3 else lazy


GRANITE_SPEECH = Projector(
    names=("GraniteSpeechForConditionalGeneration",),
    takes=only("encoder.", "projector.", "model.encoder.", "model.projector.",
               started=(("model.encoder.", "encoder."), ("model.projector.", "projector.")),
               drop=("attention_dists", "num_batches_tracked")),
    vision=None,
    audio=_encoder,
    keys=(
        kind("granite_speech"),
        mels("input_dim"),
        epsilon(1e-5, audio=True),
        key("audio.chunk_size", U32, _of_encoder("context_size")),
        key("audio.conv_kernel_size", U32, _of_encoder("conv_kernel_size")),
        key("audio.max_pos_emb", U32, _of_encoder("max_pos_emb")),
        key("audio.projector.window_size", U32, _of_root("window_size")),
        key("audio.projector.downsample_rate", U32, _of_root("downsample_rate")),
        key("audio.projector.head_count", U32, _heads),
    ),
    rules=(
        folded(r"encoder\.layers\.\d+\..*batch_norm\."),
        parts(r"\.attn\.to_kv\.weight$", "to_kv", ("to_k", "to_v")),
        each(r"(up_conv|down_conv).*\.weight$", _if_three(pointwise)),
        each(r"depth_conv.*\.weight$", _if_three(depthwise)),
    ),
    forced=(force(r"(encoder|projector).*\.conv.*\.weight|\.conv.*(encoder|projector).*\.weight"),),
    needs="""
        a.input_projection mels width
        a.input_projection.bias width
        a.blk.ln1 width
        a.blk.attn_q width free
        a.blk.attn_k width free
        a.blk.attn_v width free
        a.blk.attn_out free width
        a.blk.attn_rel_pos_emb. free free
        a.blk.conv_dw free free
        a.blk.conv_pw1 width free
        a.blk.conv_pw2 free width
        a.blk.ffn_up width free
        a.blk.ffn_down free width
        a.blk.ffn_up_1 width free
        a.blk.ffn_down_1 free width
        a.blk.ln2 width
    """,
)


def _features(towers: Towers) -> list[int] | None:
    """The layers whose outputs the projector takes beside the last one's."""
    layers = towers.hearing.integers("cat_hidden_layers")
    if not layers:
        return None
    width = towers.hearing.integer("hidden_dim") * (len(layers) + 1)
    said = towers.root.section("projector_config").integer("encoder_hidden_size")
    if said != width:
        raise FormatError(
            f"config.json: projector_config.encoder_hidden_size is {said}, but cat_hidden_layers"
            f" makes {width}"
        )
    return layers


GRANITE_SPEECH_PLUS = replace(
    GRANITE_SPEECH,
    names=("GraniteSpeechPlusForConditionalGeneration",),
    keys=(*GRANITE_SPEECH.keys, key("audio.feature_layer", U32, _features)),
)

ROWS = (GRANITE_SPEECH, GRANITE_SPEECH_PLUS)
