"""Qwen3-VL's encoder, also of Qwen 3.5, Qwen3-Omni and Qwen3-ASR, and GLM's, which is like it."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

from mbuild.convert.projectors.qwen_vl import within
from mbuild.convert.projectors.whisper import positions, whisper
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    BOOL,
    F32,
    GELU,
    U32,
    Projector,
    TowerRule,
    column,
    each,
    epsilon,
    force,
    frames,
    key,
    kind,
    mels,
    only,
    rename,
)
from mbuild.convert.rows.towers import BLOCKS
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers

_DEEP = regex(r"^visual\.deepstack_merger_list\.(\d+)\.(norm|linear_fc1|linear_fc2)\.(\w+)$")
_DEEP_NAMES = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
_VISUAL = (("model.visual.", "visual."), ("thinker.visual.", "visual."))


def _sized(vision: Mapping[str, Any]) -> dict[str, Any]:
    """With the side of the square that the position embeddings are for."""
    if "image_size" in vision:
        return dict(vision)
    count, patch = vision.get("num_position_embeddings", 2304), vision.get("patch_size", 16)
    if type(count) is not int or type(patch) is not int or not 0 < count < 1 << 32:
        raise FormatError("config.json: vision_config has no sensible num_position_embeddings")
    return {**vision, "image_size": int(sqrt(count) * patch)}


def _vision(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    return _sized(found) if found else None


def _deep_layers(towers: Towers) -> list[bool] | None:
    """Which layers give something to layers of the text model."""
    deep = towers.sight.integers("deepstack_visual_indexes")
    count = towers.sight.integer(*BLOCKS)
    if any(layer >= count for layer in deep):
        raise FormatError(
            f"config.json: deepstack_visual_indexes is {str(deep)[:60]} of {count} layers"
        )
    return [layer in deep for layer in range(min(count, len(towers.tensors)))] or None


def _deep_merger(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """A merger's tensor under the number of the layer that it taps."""
    match, deep = _DEEP.match(name), towers.sight.integers("deepstack_visual_indexes")
    if match is None or int(match[1]) >= len(deep):
        raise FormatError(
            f"{lazy.origin} is of no layer that config.json's deepstack_visual_indexes name"
        )
    return [(f"v.deepstack.{deep[int(match[1])]}.{_DEEP_NAMES[match[2]]}.{match[3]}", lazy)]


def _merge(towers: Towers) -> int | None:
    vision = towers.sight
    return vision.integer("spatial_merge_size") if "spatial_merge_size" in vision else None


MERGE = key("vision.spatial_merge_size", U32, _merge)


def text_epsilon(towers: Towers) -> float:
    """The text model's, which llama.cpp's converter writes for the encoder's norms."""
    return towers.text.number("rms_norm_eps", default=1e-6)


_KEYS = (
    GELU,
    MERGE,
    key("vision.attention.layer_norm_epsilon", F32, text_epsilon),
    key("vision.is_deepstack_layers", BOOL, _deep_layers),
)
_PATCHES = frames(r"^visual\.patch_embed\.proj\.weight$")
_RULES = (
    TowerRule(regex(r"^visual\.deepstack_merger_list\."), _deep_merger),
    rename(r"^visual\.merger\.linear_fc1\.", ("visual.merger.linear_fc1", "mm.0")),
    rename(r"^visual\.merger\.linear_fc2\.", ("visual.merger.linear_fc2", "mm.2")),
    rename(r"^visual\.merger\.norm\.", ("visual.merger.norm", "v.post_ln")),
    _PATCHES,
)
_NEEDS = (
    p.TWO_FRAMES
    + p.POSITIONS
    + p.block(attention="qkv", bias="qkv out")
    + """
        v.post_ln free
        mm.0 width*4 free
        mm.2 free text
    """
)

QWEN3_VL = Projector(
    names=(
        *("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
        *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
        "Qwen4ExpForConditionalGeneration",
    ),
    takes=only("visual.", started=_VISUAL),
    vision=_vision,
    keys=(kind("qwen3vl_merger"), *_KEYS),
    rules=_RULES,
    needs=_NEEDS,
)

_OMNI_NAMES = (
    (".merger_list.", ".deepstack_merger_list."),
    (".ln_q", ".norm"),
    (".mlp.0", ".linear_fc1"),
    (".mlp.2", ".linear_fc2"),
)
_HEARD = (mels("num_mel_bins"), epsilon(1e-5, "layer_norm_eps", audio=True))
_SOUND = """
    a.conv2d.1 3 3 1 free
    a.conv2d.1.bias 1 1 free
    a.conv2d.2 3 3 free free
    a.conv2d.3 3 3 free free
    a.conv_out free width
    a.post_ln width
    mm.a.mlp.1 width free
    mm.a.mlp.2 free text
""" + p.block("a", bias="q v out")
_SOUND_RULES = (
    each(r"conv2d.*\.bias$", lambda towers, lazy: lazy.reshape(*lazy.shape, 1, 1)),
    each(r"conv[12]\.bias", column),
)
_SOUND_TYPES = (force(r"\.conv.*\.weight", GGMLType.F16),)
_OMNI_STARTS = (*_VISUAL, ("thinker.audio_tower.", "audio_tower."))

QWEN3_OMNI = replace(
    QWEN3_VL,
    names=("Qwen3OmniMoeForConditionalGeneration",),
    takes=only("visual.", "audio_tower.", started=_OMNI_STARTS, replaced=_OMNI_NAMES),
    vision=within("vision_config", _sized),
    audio=within("audio_config", whisper),
    keys=(*_HEARD, *_KEYS, kind("qwen3vl_merger", "vision"), kind("qwen3a", "audio")),
    extra=positions,
    rules=(*_RULES, *_SOUND_RULES),
    forced=_SOUND_TYPES,
    needs=_NEEDS + _SOUND,
)

QWEN3_ASR = replace(
    QWEN3_OMNI,
    names=("Qwen3ASRForConditionalGeneration",),
    takes=only("audio_tower.", started=_OMNI_STARTS),
    vision=None,
    keys=(*_HEARD, kind("qwen3a", "audio")),
    rules=_SOUND_RULES,
    needs=_SOUND,
)

GLM4V = replace(
    QWEN3_VL,
    names=(
        *("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration"),
        "GlmOcrForConditionalGeneration",
    ),
    keys=(
        kind("glm4v"),
        p.activation(),
        epsilon(1e-5, "rms_norm_eps"),
    ),
    rules=(_PATCHES,),
    needs=p.TWO_FRAMES
    + p.block(attention="qkv", feed="gate up down", feed_bias=False, norm_bias=False)
    + """
        ?positions v.position_embd width free
        v.post_ln width
        mm.model.fc free free
        mm.up free free
        mm.gate free free
        mm.down free text
        mm.post_norm free
        mm.patch_merger free free free free
    """,
)


def _tokens(name: str) -> Callable[[Towers], int | None]:
    def compute(towers: Towers) -> int | None:
        if towers.processor.value(name) is None:
            return None
        patch = towers.processor.integer("patch_size", default=14)
        merge = towers.processor.integer("merge_size", default=2)
        return int(towers.processor.integer(name) * (patch * merge) ** 2)

    return compute


def _clamp(towers: Towers) -> float | None:
    vision = towers.sight
    return vision.number("swiglu_limit") if vision.value("swiglu_limit") is not None else None


GLM5V = replace(
    GLM4V,
    names=("Glm5NextForConditionalGeneration",),
    keys=(
        kind("glm5v"),
        *GLM4V.keys[1:],
        key(
            "vision.spatial_merge_size",
            U32,
            lambda towers: towers.sight.integer("spatial_merge_size", default=2),
        ),
        key("vision.swiglu_clamp", F32, _clamp),
        key("vision.image_min_pixels", U32, _tokens("min_image_tokens")),
        key("vision.image_max_pixels", U32, _tokens("max_image_tokens")),
    ),
)

LING3_VL = replace(
    QWEN3_VL,
    names=("BailingMoeV3VLForConditionalGeneration",),
    takes=only(
        *("visual.", "mm."),
        started=(*_VISUAL, ("linear_proj.", "mm."), ("model.linear_proj.", "mm.")),
    ),
    keys=(
        kind("ling3vl"),
        GELU,
        MERGE,
        key("vision.attention.layer_norm_epsilon", F32, text_epsilon),
    ),
    rules=(rename(r"^visual\.merger\.norm\.", ("visual.merger.norm", "mm.input_norm")), *_RULES),
    needs=p.TWO_FRAMES + p.block(attention="qkv") + "mm.0 free free\nmm.2 free text\n",
)

ROWS = (QWEN3_VL, QWEN3_OMNI, QWEN3_ASR, GLM4V, GLM5V, LING3_VL)
