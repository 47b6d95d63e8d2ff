"""Llama, of which many families are copies but for a flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HEAD_NAMES, HFConfig, head_width, heads
from mbuild.convert.rows.keys import (
    COMMON,
    ROPE_HEAD_DIM,
    VOCAB_SIZE,
    KeyRule,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import llama3_factors
from mbuild.convert.rows.row import TOWERS, Family
from mbuild.convert.rows.rules import ROTARY
from mbuild.convert.vocabulary.rules import (
    Prefix,
    Reader,
    VocabRule,
)
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

LLAMA_KEYS: tuple[KeyRule, ...] = (*COMMON, VOCAB_SIZE, ROPE_HEAD_DIM)

LLAMA_HF = HFConfig(
    "llama",
    untied=True,
    values={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "vocab_size": 32000},
    fills={"num_key_value_heads": heads, "head_dim": head_width},
)

_MOE_OR_DENSE = (
    Group((*p.GATED, *p.GATED_BIAS), p.none("experts")),
    Group(p.experts(), p.some("experts")),
)

_LAYOUT = TensorLayout(
    (*p.USUAL, *p.ROPE_FREQS, *p.ROPE_FACTORS),
    (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS)), *_MOE_OR_DENSE),
    p.RMS,
    one_head=True,
)

_VOCABULARY = VocabRule(
    (Reader.SENTENCEPIECE, Reader.LLAMA_HF, Reader.BPE),
    Prefix.SETTINGS_FIRST,
    second_pass={32016: (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010))},
    flags_of_size={49152: (("bos", False),)},
)
"""32016 tokens are a CodeLlama's, 49152 a small Granite's."""

LLAMA = Family(
    gguf="llama",
    names=(
        *("LlamaForCausalLM", "LLaMAForCausalLM", "IQuestCoderForCausalLM"),
        *("LlavaForConditionalGeneration", "VoxtralForConditionalGeneration"),
    ),
    silu=True,
    vocabulary=_VOCABULARY,
    layout=_LAYOUT,
    keys=LLAMA_KEYS,
    hf=LLAMA_HF,
    rules=ROTARY,
    extra=llama3_factors,
)

LLAMA_MODEL = replace(LLAMA, names=("LlamaModel",), prefixes=(("", "model."),))

_JANUS = r"^model\.(vision_model|aligner|vqmodel|generation_(embeddings|aligner|head))\."

JANUS = replace(
    LLAMA,
    names=("JanusForConditionalGeneration",),
    towers=regex(rf"{_JANUS}|{TOWERS.pattern}"),
)

SARASHINA2_VISION = replace(
    LLAMA,
    names=("Sarashina2VisionForCausalLM",),
    prefixes=(("llm.", ""),),
    towers=regex(rf"^norm\.|{TOWERS.pattern}"),
)

_BY_EXPERT = slots("""
    attn_qkv width heads*key*3
    attn_output heads*key width
    vis_attn_qkv width heads*key*3
    vis_attn_output heads*key width
    vis_gate width ff
    vis_up width ff
    vis_down ff width
""")

COG_VLM = replace(
    LLAMA,
    gguf="cogvlm",
    names=("CogVLMForCausalLM",),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS), (Group((*p.NORMS, *_BY_EXPERT, *p.GATED)),), p.RMS
    ),
    # llama.cpp's converter takes the layers for images for an encoder's; its loader wants them.
    towers=regex(TOWERS.pattern.replace("|vision_|", "|vision_(?!expert|mlp)|")),
    rules=(),
)

SMOL_VLM = replace(
    LLAMA,
    names=("VLlama3ForCausalLM",),
    keys=replaced(LLAMA_KEYS, u32("attention.head_count", *HEAD_NAMES, low=1, default=32)),
    replaced=(("text_model.", ""),),
)


def _draft_or_llama(config: Mapping[str, Any]) -> Family:
    """Some drafts have a Llama's class; one layer with tokens of its own is none."""
    if "draft_vocab_size" not in config or config.get("num_hidden_layers") != 1:
        return _LLAMA_OR_DRAFT
    from mbuild.convert.families import find

    return find("Eagle3DraftModel")


_LLAMA_OR_DRAFT = replace(LLAMA, variant=_draft_or_llama)

ROWS = (_LLAMA_OR_DRAFT, LLAMA_MODEL, SMOL_VLM, JANUS, SARASHINA2_VISION, COG_VLM)
