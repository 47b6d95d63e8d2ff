"""Granite's encoders: of sound, a conformer and a q-former; of images, SigLIP and q-formers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.conformer import depthwise, folded, pointwise
from mbuild.convert.rows.projector import (
    GELU,
    I32,
    U32,
    Projector,
    TowerRule,
    each,
    epsilon,
    force,
    key,
    kind,
    mels,
    only,
    parts,
    without,
)
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Section, Towers


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
    takes=only(
        "encoder.",
        "projector.",
        "model.encoder.",
        "model.projector.",
        started=(("model.encoder.", "encoder."), ("model.projector.", "projector.")),
        drop=("attention_dists", "num_batches_tracked"),
    ),
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

# Granite 4 Vision: a projector for each layer of the text model that takes something.


class _Tap(NamedTuple):
    """One projector: the layers that it joins, its kind, and its number among those of its kind."""

    vision: int
    text: int
    kind: str
    number: int


def taps(root: Section) -> list[_Tap]:
    """All projectors, by the layer of the text model."""
    texts = root.section("text_config").integer("num_hidden_layers", low=1)
    count = root.section("vision_config").integer("num_hidden_layers", low=1)
    found = []
    for number, pair in enumerate(sorted(_pairs(root, "deepstack_layer_map"))):
        found.append(_Tap(pair[0] % count, pair[1] % texts, "layerwise", number))
    last = root.value("spatial_vision_layer")
    last = -1 if last is None else last
    targets = root.value("spatial_target_layers") or []
    if type(last) is not int or not isinstance(targets, list):
        raise FormatError(
            "config.json: spatial_vision_layer or spatial_target_layers is not a layer"
        )
    for number, layer in enumerate(targets):
        if type(layer) is not int:
            raise FormatError("config.json: spatial_target_layers is not a list of layers")
        found.append(_Tap(last % count, layer, "spatial", number))
    return sorted(found, key=lambda tap: tap.text)


def _pairs(root: Section, name: str) -> list[list[int]]:
    value = root.value(name) or []
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
        for pair in value
    ):
        raise FormatError(f"config.json: {name} is not a list of pairs")
    return value


def _rate(number: int) -> Callable[[Towers], int]:
    def compute(towers: Towers) -> int:
        parts = towers.root.text("downsample_rate").split("/")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise FormatError("config.json: downsample_rate is not a fraction such as 4/8")
        return int(parts[number])

    return compute


def _pinpoints(towers: Towers) -> list[int] | None:
    pairs = _pairs(towers.root, "image_grid_pinpoints")
    return [side for height, width in pairs for side in (width, height)] or None


_TAPPED = regex(r"^model\.(layerwise|spatial)_projectors\.(\d+)\.")


def _numbered(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """A projector's tensor under its place among all projectors."""
    match = _TAPPED.match(name)
    places = [(tap.kind, tap.number) for tap in taps(towers.root)]
    if match is None or (match[1], int(match[2])) not in places:
        raise FormatError(f"{lazy.origin} is of no projector that config.json names")
    place = places.index((match[1], int(match[2])))
    stem, rest = name[: match.start(2)], name[match.end() :]
    layer = re.search(r"\.\d+\.", rest)
    if layer is None:
        return [(f"{stem}{place}.{rest}", lazy)]
    return [(f"{stem}{rest[: layer.start()]}.{place}.{rest[layer.end() :]}", lazy)]


GRANITE4_VISION = Projector(
    names=("Granite4VisionForConditionalGeneration",),
    takes=without("lm_head", drop=("vision_model.head",)),
    keys=(
        kind("granite4_vision"),
        epsilon(1e-6, "layer_norm_eps"),
        GELU,
        key(
            "vision.preproc_image_size",
            U32,
            lambda towers: towers.sight.integer("image_size", default=384),
        ),
        key("vision.projector.query_side", U32, _rate(0)),
        key("vision.projector.window_side", U32, _rate(1)),
        key("vision.feature_layer", U32, lambda t: [tap.vision for tap in taps(t.root)]),
        key(
            "vision.projector.spatial_offsets",
            I32,
            lambda t: [tap.number if tap.kind == "spatial" else -1 for tap in taps(t.root)],
        ),
        key("vision.image_grid_pinpoints", U32, _pinpoints),
    ),
    rules=(TowerRule(_TAPPED, _numbered),),
    needs=p.SIGLIP + "v.proj_blk.0.query. free free free\n",
)

ROWS = (GRANITE_SPEECH, GRANITE_SPEECH_PLUS, GRANITE4_VISION)
