"""Encoders of models that read documents: DeepSeek-OCR, dots.ocr, and CogVLM, which they follow."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from mbuild.convert.projectors.qwen_vl import min_max_pixels
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    GELU,
    SILU,
    U32,
    Projector,
    constant,
    each,
    epsilon,
    force,
    key,
    kind,
    only,
    without,
)
from mbuild.convert.rows.towers import part
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mbuild.convert.rows.towers import Towers

# DeepSeek-OCR: SAM in front of CLIP.


def _deepseek_vision(towers: Towers) -> Mapping[str, Any] | None:
    """The parts of ``width`` laid flat; llama.cpp's converter takes four times the number of heads
    as the feed-forward length."""
    vision = towers.root.section("vision_config")
    if not vision.values:
        return None
    widths = vision.section("width")
    found = {**vision.values, "sam": widths.section("sam_vit_b").values}
    found |= widths.section("clip-l-14-224").values
    if type(found.get("width")) is int:
        found["hidden_size"] = found["width"]
    heads = found.get("heads")
    if type(heads) is int:
        found |= {"num_heads": heads, "intermediate_size": heads * 4}
    return found


def _scale(towers: Towers) -> int | None:
    """How many patches on a side become one token, where that is not 4."""
    vision, tokens = towers.sight, towers.processor.integer("image_seq_length", low=1, default=256)
    side = vision.integer("image_size") // vision.integer("patch_size", low=1)
    factor = side // isqrt(tokens)
    return factor if factor not in (0, 4) else None


def _sam(name: str) -> Callable[[Towers], int]:
    return lambda towers: towers.sight.section("sam").integer(name)


def _named(name: str) -> str:
    return f"{name}.weight" if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")) else name


def _deepseek(tiles: int, name: str = "deepseekocr") -> tuple[Any, ...]:
    return (
        kind(name),
        epsilon(1e-6, "layer_norm_eps"),
        GELU,
        key("vision.projector.scale_factor", U32, _scale),
        key("vision.window_size", U32, lambda t: t.sight.integer("window_size", default=14)),
        constant("vision.preproc_min_tiles", U32, 2),
        constant("vision.preproc_max_tiles", U32, tiles),
        key("vision.sam.block_count", U32, _sam("layers")),
        key("vision.sam.embedding_length", U32, _sam("width")),
        key("vision.sam.head_count", U32, _sam("heads")),
    )


DEEPSEEK_OCR = Projector(
    names=("DeepseekOCRForCausalLM",),
    takes=without(
        *("lm_head.", "model.embed_tokens.", "model.layers.", "model.norm."), then=_named
    ),
    vision=_deepseek_vision,
    keys=_deepseek(9),
    rules=(each("view_seperator$", lambda towers, lazy: lazy.reshape(1, *lazy.shape)),),
    forced=(force(r"\.embeddings\.|pos_embed|\.rel_pos_[hw]|\.neck\.|\.net_"),),
    needs="""
        v.blk.attn_qkv free free
        v.blk.attn_out free free
        v.blk.ffn_up free free
        v.blk.ffn_down free free
        v.sam.patch_embd.weight free free 3 free
        v.sam.pos_embd.weight free free free free
        v.view_seperator. free free
        mm.model.fc free text
    """,
)

UNLIMITED_OCR = replace(DEEPSEEK_OCR, names=("UnlimitedOCRForCausalLM",), keys=_deepseek(32))


def _deepseek2_vision(towers: Towers) -> Mapping[str, Any] | None:
    found = _deepseek_vision(towers)
    if found is None:
        return None
    inner = towers.root.section("vision_config").section("width").section("qwen2-0-5b")
    layers = found.get("layers")
    return {
        **found,
        "hidden_size": inner.integer("dim", low=1),
        "layers": 24 if layers is None else layers,
        "patch_size": found.get("patch_size") or 16,
        "intermediate_size": found.get("intermediate_size") or 4864,
        "num_attention_heads": found.get("num_attention_heads") or 14,
    }


DEEPSEEK_OCR2 = replace(
    DEEPSEEK_OCR,
    names=("DeepseekOCR2ForCausalLM",),
    vision=_deepseek2_vision,
    keys=(*_deepseek(6, "deepseekocr2"), constant("vision.attention.head_count_kv", U32, 2)),
    needs="v.sam.patch_embd.weight free free 3 free\nmm.model.fc free text\n",
)


# dots.ocr.


def _dots(name: str) -> str | None:
    """With the names of Qwen2.5-VL in the feed-forward networks."""
    kept = only("vision_tower.")(name)
    if kept is None or "vision_tower.blocks." not in kept or ".mlp." not in kept:
        return kept
    kept = kept.replace("vision_tower.blocks.", "visual.blocks.")
    for old, new in ((".fc1", ".gate_proj"), (".fc2", ".down_proj"), (".fc3", ".up_proj")):
        kept = kept.replace(old, new)
    return kept


def _merge(towers: Towers) -> int:
    return towers.sight.integer("spatial_merge_size")


DOTS_OCR = Projector(
    names=("DotsOCRForCausalLM",),
    takes=_dots,
    vision=part("vision_config", fixed={"image_size": 0}),
    keys=(
        kind("dots_ocr"),
        *min_max_pixels(),
        epsilon(None, "rms_norm_eps"),
        key("vision.projector.scale_factor", U32, _merge),
        SILU,
    ),
    needs=p.PATCHES
    + p.block(attention="qkv", feed="gate up down", feed_bias=False, norm_bias=False)
    + "mm.0 free free\nmm.2 free text\n",
)


# CogVLM.

COGVLM = Projector(
    names=("CogVLMForCausalLM",),
    takes=only("model.vision."),
    keys=(epsilon(1e-6, "layer_norm_eps"), kind("cogvlm")),
    needs=p.PATCHES
    + p.PATCH_BIAS
    + p.POSITIONS
    + p.block(attention="qkv")
    + "mm.model.fc free free\nmm.up free free\nmm.gate free free\nmm.down free free\n",
)

ROWS = (DEEPSEEK_OCR, UNLIMITED_OCR, DEEPSEEK_OCR2, DOTS_OCR, COGVLM)
