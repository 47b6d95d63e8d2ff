"""Encoders that are SigLIP's or CLIP's with projectors of their own: InternVL, SmolVLM, Llama 4,
LFM2-VL, Janus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    GELU,
    U32,
    Projector,
    TowerRule,
    each,
    epsilon,
    force,
    key,
    kind,
    only,
    parts,
    rename,
)
from mbuild.convert.rows.towers import BLOCKS
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers


def unshuffle(towers: Towers) -> int:
    """How many patches on a side become one token."""
    return _inverse(towers.root.number("downsample_ratio"), "downsample_ratio")


def _inverse(ratio: float, name: str) -> int:
    if not 1e-3 < ratio <= 1:
        raise FormatError(f"config.json: {name} is {ratio}; a share between 0 and 1 is needed")
    return int(1.0 / ratio)


SCALE = "vision.projector.scale_factor"


# InternVL.

_INTERN_S1 = {
    "layer_norm.bias": "0.bias",
    "layer_norm.weight": "0.weight",
    "linear_1.bias": "1.bias",
    "linear_1.weight": "1.weight",
    "linear_2.bias": "3.bias",
    "linear_2.weight": "3.weight",
}
_MOVED = tuple(
    (f"model.multi_modal_projector.{old}", f"mlp1.{new}") for old, new in _INTERN_S1.items()
)


def _intern(name: str) -> str | None:
    """InternVL's names, and those of transformers' own class of it."""
    name = (
        {
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        }.get(name.split(".")[0] + ".", "")
        + name.partition(".")[2]
        if name.startswith(("vision_tower.", "multi_modal_projector."))
        else name
    )
    kept = only("vision_model", "mlp", "model.vision_tower", "model.multi_modal_projector")(name)
    if kept is None:
        return None
    name = dict(_MOVED).get(kept, kept)
    if name.startswith("vision_model"):
        name = f"vision_tower.{name}"
    scales = (".ls", ".lambda_", "position_embedding")
    if any(each in name for each in scales) and not name.endswith(".weight"):
        name += ".weight"
    return name


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _intern_vision(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    sides = {name: _first(found.get(name)) for name in ("image_size", "patch_size")}
    return {**found, **sides} if found else None


def _tiles(name: str) -> Callable[[Towers], int | None]:
    return lambda towers: towers.root.integer(name, default=0) or None


INTERN_VL = Projector(
    names=("InternVisionModel", "InternVLForConditionalGeneration"),
    takes=_intern,
    vision=_intern_vision,
    keys=(
        kind("internvl"),
        epsilon(None, "layer_norm_eps"),
        p.activation(needed=True),
        key(SCALE, U32, unshuffle),
        key("vision.preproc_min_tiles", U32, _tiles("min_dynamic_patch")),
        key("vision.preproc_max_tiles", U32, _tiles("max_dynamic_patch")),
    ),
    rules=(parts(r"\.qkv\.", "attn.qkv", [f"self_attn.{each}_proj" for each in "qkv"]),),
    forced=(force(r"\.position_embd\.", gguf=True),),
    needs=p.PATCHES
    + p.PATCH_BIAS
    + p.POSITIONS
    + p.block(norm_bias=False)
    + """
        v.class_embd. width free free
        mm.model.mlp.0 width*4
        mm.model.mlp.0.bias width*4
        mm.model.mlp.1 width*4 free
        mm.model.mlp.3 free text
    """,
)


# Idefics 3 and SmolVLM.


def _longest(towers: Towers) -> int:
    size = towers.processor.section("size")
    return size.integer("longest_edge", default=towers.sight.integer("image_size"))


IDEFICS3 = Projector(
    names=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    takes=only(inside=("vision_tower", "vision_model", "model.connector")),
    keys=(
        kind("idefics3"),
        epsilon(1e-5, "layer_norm_eps"),
        key(SCALE, U32, lambda towers: towers.root.integer("scale_factor", default=2)),
        GELU,
        key("vision.preproc_image_size", U32, _longest),
    ),
    forced=(force(r"\.embeddings\."),),
    needs=p.SIGLIP + p.POST_NORM + p.POST_NORM_BIAS + "mm.model.fc free text\n",
)


# Llama 4.


def _shuffle(towers: Towers) -> int:
    return _inverse(towers.sight.number("pixel_shuffle_ratio"), "pixel_shuffle_ratio")


def _llama4(name: str) -> str | None:
    kept = only(inside=("multi_modal_projector", "vision_model"))(name)
    if kept and "positional_embedding_vlm" in kept and ".weight" not in kept:
        kept += ".weight"
    return kept


LLAMA4 = Projector(
    names=("Llama4ForConditionalGeneration",),
    takes=_llama4,
    keys=(
        kind("llama4"),
        epsilon(None, "norm_eps"),
        key(SCALE, U32, _shuffle),
        p.activation(needed=True),
    ),
    rules=(
        rename(
            r"multi_modal_projector\.linear_1\.weight$",
            ("model.multi_modal_projector.linear_1", "mm.model.fc"),
            ("multi_modal_projector.linear_1", "mm.model.fc"),
        ),
    ),
    needs=p.POSITIONS
    + p.block(bias="q k v out", norms="ln1 attn_post_norm")
    + """
        v.patch_embd free width
        v.class_embd. width
        v.pre_ln width
        v.pre_ln.bias width
        v.post_ln width
        v.post_ln.bias width
        mm.model.mlp.1 free free
        mm.model.mlp.2 free free
        mm.model.fc free text
    """,
)


# LFM2-VL.


def _patch_matrix(towers: Towers, lazy: Lazy) -> Lazy:
    """A matrix over the pixels of a patch, their colours side by side, as a convolution."""
    lazy.need_dims(2) if len(lazy.shape) != 4 else None
    rows, side = lazy.shape[0], 16
    return lazy.reshape(rows, side, side, 3).transpose(0, 3, 1, 2)


def _kept_layers(towers: Towers) -> int:
    """The number of layers up to the one whose output counts, given from the end."""
    layer = towers.root.value("vision_feature_layer")
    last = -1 if layer is None else layer
    count = towers.sight.integer(*BLOCKS)
    if type(last) is not int or not -count <= last < 0:
        raise FormatError(f"config.json: vision_feature_layer is {str(last)[:40]}")
    return count + 1 + last


LFM2_VL = Projector(
    names=("Lfm2VlForConditionalGeneration",),
    takes=only(
        *("vision_tower.", "multi_modal_projector."),
        started=(
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
        ),
    ),
    vision=lambda towers: {**towers.root.section("vision_config").values, "image_size": 256},
    keys=(
        kind("lfm2"),
        epsilon(None, "layer_norm_eps"),
        key(SCALE, U32, lambda towers: towers.root.integer("downsample_factor", default=2)),
        GELU,
        key("vision.block_count", U32, _kept_layers),
    ),
    rules=(each(r"patch_embedding\.weight", _patch_matrix),),
    needs=p.SIGLIP
    + """
        mm.1 free free
        mm.1.bias free
        mm.2 free text
        mm.2.bias text
    """,
)


# Janus.


def _janus_vision(towers: Towers) -> Mapping[str, Any] | None:
    vision = towers.root.section("vision_config")
    if not vision.values or "intermediate_size" in vision:
        return vision.values or None
    width = vision.integer("hidden_size", low=1)
    return {**vision.values, "intermediate_size": round(width * vision.number("mlp_ratio"))}


def _aligner(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    match = re.search(r"aligner\.(?:fc1|hidden_layers\.(\d+))\.(?:.*\.)?(weight|bias)$", name)
    if match is None:
        raise FormatError(f"{lazy.origin} is not a layer of Janus's aligner")
    number = 0 if match[1] is None else int(match[1]) + 1
    return [(f"mm.{number}.{match[2]}", lazy)]


JANUS = Projector(
    names=("JanusForConditionalGeneration",),
    takes=only("vision_model.", "model.vision_model.", "aligner.", "model.aligner."),
    vision=_janus_vision,
    keys=(kind("janus_pro"), epsilon(1e-6, "layer_norm_eps"), p.activation()),
    rules=(TowerRule(regex(r"^(model\.)?aligner\."), _aligner),),
    needs=p.SIGLIP + "mm.0 width free\nmm.0.bias free\n",
)


ROWS = (INTERN_VL, IDEFICS3, LLAMA4, LFM2_VL, JANUS)
