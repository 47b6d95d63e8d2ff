"""MoonViT: the encoders of Kimi-VL, Kimi-K2.5 and GLM-5V."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import ShapeError
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    BOOL,
    F32,
    GELU,
    U32,
    Projector,
    TowerRule,
    constant,
    each,
    epsilon,
    key,
    kind,
    only,
    parts,
    rename,
)
from mbuild.convert.rows.towers import part
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.projector import TowerKey
    from mbuild.convert.rows.towers import Towers


def _flat(towers: Towers, lazy: Lazy) -> Lazy:
    """Positions of a grid, row by row."""
    lazy.need_dims(3)
    return lazy.reshape(lazy.shape[0] * lazy.shape[1], lazy.shape[2])


_BLOCK = """
    v.blk.attn_out width width
    v.blk.ln1 width
    v.blk.ln2 width
    v.blk.ffn_up width free
    v.blk.ffn_down free width
    mm.input_norm width
    mm.1 free free
    mm.1.bias free
    mm.2 free text
    mm.2.bias text
"""

KIMI_VL = Projector(
    names=("KimiVLForConditionalGeneration",),
    takes=only(inside=("vision_tower", "multi_modal_projector")),
    vision=part("vision_config", fixed={"image_size": 64 * 14}),
    keys=(
        kind("kimivl"),
        GELU,
        constant("vision.projector.scale_factor", U32, 2),
        epsilon(1e-5, "layer_norm_eps"),
    ),
    rules=(
        each(r"pos_emb\.weight", _flat),
        parts("wqkv", "wqkv", ("wq", "wk", "wv")),
    ),
    needs=p.PATCHES
    + p.POSITIONS
    + "v.blk.attn_q width width\nv.blk.attn_k width width\nv.blk.attn_v width width\n"
    + _BLOCK,
)


def _grid(towers: Towers) -> Mapping[str, Any] | None:
    vision = towers.root.section("vision_config")
    if not vision.values:
        return None
    side = vision.integer("init_pos_emb_height", default=64)
    return {
        "patch_size": 14,
        **vision.values,
        "image_size": side * vision.integer("patch_size", default=14),
    }


def _bare(name: str, source: str, default: int) -> TowerKey:
    """A key without ``clip.`` in front, as the runtime reads it."""

    def rule(towers: Towers) -> Iterator[KV]:
        yield KV(f"vision.{name}", ValueType.UINT32, towers.sight.integer(source, default=default))

    return rule


def _patches(count: int | None) -> Any:
    def compute(towers: Towers) -> int:
        most = towers.processor.integer("in_patch_limit", default=16384) if count is None else count
        return most * towers.sight.integer("patch_size") ** 2

    return compute


def _kernel(towers: Towers) -> int:
    return (towers.sight.integers("merge_kernel_size") or [2, 2])[0]


def _split_rope(towers: Towers, name: str, lazy: Lazy) -> Iterator[tuple[str, Lazy]]:
    """Rows of queries and keys from pairs of x and y side by side to all x, then all y."""
    rows = lazy.shape[0] // 3 if lazy.shape else 0
    heads = towers.sight.integer("num_attention_heads", low=1, default=16)
    if not rows or lazy.shape[0] % 3 or rows % (heads * 4):
        raise ShapeError(
            f"{lazy.origin}: {lazy.shape[0]} rows are not {heads} heads of pairs of pairs"
        )

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        rest = values.shape[1:]
        both = values[: 2 * rows].reshape(2 * heads, rows // heads // 4, 2, 2, -1)
        turned = both.transpose(0, 2, 1, 3, 4).reshape(2 * rows, *rest)
        return np.concatenate([turned, values[2 * rows :]])

    yield name, lazy.move(lazy.shape, change)


KIMI_K25 = Projector(
    names=("KimiK25ForConditionalGeneration",),
    takes=only(inside=("vision_tower", "mm_projector")),
    vision=_grid,
    keys=(
        kind("kimik25"),
        _bare("pos_emb_height", "init_pos_emb_height", 64),
        _bare("pos_emb_width", "init_pos_emb_width", 64),
        _bare("pos_emb_time", "init_pos_emb_time", 4),
        key(
            "use_gelu",
            BOOL,
            lambda towers: towers.sight.text("projector_hidden_act", default="gelu") == "gelu",
        ),
        key(
            "vision.attention.layer_norm_epsilon",
            F32,
            lambda towers: towers.sight.number("projector_ln_eps", default=1e-5),
        ),
        key("vision.projector.scale_factor", U32, _kernel),
        key("vision.image_min_pixels", U32, _patches(8)),
        key("vision.image_max_pixels", U32, _patches(None)),
    ),
    rules=(
        TowerRule(regex("wqkv"), _split_rope),
        rename(r"mm_projector\.proj\.0\.", (".proj.0.", ".proj.linear_1.")),
        rename(r"mm_projector\.proj\.2\.", (".proj.2.", ".proj.linear_2.")),
    ),
    needs=p.PATCHES + "v.blk.attn_qkv width width*3\n" + _BLOCK,
)

GLM_5V = replace(
    KIMI_K25,
    names=("Glm5vForConditionalGeneration",),
    rules=(
        rename(r"^mm_projector\.linear_", ("mm_projector.linear_", "mm_projector.proj.linear_")),
        *KIMI_K25.rules,
    ),
)

ROWS = (KIMI_VL, KIMI_K25, GLM_5V)
