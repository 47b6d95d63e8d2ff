"""Gemma 3: SigLIP, and an average pooling in front of the projection."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    GELU,
    U32,
    Projector,
    each,
    epsilon,
    force,
    key,
    kind,
    only,
    plus_one,
)
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from mbuild.convert.rows.towers import Towers


def pooling(towers: Towers) -> int | None:
    """How many patches on a side become one token; 4 goes without saying."""
    tokens = towers.processor.integer("image_seq_length", low=1, default=256)
    image, patch = (towers.sight.integer(name, low=1) for name in ("image_size", "patch_size"))
    factor = image // patch // isqrt(tokens)
    return factor if factor not in (0, 4) else None


ROWS = (
    Projector(
        names=("Gemma3ForConditionalGeneration",),
        takes=only(
            *("multi_modal_projector.", "vision_tower.", "multimodal_projector.", "vision_model."),
            started=(
                ("model.multi_modal_projector.", "multi_modal_projector."),
                ("model.vision_tower.", "vision_tower."),
            ),
            drop=("vision_model.head.",),
            replaced=(("_weight", ".weight"),),
        ),
        keys=(
            kind("gemma3"),
            epsilon(1e-6, "layer_norm_eps"),
            GELU,
            key("vision.projector.scale_factor", U32, pooling),
        ),
        rules=(each(r"soft_emb_norm\.weight", plus_one),),
        forced=(force("input_projection", GGMLType.F16), force(r"\.embeddings\.")),
        needs=p.SIGLIP
        + p.POST_NORM
        + p.POST_NORM_BIAS
        + """
            mm.input_projection text width
            mm.soft_emb_norm width
        """,
    ),
)
