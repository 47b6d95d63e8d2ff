"""Encoders of sound that are Whisper's: Qwen2-Audio, Ultravox, Voxtral and others."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    U32,
    Projector,
    TowerRule,
    column,
    constant,
    each,
    epsilon,
    force,
    key,
    kind,
    mels,
    rename,
    without,
)
from mbuild.convert.rows.torch_math import exp32, sincos32
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mbuild.convert.rows.projector import Takes
    from mbuild.convert.rows.towers import Find, Towers

_FRAMES = 1500


def whisper(audio: Mapping[str, Any]) -> dict[str, Any]:
    """Whisper's names of the sizes as all encoders have them."""
    return {
        **audio,
        "hidden_size": audio.get("d_model"),
        "intermediate_size": audio.get("encoder_ffn_dim"),
        "num_attention_heads": audio.get("encoder_attention_heads"),
    }


def hears(name: str) -> Find:
    """That part of config.json, with the usual names where it has none of them."""

    def find(towers: Towers) -> Mapping[str, Any] | None:
        found = towers.root.section(name).values
        if not found or "hidden_size" in found or "intermediate_size" in found:
            return found or None
        return whisper(found)

    return find


def column_biases(pattern: str) -> TowerRule:
    """Biases of convolutions, which llama.cpp adds as columns."""
    return each(pattern, column)


def positions(towers: Towers) -> Iterator[tuple[str, Lazy]]:
    """The sinusoids that Qwen's encoders compute: (1500, width), sines before cosines."""
    width = towers.hearing.integer("hidden_size", low=4)

    def load() -> Any:
        import numpy as np

        half = width // 2
        step = log(10000) / (half - 1)
        rates = exp32(np.float32(-step) * np.arange(half, dtype=np.float32))
        angles = np.arange(_FRAMES, dtype=np.float32)[:, None] * rates[None, :]
        sines, cosines = sincos32(angles)
        return np.concatenate([sines, cosines], axis=1)

    shape = (_FRAMES, width // 2 * 2)
    yield (
        "audio_tower.embed_positions.weight",
        Lazy(DType.F32, shape, load, "the positions of sound"),
    )


def _encoder(then: Takes | None = None) -> Takes:
    def takes(name: str) -> str | None:
        if name.startswith(("model.", "lm_head.")) and "audio" not in name:
            return None
        for prefix in ("model.audio_tower.", "model.multi_modal_projector."):
            if name.startswith(prefix):
                name = name.removeprefix("model.")
        name = f"audio.{name}" if name.startswith("multi_modal_projector") else name
        return name if then is None else then(name)

    return without(then=takes)


_KEYS = (mels("num_mel_bins"), epsilon(1e-5, "layer_norm_eps", audio=True))
_BLOCK = (
    p.block("a", bias="q v out")
    + """
    a.conv1d.1 3 mels width
    a.conv1d.1.bias free width
    a.conv1d.2 3 width width
    a.conv1d.2.bias free width
    a.position_embd width free
    a.post_ln width
    a.post_ln.bias width
"""
)

QWEN2_AUDIO = Projector(
    names=("Qwen2AudioForConditionalGeneration",),
    takes=_encoder(),
    vision=None,
    audio=hears("audio_config"),
    keys=(kind("qwen2a"), *_KEYS),
    rules=(column_biases(r"conv[12]\.bias"),),
    forced=(force(r"\.conv.*\.weight", GGMLType.F16),),
    needs=_BLOCK + "mm.a.fc width text\nmm.a.fc.bias text\n",
)


ULTRAVOX = replace(
    QWEN2_AUDIO,
    names=("UltravoxModel",),
    keys=(
        *(kind("qwen2a"), *_KEYS, kind("ultravox")),
        key("audio.projector.stack_factor", U32, lambda t: t.root.integer("stack_factor", low=1)),
    ),
    needs=_BLOCK
    + """
        mm.a.mlp.1 free free
        mm.a.mlp.2 free text
        mm.a.norm_pre free
        ?mid mm.a.norm_mid free
    """,
    apart="text_model_id",
)

VOXTRAL = replace(
    QWEN2_AUDIO,
    names=("VoxtralForConditionalGeneration",),
    keys=(
        *(kind("qwen2a"), *_KEYS, kind("voxtral")),
        constant("audio.projector.stack_factor", U32, 4),
    ),
    needs=_BLOCK + "mm.a.mlp.1 free free\nmm.a.mlp.2 free text\n",
)

MUSIC_FLAMINGO = replace(
    QWEN2_AUDIO,
    names=("AudioFlamingo3ForConditionalGeneration",),
    keys=(kind("qwen2a"), *_KEYS, kind("musicflamingo")),
    forced=(force(r"\.conv.*\.weight"),),
    needs=_BLOCK + "mm.a.mlp.1 free free\nmm.a.mlp.2 free text\n",
)

_ADAPTER = (
    (".mlp_adapter.0.", 0),
    (".gate_proj.", 1),
    (".pool_proj.", 2),
    (".out_proj.", 3),
)


def _meralion_adapter(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    ending = name.rpartition(".")[2]
    number = next((number for part, number in _ADAPTER if part in name), None)
    return [] if number is None else [(f"mm.a.mlp.{number}.{ending}", lazy)]


def _meralion_scale(towers: Towers) -> int:
    return towers.root.integer("speech_mlp_scale_factor", default=15)


MERALION = replace(
    QWEN2_AUDIO,
    names=("MERaLiON2ForConditionalGeneration",),
    takes=without(
        "text_decoder.",
        then=lambda name: (
            name.replace("speech_encoder.", "audio_tower.")
            if name.startswith("speech_encoder.")
            else name
        ),
    ),
    audio=hears("speech_config"),
    keys=(
        *(kind("qwen2a"), *_KEYS, kind("meralion")),
        key("audio.projector.stack_factor", U32, _meralion_scale),
    ),
    rules=(
        rename(r"^ln_speech\.", ("ln_speech.", "mm.a.norm_pre.")),
        TowerRule(regex(r"^speech_audio_adapter\."), _meralion_adapter),
        *QWEN2_AUDIO.rules,
    ),
    needs=_BLOCK + "mm.a.mlp.0 free free\nmm.a.mlp.3 free text\nmm.a.norm_pre free\n",
)


def _glm_name(name: str) -> str | None:
    """GLM-ASR's names as those of Whisper and of a projector behind it."""
    if name.startswith(("model.", "lm_head.")):
        return None
    name = name.replace("audio_encoder.whisper.", "audio_tower.")
    if "audio_encoder.layer_norm." in name or "audio_encoder.proj." in name:
        name = name.replace("audio_encoder.", "audio_encoder.adapting.")
    if not name.startswith("audio_encoder.adapting."):
        return name
    name = name.replace("audio_encoder.adapting.", "audio.multi_modal_projector.")
    for old, new in ((".layer_norm.", ".ln_pre."), (".0.", ".linear_1."), (".2.", ".linear_2.")):
        name = name.replace(old, new)
    return name


def _ends(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """The embeddings that stand around the sound's."""
    lazy.need_dims(2)
    rows = [lazy.slice(0, n, n + 1).reshape(lazy.shape[1]) for n in range(2)]
    return list(zip(("model.vision.boi", "model.vision.eoi"), rows, strict=True))


def _glm_audio(towers: Towers) -> Mapping[str, Any] | None:
    name = "whisper_config" if "whisper_config" in towers.root else "audio_config"
    return hears(name)(towers)


GLM_ASR = replace(
    QWEN2_AUDIO,
    names=("GlmasrModel",),
    takes=without(then=_glm_name),
    audio=_glm_audio,
    keys=(
        kind("glma"),
        *_KEYS,
        key("audio.projector.stack_factor", U32, lambda t: t.root.integer("merge_factor")),
    ),
    rules=(
        TowerRule(regex(r"^audio_encoder\.audio_bos_eos_token\."), _ends),
        *QWEN2_AUDIO.rules,
    ),
    needs=p.block("a", bias="q v out")
    + """
        a.conv1d.1 3 mels width
        a.conv1d.2 3 width width
        mm.a.mlp.1 free free
        mm.a.mlp.2 free text
    """,
)


ROWS = (QWEN2_AUDIO, ULTRAVOX, VOXTRAL, MUSIC_FLAMINGO, MERALION, GLM_ASR)
