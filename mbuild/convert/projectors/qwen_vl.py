"""Qwen2-VL and Qwen2.5-VL, and the encoders that were made after them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mbuild.convert.projectors.whisper import column_biases, positions, whisper
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    F32,
    SILU,
    U32,
    Projector,
    epsilon,
    force,
    frames,
    key,
    kind,
    mels,
    only,
    parts,
)
from mbuild.core.errors import FormatError
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mbuild.convert.rows.towers import Find, Towers
    from mbuild.gguf.model import KV

_MERGER = """
    mm.0 width*4 width*4
    mm.0.bias width*4
    mm.2 width*4 text
    mm.2.bias text
"""


def named(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen2-VL's part of config.json: ``hidden_size`` is the output's width where there is an
    ``embed_dim``, and what llama.cpp's converter writes as the feed-forward length."""
    found = {"image_size": 560, **vision}
    if "embed_dim" in vision:
        found["intermediate_size"] = vision.get("hidden_size")
        found["hidden_size"] = vision["embed_dim"]
    return found


def _vision(towers: Towers) -> Mapping[str, Any] | None:
    found = towers.root.section("vision_config").values
    return named(found) if found else None


def within(name: str, change: Callable[[Mapping[str, Any]], dict[str, Any]] = dict) -> Find:
    """A part of an omni model's ``thinker_config``."""

    def find(towers: Towers) -> Mapping[str, Any] | None:
        found = towers.root.section("thinker_config").section(name).values
        return change(found) if found else None

    return find


def window_pattern(towers: Towers) -> int:
    """Every how many layers one has full attention, which must be regular."""
    full = towers.sight.integers("fullatt_block_indexes")
    if not full:
        raise FormatError("config.json: vision_config has no fullatt_block_indexes")
    every = full[0] + 1
    if any(second - first != every for first, second in pairwise(full)):
        raise FormatError(
            f"config.json: fullatt_block_indexes is {str(full)[:60]}; llama.cpp needs one layer of"
            f" every {every}"
        )
    return every


def _by_type(towers: Towers) -> Iterator[KV]:
    """The kind and what it alone has, by the root's ``model_type``."""
    model_type = towers.root.text("model_type", default="")
    kinds = {"qwen2_5_vl": "qwen2.5vl_merger", "qwen2_5_omni": "qwen2.5o"}
    if model_type == "qwen2_vl":
        yield from kind("qwen2vl_merger")(towers)
    elif model_type in kinds:
        yield from kind(kinds[model_type])(towers)
        yield from SILU(towers)
        yield from key("vision.n_wa_pattern", U32, window_pattern)(towers)
    else:
        raise FormatError(
            f"config.json: model_type is {model_type[:40]!r}; qwen2_vl or qwen2_5_vl is needed"
        )


def _text_epsilon(towers: Towers) -> float:
    return towers.root.number("rms_norm_eps", default=1e-6)


_EPSILON = key("vision.attention.layer_norm_epsilon", F32, _text_epsilon)
SPLIT = (parts(r"\.qkv\.", "qkv", ("q", "k", "v")), frames(r"patch_embed\.proj\.weight"))
_POSITIONS = (force(r"\.position_embd\.", gguf=True),)
_VISUAL = (("model.visual.", "visual."),)

QWEN2_VL = Projector(
    names=(
        *("Qwen2VLModel", "Qwen2VLForConditionalGeneration"),
        "Qwen2_5_VLForConditionalGeneration",
    ),
    takes=only("visual.", started=_VISUAL),
    vision=_vision,
    keys=(_by_type, _EPSILON),
    rules=SPLIT,
    forced=_POSITIONS,
    needs=p.TWO_FRAMES
    + """
        v.blk.attn_q width width
        v.blk.attn_k width width
        v.blk.attn_v width width
        v.blk.attn_out width width
        v.blk.attn_q.bias width
        v.blk.attn_k.bias width
        v.blk.attn_v.bias width
        v.blk.ln1 width
        v.blk.ln2 width
        v.blk.ffn_up width free
        v.blk.ffn_down free width
        v.post_ln width
    """
    + _MERGER,
)

QWEN25_OMNI = replace(
    QWEN2_VL,
    names=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    takes=only(
        *("visual.", "audio_tower."),
        started=(("thinker.visual.", "visual."), ("thinker.audio_tower.", "audio_tower.")),
        drop=("audio_bos_eos_token",),
    ),
    vision=within("vision_config", named),
    audio=within("audio_config", whisper),
    keys=(
        # as the reference writes them, one class after the other
        mels("num_mel_bins"),
        epsilon(1e-5, "layer_norm_eps", audio=True),
        _by_type,
        _EPSILON,
        kind("qwen2.5o"),
    ),
    extra=positions,
    rules=(*SPLIT, column_biases(r"conv[12]\.bias")),
    forced=(*_POSITIONS, force(r"\.conv.*\.weight", GGMLType.F16)),
)

SARASHINA2 = replace(
    QWEN2_VL,
    names=("Sarashina2VisionForCausalLM",),
    keys=(kind("qwen2vl_merger"), _EPSILON),
)


def _pixels(name: str) -> Callable[[Towers], int]:
    return lambda towers: towers.processor.integer(name)


def min_max_pixels(section: str = "vision") -> tuple[Any, Any]:
    """The least and the most pixels of an image, as the preprocessor has them."""
    return (
        key(f"{section}.image_min_pixels", U32, _pixels("min_pixels")),
        key(f"{section}.image_max_pixels", U32, _pixels("max_pixels")),
    )


def _if_there(*names: str) -> Callable[[Towers], int | None]:
    def compute(towers: Towers) -> int | None:
        vision = towers.sight
        return vision.integer(*names) if vision.value(*names) is not None else None

    return compute


def _exaone_epsilon(towers: Towers) -> float:
    return towers.sight.number("rms_norm_eps", default=_text_epsilon(towers))


def _exaone_pattern(towers: Towers) -> int | None:
    return window_pattern(towers) if towers.sight.integers("fullatt_block_indexes") else None


EXAONE45 = replace(
    QWEN2_VL,
    names=("Exaone4_5_ForConditionalGeneration",),
    keys=(
        kind("exaone4_5"),
        SILU,
        *min_max_pixels(),
        key("vision.attention.head_count_kv", U32, _if_there("num_key_value_heads")),
        key("vision.attention.layer_norm_epsilon", F32, _exaone_epsilon),
        key("vision.window_size", U32, _if_there("window_size")),
        key("vision.n_wa_pattern", U32, _exaone_pattern),
    ),
    rules=SPLIT[1:],
    needs=p.TWO_FRAMES
    + """
        v.blk.attn_qkv width free
        v.blk.attn_out width width
        v.blk.ln1 width
        v.blk.ln2 width
        v.blk.ffn_up width free
        v.blk.ffn_gate width free
        v.blk.ffn_down free width
        v.post_ln width
    """
    + _MERGER,
)

ROWS = (QWEN2_VL, QWEN25_OMNI, SARASHINA2, EXAONE45)
