"""SigLIP's encoders for images of any shape, between limits of pixels: PaddleOCR-VL, HunyuanOCR,
Phi-4."""

from __future__ import annotations

import re
from math import isqrt
from typing import TYPE_CHECKING, Any

from mbuild.convert.projectors.qwen_vl import min_max_pixels
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    GELU,
    U32,
    Projector,
    TowerRule,
    drop,
    each,
    epsilon,
    follow,
    key,
    kind,
    only,
    rename,
)
from mbuild.convert.rows.towers import BLOCKS
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers

# PaddleOCR-VL.


def _paddle_vision(towers: Towers) -> Mapping[str, Any]:
    side = isqrt(towers.processor.integer("max_pixels"))
    return {**towers.root.section("vision_config").values, "image_size": side}


_LEAST, _MOST = min_max_pixels()

PADDLE_OCR = Projector(
    names=("PaddleOCRVisionModel", "PaddleOCRVLForConditionalGeneration"),
    takes=only(
        inside=("vision_model", "mlp_AR"),
        drop=("packing_position_embedding", "vision_model.head"),
        replaced=(("visual.", "model."),),
    ),
    vision=_paddle_vision,
    keys=(kind("paddleocr"), _MOST, _LEAST, GELU, epsilon(1e-6, "rms_norm_eps")),
    needs=p.SIGLIP
    + p.POST_NORM
    + p.POST_NORM_BIAS
    + """
        mm.input_norm width
        mm.input_norm.bias width
        mm.1 free free
        mm.1.bias free
        mm.2 free text
        mm.2.bias text
    """,
)


# HunyuanOCR.


def _hunyuan_vision(towers: Towers) -> Mapping[str, Any]:
    found = towers.root.section("vision_config").values
    return {"image_size": found.get("max_image_size", 2048), **found}


HUNYUAN_VL = Projector(
    names=("HunYuanVLForConditionalGeneration",),
    takes=only("vit.", started=(("model.vit.", "vit."),)),
    vision=_hunyuan_vision,
    keys=(
        kind("hunyuanvl"),
        GELU,
        epsilon(1e-5, "rms_norm_eps"),
        key(
            "vision.spatial_merge_size",
            U32,
            lambda towers: towers.sight.integer("spatial_merge_size", default=2),
        ),
        _LEAST,
        _MOST,
    ),
    rules=(each("position_embedding", lambda towers, lazy: lazy.slice(0, 1)),),
    forced=(follow(r"mm\.[02]\..*\.?weight$"),),
    needs=p.PATCHES
    + p.POSITIONS
    + p.block()
    + "mm.0 free free free free\nmm.2 free free free free\n",
)


# Phi-4.


def _phi_vision(towers: Towers) -> Mapping[str, Any]:
    """One layer fewer than there are: the output of the last but one counts."""
    vision = towers.root.section("vision_config")
    name = next((name for name in BLOCKS if name in vision), BLOCKS[0])
    patch = towers.processor.integer("patch_size", low=1)
    ending = "vision_model.embeddings.position_embedding.weight"
    positions = next((t for n, t in towers.tensors.items() if n.endswith(ending)), None)
    count = positions.shape[0] if positions is not None and positions.shape else 0
    side = isqrt(count)
    if not count or side * side != count:
        raise FormatError(f"the encoder has {count} position embeddings, which make no square")
    layers = vision.integer(*BLOCKS, low=2) - 1
    return {**vision.values, name: layers, "patch_size": patch, "image_size": side * patch}


def _phi_pixels(name: str) -> Callable[[Towers], int]:
    def compute(towers: Towers) -> int:
        count = towers.processor if name in towers.processor else towers.root
        return count.integer(name) * towers.sight.integer("patch_size") ** 2

    return compute


def _phi_layers(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    match = re.search(r"\.layers\.(\d+)\.", name)
    last = match is not None and int(match[1]) == towers.sight.integer(*BLOCKS)
    return [] if last else [(name, lazy)]


def _phi_patches(towers: Towers, lazy: Lazy) -> Lazy:
    lazy.need_dims(2)
    side = towers.sight.integer("patch_size", low=1)
    rows, columns = lazy.shape
    if columns % (side * side):
        raise FormatError(f"{lazy.origin}: {columns} columns are not patches of {side} by {side}")
    return lazy.reshape(rows, side, side, columns // (side * side)).transpose(0, 3, 1, 2)


PHI4 = Projector(
    names=("Phi4ForCausalLMV",),
    takes=only(
        *("vision_tower.", "model.mm_projector.", "mm_projector."),
        started=(("model.vision_tower.vision_tower.", "vision_tower."),),
        drop=(".vision_model.head.", ".vision_model.post_layernorm."),
    ),
    vision=_phi_vision,
    keys=(
        kind("phi4"),
        key("vision.image_min_pixels", U32, _phi_pixels("min_num_patches")),
        key("vision.image_max_pixels", U32, _phi_pixels("max_num_patches")),
        GELU,
        epsilon(1e-6, "layer_norm_eps"),
    ),
    rules=(
        each(r"^vision_tower.*vision_model\.embeddings\.patch_embedding\.weight$", _phi_patches),
        TowerRule(regex(r"^vision_tower\."), _phi_layers),
        rename(r"mm_projector\.[02]\.", ("model.mm_projector.", "mm."), ("mm_projector.", "mm.")),
        drop(r"mm_projector\."),
    ),
    needs=p.SIGLIP + "mm.0 free free\nmm.0.bias free\nmm.2 free text\nmm.2.bias text\n",
)

ROWS = (PADDLE_OCR, HUNYUAN_VL, PHI4)
