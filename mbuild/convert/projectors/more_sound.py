"""Encoders of images and sound together, and of sound alone, in larger machines: LFM2-Audio,
Nemotron Nano VL, dots3 Note, MiMo V2.5."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from mbuild.convert.projectors.qwen_vl import min_max_pixels
from mbuild.convert.read.joining import stack
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.conformer import CONFORMER_RULES
from mbuild.convert.rows.projector import (
    F32,
    GELU,
    SILU,
    U32,
    Projector,
    TowerRule,
    constant,
    each,
    epsilon,
    force,
    key,
    kind,
    mels,
    only,
    parts,
    rename,
    without,
)
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mbuild.convert.rows.towers import Towers


# LFM2-Audio.


def _lfm2_audio(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("encoder")
    if not found.values:
        return None
    width = found.integer("d_model", low=1)
    heads = found.integer("n_heads", low=1)
    return {
        **found.values,
        "hidden_size": width,
        "intermediate_size": width,
        "num_attention_heads": heads,
    }


LFM2_AUDIO = Projector(
    names=("Lfm2AudioForConditionalGeneration",),
    takes=without(
        "lfm.",
        drop=(
            *("audio_loss_weight", "codebook_offsets", "depth_embeddings", "depth_linear"),
            "depthformer",
        ),
    ),
    vision=None,
    audio=_lfm2_audio,
    keys=(kind("lfm2a"), mels("feat_in"), epsilon(1e-5, audio=True)),
    rules=CONFORMER_RULES,
    forced=(
        force(r"(audio|codebook|conformer).*(\.conv|_conv.*\.weight)|\.conv.*(audio|codebook)"),
    ),
    needs="""
        a.blk.attn_q width width
        a.blk.attn_k width width
        a.blk.attn_v width width
        a.blk.attn_out width width
        a.blk.conv_dw free width
        a.blk.ffn_up width free
        a.blk.ffn_down free width
        a.pre_encode.out free width
    """,
)


# Nemotron Nano VL: RADIO's ViT-H, whose sizes no file has, and Parakeet.

_VIT_H = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
    **{"num_attention_heads": 16},
}


def _radio(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    if not found:
        return None
    return {**found, **_VIT_H, "image_size": _side(towers)}


def _side(towers: Towers) -> int:
    return towers.root.integer("force_image_size", low=1, default=512)


def _parakeet(towers: Towers) -> Mapping[str, Any] | None:
    return towers.root.section("sound_config").values or None


def _sound_first(towers: Towers) -> Iterator[KV]:
    """Keys that stand before all others, by whether there is sound too."""
    if towers.audio is None:
        yield from kind("nemotron_v2_vl")(towers)
        return
    yield from mels("num_mel_bins")(towers)
    yield from epsilon(1e-5, audio=True)(towers)
    for name in ("subsampling_factor", "conv_kernel_size"):
        yield KV(f"clip.audio.{name}", U32, towers.audio.integer(name))
    yield from kind("parakeet", "audio")(towers)
    yield from kind("nemotron_v2_vl", "vision")(towers)


def _unshuffle(towers: Towers) -> int:
    ratio = towers.root.number("downsample_ratio", default=0.5)
    if not 1e-3 < ratio <= 1:
        raise FormatError(f"config.json: downsample_ratio is {ratio}")
    return int(1.0 / ratio)


def _resized(towers: Towers, lazy: Lazy) -> Lazy:
    """Position embeddings of a larger square, (1, places, width), for the images' size.

    Between four neighbours, corners on corners, in float32 as torch interpolates.
    """
    lazy.need_dims(3)
    patch = towers.sight.integer("patch_size", low=1)
    side, most = _side(towers) // patch, isqrt(lazy.shape[1])
    if side == most:
        return lazy
    if most * most != lazy.shape[1] or side < 2:
        raise FormatError(f"{lazy.origin}: {lazy.shape[1]} positions do not make a square")
    width = lazy.shape[2]
    wide = lazy.compute(lambda values: values)

    def load() -> Any:
        import numpy as np

        f32 = np.float32
        grid = wide.load().astype(f32).reshape(most, most, width)
        at = np.arange(side, dtype=f32) * f32((most - 1) / (side - 1))
        low = np.minimum(at.astype(np.int64), most - 1)
        high = np.minimum(low + 1, most - 1)
        part = (at - low.astype(f32)).astype(f32)
        rest = f32(1) - part
        rows = rest[:, None, None], part[:, None, None]
        columns = rest[None, :, None], part[None, :, None]
        top = columns[0] * grid[low][:, low] + columns[1] * grid[low][:, high]
        bottom = columns[0] * grid[high][:, low] + columns[1] * grid[high][:, high]
        return (rows[0] * top + rows[1] * bottom).reshape(1, side * side, width)

    return Lazy(DType.F32, (1, side * side, width), load, lazy.origin)


def _convolution(towers: Towers, lazy: Lazy) -> Lazy:
    side = towers.sight.integer("patch_size", low=1)
    return lazy.reshape(lazy.shape[0] if lazy.shape else 0, 3, side, side)


def _depth(towers: Towers, lazy: Lazy) -> Lazy:
    lazy.need_dims(3)
    return lazy.reshape(*lazy.shape, 1).transpose(3, 1, 0, 2)


def _point(towers: Towers, lazy: Lazy) -> Lazy:
    shape = lazy.shape
    return lazy.reshape(*shape[:2]) if len(shape) == 3 and shape[2] == 1 else lazy


def _channel(towers: Towers, lazy: Lazy) -> Lazy:
    return lazy.reshape(1, lazy.shape[0], 1, 1) if len(lazy.shape) == 1 else lazy


def _nemotron(name: str) -> str | None:
    kept = only(
        *("vision_model.radio_model.model.", "mlp1.", "sound_encoder.", "sound_projection."),
        drop=("input_conditioner", "patch_generator.video_embedder"),
    )(name)
    if kept is None or ("conv.norm" in kept and "num_batches" in kept):
        return None
    lacks = "patch_generator.pos_embed" in kept and not kept.endswith(".weight")
    return f"{kept}.weight" if lacks else kept


NEMOTRON = Projector(
    names=("NemotronH_Nano_VL_V2", "RADIOModel"),
    takes=_nemotron,
    vision=_radio,
    audio=_parakeet,
    processor_defaults={
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    before=(_sound_first,),
    keys=(
        constant("vision.attention.layer_norm_epsilon", F32, 1e-6),
        GELU,
        key("vision.projector.scale_factor", U32, _unshuffle),
    ),
    rules=(
        each(r"patch_generator\.pos_embed", _resized),
        each(r"patch_generator\.embedder", _convolution),
        each(r"depthwise_conv\.weight", _depth),
        each(r"pointwise_conv.*\.weight$", _point),
        each(r"pointwise_conv.*\.bias$|subsampling\.layers.*\.bias$", _channel),
    ),
    forced=(
        force(r"sound_encoder.*(conv|bias|norm)|subsampling.*weight"),
        force(r"^mm\.a\..*(bias|norm|conv.*weight)", gguf=True),
    ),
    needs=p.block(attention="qkv", bias="qkv out")
    + "mm.model.mlp.1 free free\nmm.model.mlp.3 free text\n",
)


# dots3 Note: a mixture of experts for images.


def _note_vision(towers: Towers) -> Mapping[str, Any] | None:
    vision = towers.root.section("vision_config")
    if not vision.values:
        return None
    wanted: dict[str, tuple[Any, ...]] = {
        "adapter_type": ("patch_merger",),
        "pre_pixel_shuffle": (True,),
    }
    known: dict[str, tuple[Any, ...]] = {
        **{"router_scoring_func": ("sigmoid",), "router_scale": (1, 1.0)},
        **{"temporal_patch_size": (1,), "use_bias": (False, None)},
    }
    for name, values in (wanted | known).items():
        if (name in wanted or name in vision) and vision.value(name) not in values:
            raise UnsupportedError(
                f"config.json: vision_config.{name} is {vision.value(name)!r:.40}"
            )
    if not vision.value("use_qk_norm"):
        raise UnsupportedError("config.json: vision_config.use_qk_norm is not true")
    return {**vision.values, "hidden_size": vision.integer("embed_dim", low=1), "image_size": 0}


def _note_audio(towers: Towers) -> Mapping[str, Any] | None:
    audio = towers.root.section("audio_config")
    if not audio.values:
        return None
    inner, rope = audio.section("whisper_config"), audio.section("rope_parameters")
    fits = (
        all(audio.value(n) for n in ("use_conv2d_stem", "use_rope", "use_rms_norm"))
        and not audio.value("use_causal")
        and inner.value("activation_function") == "swiglu"
        and audio.value("merge_factor") in (None, 1)
        and audio.value("chunk_seconds") == 60
        and (rope.value("partial_rotary_factor"), rope.value("rope_theta")) == (0.5, 10000.0)
    )
    if not fits:
        raise UnsupportedError("config.json: audio_config is of an encoder that llama.cpp lacks")
    return {
        **audio.values,
        "hidden_size": inner.integer("d_model", low=1),
        "intermediate_size": inner.integer("encoder_ffn_dim", low=1),
        "num_attention_heads": inner.integer("encoder_attention_heads", low=1),
        "num_hidden_layers": inner.integer("encoder_layers", low=1),
        "num_mel_bins": inner.integer("num_mel_bins", low=1),
    }


def _routed(towers: Towers) -> list[int]:
    """How many experts each layer has; none in a dense one."""
    counts = towers.sight.value("pyramid_num_routed")
    if not isinstance(counts, list) or not all(type(n) is int for n in counts):
        raise FormatError("config.json: vision_config has no list pyramid_num_routed")
    return [max(0, n) for n in counts]


_EXPERT = regex(r"^vision_encoder\.blocks\.(\d+)\.mlp\.experts\.(\d+)\.(fc[123])\.weight$")


def _experts(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """All experts of a layer, one stack for each matrix, where the last tensor of them stands."""
    match, counts = _EXPERT.match(name), _routed(towers)
    if match is None or int(match[1]) >= len(counts) or int(match[2]) >= counts[int(match[1])]:
        raise FormatError(f"{lazy.origin} is of no expert that pyramid_num_routed counts")
    stem = f"vision_encoder.blocks.{match[1]}.mlp.experts."
    count = range(counts[int(match[1])])
    named = {part: [f"{stem}{n}.{part}.weight" for n in count] for part in ("fc1", "fc2", "fc3")}
    if name != towers.last(each for names in named.values() for each in names):
        return []
    made = []
    for matrix, names in named.items():
        missing = next((each for each in names if each not in towers.tensors), None)
        if missing:
            raise FormatError(f"tensor {missing!r} is missing")
        made.append((f"{stem}{matrix}.weight", stack([towers.tensors[each] for each in names])))
    return made


DOTS3_NOTE = Projector(
    names=("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"),
    takes=only("vision_encoder.", "audio_encoder."),
    vision=_note_vision,
    audio=_note_audio,
    processor_inner="vision_config",
    keys=(
        kind("dots3note_v", "vision"),
        SILU,
        epsilon(None, "rms_norm_eps"),
        key("vision.spatial_merge_size", U32, lambda t: t.sight.integer("spatial_merge_size")),
        *min_max_pixels(),
        key("vision.expert_count_per_layer", U32, _routed),
        key("vision.expert_used_count", U32, lambda t: int(t.sight.number("capacity_factor"))),
        kind("dots3note_a", "audio"),
        mels("num_mel_bins"),
        constant("audio.attention.layer_norm_epsilon", F32, 1e-6),
    ),
    rules=(
        rename(r"\.(gate_weight|router_bias)$", ending=".weight"),
        parts(r"\.speech_encoder\.layers\..*\.fc1\.", ".fc1.", (".fc1_gate.", ".fc1_up.")),
        TowerRule(regex(r"\.mlp\.experts\."), _experts),
    ),
    forced=(
        force(r"\.ffn_gate_inp\.|\.exp_probs_b\.", gguf=True),
        force(r"\.conv2d|a\.conv_out", gguf=True),
    ),
    uneven=r"^v\.blk\.\d+\.(ffn_|exp_probs)",
    needs=p.PATCHES + "v.blk.attn_qkv width free\nv.blk.attn_out free width\n",
)

ROWS = (LFM2_AUDIO, NEMOTRON, DOTS3_NOTE)
