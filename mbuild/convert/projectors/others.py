"""Encoders that are each their maker's own: MiniCPM-V, MiniMax, Step3, Youtu, Muse, DeepSeek V4."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import ShapeError
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    F32,
    GELU,
    SILU,
    U32,
    Projector,
    TowerRule,
    constant,
    drop,
    each,
    epsilon,
    follow,
    force,
    frames,
    key,
    kind,
    only,
    parts,
    rename,
    without,
)
from mbuild.convert.rows.rules import rotary
from mbuild.convert.rows.towers import part
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers
    from mbuild.gguf.model import KV

    Array = np.ndarray[Any, Any]


# MiniCPM-V 4.6.


def _mode(towers: Towers) -> str:
    mode = towers.processor.text("downsample_mode", default="16x")
    if mode not in ("4x", "16x"):
        raise UnsupportedError(f"preprocessor_config.json: downsample_mode is {mode[:40]!r}")
    return mode


def _slices(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    if not found:
        return None
    size = towers.processor.value("scale_resolution")
    return found if size is None else {**found, "image_size": int(size)}


def _insert(towers: Towers) -> list[int]:
    name = "insert_layer_id"
    section = towers.root if name in towers.root else towers.sight
    return [section.integer(name, default=6)]


MINICPM_V46 = Projector(
    names=("MiniCPMV4_6ForConditionalGeneration",),
    takes=without("lm_head.", "mtp"),
    vision=_slices,
    keys=(
        kind("minicpmv4_6"),
        key("vision.projector.scale_factor", U32, lambda t: 2 if _mode(t) == "4x" else 4),
        key("vision.wa_layer_indexes", U32, _insert),
        GELU,
        epsilon(1e-6, "layer_norm_eps"),
    ),
    rules=(
        TowerRule(
            regex(r"\.vit_merger\."),
            lambda towers, name, lazy: [] if _mode(towers) == "4x" else [(name, lazy)],
        ),
    ),
    needs=p.SIGLIP + "mm.up free free\nmm.down free text\nmm.input_norm free\n",
)


# MiniMax M3: positions on three axes.

_AXES = 3
_HEAD = 80


def _three_axes(towers: Towers, lazy: Lazy) -> Lazy:
    """Rows of each head from both halves of all axes to axis after axis."""
    import numpy as np

    heads, rows = towers.heads, lazy.shape[0] if lazy.shape else 0
    if rows != heads * _HEAD:
        raise ShapeError(f"{lazy.origin}: {rows} rows are not {heads} heads of {_HEAD}")
    half = (2 * (_HEAD // 2) // _AXES) // 2
    other = _AXES * half
    starts = [start for axis in range(_AXES) for start in (axis * half, other + axis * half)]
    order = np.concatenate([np.arange(s, s + half) for s in starts] + [np.arange(2 * other, _HEAD)])

    def change(values: Array) -> Array:
        return values.reshape(heads, _HEAD, -1)[:, order].reshape(lazy.shape)

    return lazy.move(lazy.shape, change)


def _compressed(towers: Towers) -> int:
    settings = towers.sight.section("img_token_compression_config")
    return settings.integer("spatial_merge_size", default=2)


MINIMAX_M3 = Projector(
    names=("MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3VLForConditionalGeneration"),
    takes=only("vision_tower.", "multi_modal_projector.", "patch_merge_mlp."),
    keys=(
        kind("minimax_m3"),
        GELU,
        epsilon(1e-5, "layer_norm_eps"),
        key("vision.spatial_merge_size", U32, _compressed),
    ),
    rules=(
        frames(r"^vision_tower\.vision_model\.embeddings\.patch_embedding\.weight$", None),
        each(r"\.[qk]_proj\.(weight|bias)$", _three_axes),
    ),
    needs=p.PATCHES + p.block() + "mm.1 free free\nmm.2 free free\n",
)


# Step3-VL, of one size.


def _step_vision(towers: Towers) -> Mapping[str, Any] | None:
    vision = towers.root.section("vision_config")
    if not vision.values or vision.values.get("intermediate_size"):
        return vision.values or None
    width = vision.integer("hidden_size", "width", low=1)
    ratio = vision.number("mlp_ratio", default=8960 / 1536)
    return {**vision.values, "intermediate_size": round(width * ratio)}


def _step_known(towers: Towers) -> Iterator[KV]:
    """Nothing; other sizes than those of Step3-VL-10B are refused, as by llama.cpp's converter."""
    vision = towers.sight
    found = (
        towers.root.integer("understand_projector_stride", default=0),
        vision.integer("image_size", default=0),
        vision.integer("hidden_size", "width", default=0),
        vision.integer("num_hidden_layers", "layers", default=0),
    )
    if found != (2, 728, 1536, 47):
        raise UnsupportedError(
            "the encoder is not that of Step3-VL-10B, the only one of its kind that llama.cpp runs",
            hint="to build the text half alone: --text-only",
        )
    return iter(())


def _downsampler(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    match = re.match(r"vision_model\.vit_downsampler([1-9])\.(weight|bias)$", name)
    if match is None:
        raise FormatError(f"{lazy.origin} is not a tensor of Step3's downsamplers")
    return [(f"mm.{int(match[1]) - 1}.{match[2]}", lazy)]


STEP3_VL = Projector(
    names=("StepVLForConditionalGeneration", "Step3p7ForConditionalGeneration"),
    takes=without("model.", "lm_head."),
    vision=_step_vision,
    processor_defaults={
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    keys=(
        _step_known,
        kind("step3vl"),
        epsilon(1e-5, "layer_norm_eps"),
        key(
            "vision.projector.scale_factor",
            U32,
            lambda towers: towers.root.integer("understand_projector_stride") ** 2,
        ),
        constant("vision.preproc_image_size", U32, 3024),
    ),
    rules=(
        TowerRule(regex(r"^vision_model\.vit_downsampler"), _downsampler),
        rename(r"^vit_large_projector\.weight$", ("vit_large_projector", "mm.model.fc")),
        rename(r"^vision_model\.positional_embedding$", ending=".weight"),
        rename(r"^vision_model\..*\.ls_.*\.gamma$", (".gamma", ".weight")),
        rename(
            r"^vision_model\..*attn\.in_proj_",
            ("attn.in_proj_weight", "attn.in_proj.weight"),
            ("attn.in_proj_bias", "attn.in_proj.bias"),
        ),
        rename(r"^vision_model\."),
        drop("."),
    ),
    forced=(force(r"\.position_embd\.", gguf=True), follow(r"mm\.[01]\..*weight$")),
    needs=p.PATCHES + p.POSITIONS + p.block(attention="qkv") + "mm.model.fc free text\n",
)


# Youtu-VL.


def _youtu_window(towers: Towers) -> int | None:
    vision = towers.sight
    return vision.integer("window_size") if vision.value("window_size") is not None else None


def _full_layers(towers: Towers) -> list[int]:
    if "fullatt_block_indexes" not in towers.sight:
        raise FormatError("config.json: vision_config has no fullatt_block_indexes")
    return towers.sight.integers("fullatt_block_indexes")


_GELUS = ("gelu", "gelu_pytorch_tanh", "gelu_fast", "gelu_new", "gelu_accurate")

YOUTU_VL = Projector(
    names=("YoutuVLForConditionalGeneration",),
    takes=without("lm_head.", "model.layers.", "model.embed_tokens.", "model.norm."),
    vision=part("vision_config", {"image_size": 560}),
    keys=(
        kind("youtuvl"),
        epsilon(1e-6, "layer_norm_eps"),
        p.activation(default="gelu_pytorch_tanh", gelu=_GELUS),
        key(
            "vision.spatial_merge_size",
            U32,
            lambda towers: towers.sight.integer("spatial_merge_size", default=2),
        ),
        key("vision.window_size", U32, _youtu_window),
        key("vision.wa_layer_indexes", U32, _full_layers),
    ),
    needs="v.patch_embd free width\n" + p.block(bias="q k v out"),
)


# Muse Glimmer.


def _muse_vision(towers: Towers) -> Mapping[str, Any] | None:
    vision = towers.root.section("vision_config")
    if not vision.values:
        return None
    sides = ("pos_emb_height", "patch_size", "merge_size")
    height, patch, merge = (vision.integer(name) for name in sides)
    return {**vision.values, "image_size": height * patch * merge}


def _summed(towers: Towers, lazy: Lazy) -> Lazy:
    """The patch embedding over frames, added up: every frame is the same image."""
    count, side = (towers.sight.integer(n, low=1) for n in ("patch_temporal", "patch_size"))
    rows = lazy.shape[0] if lazy.shape else 0
    slabs = lazy.reshape(rows, count, 3, side, side)
    added = slabs.slice(1, 0, 1).reshape(rows, 3, side, side)
    whole = slabs.compute(lambda values: values)

    def load() -> Any:
        return whole.load().sum(axis=1)

    return type(lazy)(whole.dtype, added.shape, load, lazy.origin)


MUSE_GLIMMER = Projector(
    names=("MuseGlimmerForConditionalGeneration",),
    takes=only("model.vision_tower.", "model.vision_adapter.", "model.vision_projection."),
    vision=_muse_vision,
    keys=(
        kind("muse-glimmer"),
        epsilon(None, "layer_norm_eps"),
        key("vision.spatial_merge_size", U32, lambda t: t.sight.integer("merge_size")),
    ),
    rules=(
        each(r"\.attn\.[qk]_proj\.", lambda towers, lazy: rotary(lazy, towers.heads)),
        each(r"patch_embedder\.patch_embedding\.weight$", _summed),
        rename(r"vision_adapter\.fc1\.", ("model.vision_adapter.fc1", "mm.0")),
        rename(r"vision_adapter\.fc2\.", ("model.vision_adapter.fc2", "mm.1")),
        rename(r"^model\.vision_projection\.\w+$", ("model.vision_projection", "mm.2")),
    ),
    needs=p.PATCHES + "mm.0 free free\nmm.1 free free\nmm.2 free text\n",
)


# DeepSeek V4 Flash.


def _deepseek_vision(towers: Towers) -> Mapping[str, Any] | None:
    root = towers.root
    if not root.value("vision_n_layers"):
        return None
    patch, ratio = root.integer("vision_patch_size"), root.integer("vision_downsample_ratio")
    return {
        "num_hidden_layers": root.integer("vision_n_layers"),
        "hidden_size": root.integer("vision_dim"),
        "num_attention_heads": root.integer("vision_n_heads"),
        "intermediate_size": root.integer("vision_inter_dim"),
        "patch_size": patch,
        "image_size": patch * ratio * 16,
    }


def _deepseek_known(towers: Towers) -> Iterator[KV]:
    """Nothing; limits that llama.cpp has in its code must be the checkpoint's."""
    limits = (towers.root.integer("vision_max_n_token"), towers.root.value("vision_max_wh_ratio"))
    if limits != (384, 8):
        raise UnsupportedError(
            f"config.json: vision_max_n_token and vision_max_wh_ratio are {limits}; llama.cpp has"
            " 384 and 8 in its code"
        )
    return iter(())


def _square(towers: Towers, lazy: Lazy) -> Lazy:
    side = towers.sight.integer("patch_size", low=1)
    return lazy.reshape(lazy.shape[0] if lazy.shape else 0, 3, side, side)


DEEPSEEK4_V = Projector(
    names=("DeepseekV4ForCausalLM",),
    takes=only("vision.", "aligner.", "image_"),
    vision=_deepseek_vision,
    processor_defaults={"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    keys=(
        kind("deepseek4v"),
        constant("vision.attention.layer_norm_epsilon", F32, 1e-6),
        SILU,
        key(
            "vision.projector.scale_factor",
            U32,
            lambda towers: towers.root.integer("vision_downsample_ratio"),
        ),
        key(
            "vision.image_min_pixels", U32, lambda towers: towers.root.integer("vision_min_pixels")
        ),
        _deepseek_known,
    ),
    rules=(
        each(r"^vision\.patch_embed\.proj\.weight$", _square),
        parts(r"\.mlp\.w1\.", "w1", ("w1_gate", "w1_up")),
    ),
    needs=p.PATCHES
    + "v.blk.ffn_gate width free\nv.blk.ffn_up width free\nv.blk.ffn_down free width\n",
)

ROWS = (MINICPM_V46, MINIMAX_M3, STEP3_VL, YOUTU_VL, MUSE_GLIMMER, DEEPSEEK4_V)
