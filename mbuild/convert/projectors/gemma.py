"""The encoders of Gemma 3, 3n and 4."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.conformer import CONFORMER_RULES, depthwise, scalar_bounds
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
    mels,
    only,
    plus_one,
    rename,
    without,
)
from mbuild.convert.rows.torch_softplus import softplus32
from mbuild.convert.rows.towers import part
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers


def pooling(towers: Towers) -> int | None:
    """How many patches on a side become one token; 4 goes without saying."""
    tokens = towers.processor.integer("image_seq_length", low=1, default=256)
    image, patch = (towers.sight.integer(name, low=1) for name in ("image_size", "patch_size"))
    factor = image // patch // isqrt(tokens)
    return factor if factor not in (0, 4) else None


GEMMA3 = Projector(
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
)


# Gemma 3n: MobileNet v5, whose blocks have two numbers, and a conformer.

_MOBILE = (
    *("conv_exp.weight", "bn1.weight", "conv_pwl.weight", "bn2.weight", "dw_start.conv.weight"),
    *("dw_start.bn.weight", "dw_mid.conv.weight", "dw_mid.bn.weight", "pw_exp.conv.weight"),
    *("pw_exp.bn.weight", "pw_proj.conv.weight", "pw_proj.bn.weight", "layer_scale.gamma"),
    *("attn.query.proj.weight", "attn.key.proj.weight", "attn.value.proj.weight"),
    *("attn.output.proj.weight", "attn.key.down_conv.weight", "attn.key.norm.weight"),
    *("attn.value.down_conv.weight", "attn.value.norm.weight", "norm.weight"),
)
_MOBILE_BLOCK = regex(r"^model\.vision_tower\.timm_model\.blocks\.(\d+)\.(\d+)\.(.+)$")


def _gemma3n_vision(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    if not found:
        return None
    size = towers.processor.section("size")
    image = size.integer("height", low=1, default=768)
    tokens = towers.processor.integer("image_seq_length", low=1, default=256)
    feed = found.get("intermediate_size", 2048)
    if type(feed) is not int:
        raise FormatError("config.json: vision_config.intermediate_size is not a whole number")
    return {
        "num_attention_heads": 8,
        **found,
        "n_layers": 128,  # of MobileNet llama.cpp reads no number of layers
        "intermediate_size": feed * 4,
        "image_size": image,
        "patch_size": image // tokens,
    }


def _gemma3n_audio(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("audio_config").values
    if not found:
        return None
    return {
        "intermediate_size": 6144,
        **found,
        "n_layers": found.get("conf_num_hidden_layers"),
        "num_attention_heads": found.get("conf_num_attention_heads"),
    }


def _mobile(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    match = _MOBILE_BLOCK.match(name)
    if match is None or match[3] not in _MOBILE:
        raise FormatError(f"{lazy.origin} is not a tensor of a MobileNet v5")
    return [(f"v.blk.{match[1]}.{match[2]}.{match[3]}", lazy)]


_SUBSAMPLED = regex(r"subsample_conv_projection\.conv_(\d+)\.norm\.weight$")


def _norm_of_convolution(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """Under the name that Gemma 4's has; llama.cpp's converter stops at it."""
    match = _SUBSAMPLED.search(name)
    return [(f"a.conv1d.{match[1]}.norm.weight", lazy)] if match else []


def _channels(towers: Towers, lazy: Lazy) -> Lazy:
    lazy.need_dims(1)
    return lazy.reshape(1, lazy.shape[0], 1, 1)


GEMMA3N = Projector(
    names=("Gemma3nForConditionalGeneration",),
    takes=only(
        *("model.embed_vision.", "model.vision_tower.", "model.embed_audio."),
        *("model.audio_tower.", "conformer."),
        started=(("model.audio_tower.conformer.", "conformer.layers."),),
    ),
    vision=_gemma3n_vision,
    audio=_gemma3n_audio,
    processor={"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
    keys=(
        kind("gemma3nv", "vision"),
        epsilon(1e-6, "layer_norm_eps"),
        kind("gemma3na", "audio"),
        mels("input_feat_size"),
        epsilon(1e-5, audio=True),
    ),
    rules=(
        TowerRule(regex(r"timm_model\.blocks\."), _mobile),
        TowerRule(_SUBSAMPLED, _norm_of_convolution),
        each(r"conv_stem\.conv\.bias$", _channels),
        *CONFORMER_RULES,
    ),
    forced=(
        force("input_projection|input_proj", GGMLType.F16),
        force(r"\.embeddings\.|stem"),
        force(r"(audio|conformer).*(\.conv|_conv.*\.weight)"),
    ),
    uneven=r"^v\.blk\.",
)


# Gemma 4: images of any shape, and a conformer in the smaller models.


def _gemma4_audio(towers: Towers) -> Mapping[str, Any] | None:
    audio = towers.root.section("audio_config")
    if not audio.values:
        return None
    wide = {"intermediate_size": audio.integer("hidden_size", low=1) * 4}
    return {"input_feat_size": 128, **audio.values, **wide}


def _pixels(towers: Towers, lazy: Lazy) -> Lazy:
    """A matrix over the pixels of a patch, their colours side by side, as a convolution."""
    lazy.need_dims(2)
    rows, columns = lazy.shape
    side = isqrt(columns // 3)
    return lazy.reshape(rows, side, side, 3).transpose(0, 3, 1, 2)


def _per_dim(towers: Towers, lazy: Lazy) -> Lazy:
    return lazy.compute(softplus32)


_NAMED = (("model.audio_tower.", "conformer."), (".linear.", "."))
_SEEN = (("model.vision_tower.encoder.", "vision_model.model."), (".linear.weight", ".weight"))
_BOUNDS = (".weight", ".bias", ".input_max", ".input_min", ".output_max", ".output_min")

GEMMA4 = Projector(
    names=("Gemma4ForConditionalGeneration",),
    takes=without("lm_head."),
    vision=part("vision_config", fixed={"image_size": 224}),
    audio=_gemma4_audio,
    keys=(
        kind("gemma4v", "vision"),
        epsilon(1e-6, "layer_norm_eps"),
        kind("gemma4a", "audio"),
        mels("input_feat_size"),
        epsilon(1e-6, "layer_norm_eps", audio=True),
    ),
    rules=(
        rename(r"audio_tower\..*per_dim_(key_)?scale$", *_NAMED, change=_per_dim, ending=".weight"),
        rename(r"audio_tower\..*depthwise_conv1d.*\.weight$", *_NAMED, change=depthwise),
        rename(r"audio_tower|embed_audio", *_NAMED, change=scalar_bounds),
        rename(r"patch_embedder\.input_proj\.weight$", *_SEEN, change=_pixels),
        rename(r"(layer_scalar|position_embedding_table)$", *_SEEN, ending=".weight"),
        rename(r"^model\.", *_SEEN, change=scalar_bounds),
    ),
    forced=(
        force(r"(audio_tower|embed_audio).*(\.conv|_conv.*\.weight)"),
        force("position_embedding_table"),
    ),
    endings=_BOUNDS,
    needs=p.PATCHES
    + """
        v.position_embd width free free
        mm.input_projection width text
        v.blk.attn_q width free
        v.blk.attn_k width free
        v.blk.attn_v width free
        v.blk.attn_out free width
        v.blk.ln1 width
        v.blk.ln2 width
        v.blk.ffn_up width free
        v.blk.ffn_gate width free
        v.blk.ffn_down free width
        a.conv1d.0 3 3 1 free
        a.conv1d.1 3 3 free free
        a.pre_encode.out width free
        mm.a.input_projection free text
        a.blk.attn_q width width
        a.blk.attn_k width width
        a.blk.attn_v width width
        a.blk.attn_out width width
        a.blk.conv_dw free width
        a.blk.ffn_up width free
        a.blk.ffn_down free width
    """,
)


def _unified_vision(towers: Towers) -> Mapping[str, Any]:
    vision = towers.root.section("vision_config")
    none = dict.fromkeys(("intermediate_size", "num_layers", "num_attention_heads"), 0)
    return {
        **vision.values,
        **none,
        "hidden_size": vision.integer("mm_embed_dim"),
        "image_size": 224,
    }


def _unified_audio(towers: Towers) -> Mapping[str, Any]:
    audio = towers.root.section("audio_config")
    none = dict.fromkeys(("intermediate_size", "num_layers", "num_attention_heads"), 0)
    return {
        "input_feat_size": 128,
        **audio.values,
        **none,
        "hidden_size": audio.integer("audio_embed_dim"),
    }


def _planar(towers: Towers, lazy: Lazy) -> Lazy:
    """Columns from pixels with their colours side by side to one colour after the other."""
    vision = towers.sight
    side = vision.value("model_patch_size")
    if side is None:
        side = vision.integer("patch_size") * vision.integer("pooling_kernel_size")
    if type(side) is not int or not lazy.shape or lazy.shape[-1] != side * side * 3:
        raise FormatError(f"{lazy.origin}: {list(lazy.shape)} is not of patches of {side}")

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        pixels = values.reshape(*values.shape[:-1], side, side, 3)
        axes = range(pixels.ndim - 3)
        turned = pixels.transpose(*axes, pixels.ndim - 1, pixels.ndim - 3, pixels.ndim - 2)
        return turned.reshape(values.shape)

    return lazy.move(lazy.shape, change)


GEMMA4_UNIFIED = replace(
    GEMMA4,
    names=("Gemma4UnifiedForConditionalGeneration",),
    vision=_unified_vision,
    audio=_unified_audio,
    keys=(*GEMMA4.keys, kind("gemma4uv", "vision"), kind("gemma4ua", "audio")),
    rules=(
        rename(
            "pos_embedding$",
            change=lambda towers, lazy: lazy.transpose(1, 0, 2),
            ending=".weight",
        ),
        rename(r"\.pos_norm\.", (".pos_norm.", ".patch_ln3.")),
        each(r"patch_dense\.weight|patch_ln1\.(weight|bias)", _planar),
        *GEMMA4.rules,
    ),
    needs="""
        v.patch_embd free free
        v.position_embd free free free
        mm.input_projection free text
        mm.a.input_projection free text
    """,
)

ROWS = (GEMMA3, GEMMA3N, GEMMA4, GEMMA4_UNIFIED)
