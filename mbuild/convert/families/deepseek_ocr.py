"""DeepSeek-OCR (text): DeepSeek's experts with plain attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import DEEPSEEK, DEEPSEEK_V2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, TEXT, U32, computed, f32, replaced, u32, without
from mbuild.convert.rows.row import NO_HF_CONFIG, TOWERS
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors


def _window(hp: Hyper) -> int | None:
    return (
        hp.optional_integer("sliding_window_size") or hp.optional_integer("sliding_window") or None
    )


def _template(hp: Hyper, tensors: Tensors) -> Iterator[KV]:
    """The messages as they are, unless the checkpoint says more."""
    yield KV("tokenizer.chat_template", TEXT, "{% for m in messages %}{{m['content']}}{% endfor %}")


_EPSILON = f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6)
_LATENT = tuple(
    f"attention.{name}"
    for name in ("kv_lora_rank", "key_length", "value_length", "key_length_mla", "value_length_mla")
)

DEEPSEEK_OCR = replace(
    DEEPSEEK_V2,
    gguf="deepseek2-ocr",
    names=("DeepseekOCRForCausalLM", "DeepseekOCR2ForCausalLM", "UnlimitedOCRForCausalLM"),
    towers=regex(rf"sam_model|qwen2_model|{TOWERS.pattern}"),
    keys=(
        *replaced(COMMON, _EPSILON),
        *replaced(
            without(DEEPSEEK_V2.keys[len(COMMON) : -1], *_LATENT),
            u32("rope.dimension_count", "qk_rope_head_dim", required=True),
        ),
        computed("attention.sliding_window", U32, _window),
        DEEPSEEK_V2.keys[-1],
    ),
    layout=replace(
        DEEPSEEK.layout,
        keys=(*p.RMS, "expert_feed_forward_length", "expert_shared_count"),
    ),
    vocabulary=BPE,
    early=_template,
    hf=NO_HF_CONFIG,
)

ROWS = (DEEPSEEK_OCR,)
