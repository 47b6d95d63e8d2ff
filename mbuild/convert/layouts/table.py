"""The layout of every architecture that checkpoints are converted to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.layouts.encoders import BERT, NOMIC, NOMIC_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.layout import Group, Layout, slots

if TYPE_CHECKING:
    from collections.abc import Mapping

RMS, EPS = (p.RMS_EPSILON,), (p.LAYER_EPSILON,)

_MOE_OR_DENSE = (
    Group((*p.GATED, *p.GATED_BIAS), p.none("experts")),
    Group(p.experts(), p.some("experts")),
)

LLAMA = Layout(
    (*p.USUAL, *p.ROPE_FREQS, *p.ROPE_FACTORS),
    (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS)), *_MOE_OR_DENSE),
    RMS,
    one_head=True,
)
_FREE_HEAD = replace(LLAMA, one_head=False)
_DENSE = Layout(p.USUAL, (Group((*p.NORMS, *p.separate(), *p.GATED)),), RMS)

GRANITE = replace(
    _FREE_HEAD,
    layers=(*LLAMA.layers, Group(p.shared_experts(), p.some("shared_ff"))),
    keys=(*RMS, "logit_scale"),
)

_GEMMA_NORMS = Group((*p.NORMS, *p.POST_NORMS))
_GEMMA3 = replace(_DENSE, layers=(_GEMMA_NORMS, Group((*p.separate(), *p.QK_NORM, *p.GATED))))

GEMMA3N = replace(
    _GEMMA3,
    model=(
        *p.USUAL,
        *slots("""
            altup_proj width width altup+-1
            altup_unembd_proj width width altup+-1
            per_layer_token_embd per_layer*layers tokens
            per_layer_model_proj width per_layer*layers
            per_layer_proj_norm per_layer
        """),
    ),
    layers=(
        *_GEMMA3.layers,
        Group(
            slots("""
                inp_gate width per_layer
                proj per_layer width
                post_norm width
                altup_correct_coef altup altup
                altup_correct_scale width
                altup_predict_coef altup altup*altup
                altup_router width altup
                altup_router_norm width
                laurel_l width laurel
                laurel_r laurel width
                laurel_post_norm width
            """)
        ),
    ),
)

COMMAND_R = Layout(
    p.TIED,
    (
        Group((*p.ATTN_NORM, *p.WIDE, *p.GATED)),
        Group(
            slots("attn_q_norm key heads\nattn_k_norm key kv"),
            # Command R+ has 64 layers; llama.cpp knows it by them.
            lambda sizes, layer: (sizes.value("layers", layer) or 0) >= 64,
        ),
    ),
    EPS,
)

DEEPSEEK2 = Layout(
    p.USUAL,
    (
        Group(
            (
                *p.NORMS,
                *slots("""
                    attn_kv_a_norm kv_rank
                    attn_kv_a_mqa width kv_rank+rotary
                    attn_k_b key_mla+-rotary kv_rank heads
                    attn_v_b kv_rank value_mla heads
                    attn_output heads*value_mla width
                """),
            )
        ),
        Group(
            slots("""
                attn_q_a width q_rank
                attn_q_a_norm q_rank
                attn_q_b q_rank heads*key_mla
            """),
            p.some("q_rank"),
        ),
        Group(slots("attn_q width heads*key_mla"), p.none("q_rank")),
        Group(p.GATED, p.leading),
        Group(
            (
                *p.experts("expert_ff"),
                *p.shared_experts("expert_ff*shared"),
                *slots("? exp_probs_b.bias experts"),
            ),
            p.following,
        ),
    ),
    RMS,
)

ERNIE_MOE = Layout(
    p.USUAL,
    (
        Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS)),
        Group(p.GATED, p.leading),
        Group((*p.experts("expert_ff"), *slots("? exp_probs_b.bias experts")), p.following),
        Group(
            p.shared_experts(),
            lambda sizes, layer: (
                p.following(sizes, layer) and bool(sizes.value("shared_ff", layer))
            ),
        ),
    ),
    RMS,
)

_FUSED_WITH_BIAS = (
    *p.ATTN_NORM,
    *p.ATTN_NORM_BIAS,
    *p.required(p.fused()),
    *slots("attn_output.bias width"),
    *p.FFN_NORM,
    *p.FFN_NORM_BIAS,
    *p.PLAIN,
    *p.required(p.PLAIN_BIAS),
)
GPT_NEOX = Layout((*p.UNTIED, *p.OUTPUT_NORM_BIAS), (Group(_FUSED_WITH_BIAS),), EPS)
GPT2 = Layout((*p.USUAL, *p.OUTPUT_NORM_BIAS, *p.POSITIONS), (Group(_FUSED_WITH_BIAS),), EPS)

FALCON = Layout(
    (*p.USUAL, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *p.ATTN_NORM,
                *p.ATTN_NORM_BIAS,
                *slots("?attn_norm_2 attn_norm_2 width\n?attn_norm_2 attn_norm_2.bias width"),
                *slots("attn_qkv width width+kv*key+kv*value\nattn_output width width"),
                *p.PLAIN,
            )
        ),
    ),
    EPS,
    one_head=True,
)

GPT_OSS = Layout(
    p.UNTIED,
    (
        Group(
            (
                *p.ATTN_NORM,
                *slots("post_attention_norm width\nattn_sinks heads"),
                *p.required(p.separate()),
                *slots("attn_output.bias width"),
                *p.experts("expert_ff"),
                *slots("""
                    ffn_gate_inp.bias experts
                    ffn_gate_exps.bias expert_ff experts
                    ffn_up_exps.bias expert_ff experts
                    ffn_down_exps.bias width experts
                """),
            )
        ),
    ),
    (*RMS, "attention.sliding_window"),
)

LFM2 = Layout(
    (*p.EMBEDDING, *slots("token_embd_norm width"), *p.HEAD_OR_TIED),
    (
        Group((*p.NORMS, *p.GATED)),
        Group((*p.QK_NORM, *p.WIDE), p.some("kv")),
        Group(
            slots("""
                shortconv.conv kernel width
                shortconv.in_proj width 3*width
                shortconv.out_proj width width
            """),
            p.none("kv"),
        ),
    ),
    (*RMS, "shortconv.l_cache"),
)

_BIASED = (*p.ATTN_NORM, *p.ATTN_NORM_BIAS, *p.WIDE)

NEMOTRON = Layout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
    (Group((*_BIASED, *p.OUTPUT_BIAS, *p.FFN_NORM, *p.FFN_NORM_BIAS, *p.PLAIN, *p.PLAIN_BIAS)),),
    EPS,
)
STARCODER2 = Layout(
    (*p.USUAL, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *_BIASED,
                *p.required(p.OUTPUT_BIAS),
                *p.FFN_NORM,
                *p.FFN_NORM_BIAS,
                *p.PLAIN,
                *p.required(p.PLAIN_BIAS),
            )
        ),
    ),
    EPS,
)
PHI2 = Layout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS, *slots("output.bias tokens")),
    (
        Group(
            (
                *p.ATTN_NORM,
                *p.ATTN_NORM_BIAS,
                *p.required(p.WIDE),
                *p.required(p.OUTPUT_BIAS),
                *p.PLAIN,
                *p.required(p.PLAIN_BIAS),
            )
        ),
    ),
    EPS,
)
PHI3 = Layout(
    (*p.USUAL, *p.ROPE_FACTORS),
    (Group((*p.NORMS, *p.fused(), *slots("ffn_up width 2*ff\nffn_down ff width"))),),
    RMS,
)
STABLELM = Layout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *_BIASED,
                *p.GATED,
                *slots("""
                    ?qk_norm attn_q_norm key heads
                    ?qk_norm attn_k_norm key kv
                    ?ffn_norm ffn_norm width
                    ?ffn_norm ffn_norm.bias width
                """),
            )
        ),
    ),
    EPS,
)

_QWEN2_LAYER = (*p.NORMS, *p.WIDE)
QWEN2 = Layout((*p.USUAL, *slots("? output.bias tokens")), (Group((*_QWEN2_LAYER, *p.GATED)),), RMS)
QWEN2_MOE = Layout(
    p.UNTIED,
    (
        Group((*_QWEN2_LAYER, *p.experts("expert_ff"), *p.shared_experts())),
        Group(slots("ffn_gate_inp_shexp width")),
    ),
    RMS,
)
QWEN3 = Layout(p.USUAL, (Group((*p.NORMS, *p.separate(), *p.QK_NORM, *p.GATED)),), RMS)
QWEN3_MOE = Layout(
    p.USUAL,
    (Group((*p.NORMS, *p.separate(), *p.QK_NORM, *p.experts("expert_ff"))),),
    RMS,
)

OLMO2 = Layout(
    p.UNTIED,
    (Group((*p.WIDE, *p.POST_NORMS, *slots("attn_q_norm width\nattn_k_norm kv*key"), *p.GATED)),),
    RMS,
)
OLMOE = Layout(
    p.UNTIED,
    (Group((*p.NORMS, *p.WIDE, *slots("attn_q_norm width\nattn_k_norm width"), *p.experts())),),
    RMS,
)

LAYOUTS: Mapping[str, Layout] = {
    "apertus": Layout(
        (*p.UNTIED, *p.ROPE_FREQS, *p.ROPE_FACTORS),
        (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.QK_NORM, *p.PLAIN)),),
        (*RMS, "xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"),
    ),
    "arcee": Layout((*p.USUAL, *p.ROPE_FREQS), (Group((*p.NORMS, *p.separate(), *p.PLAIN)),), RMS),
    "bert": BERT,
    "cohere2": Layout(
        p.TIED,
        (Group((*p.ATTN_NORM, *p.WIDE, *p.GATED)),),
        (*EPS, "logit_scale", "attention.sliding_window"),
    ),
    "command-r": COMMAND_R,
    "deepseek2": DEEPSEEK2,
    "ernie4_5": replace(
        _DENSE, layers=(Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.GATED)),)
    ),
    "ernie4_5-moe": ERNIE_MOE,
    "exaone": replace(_DENSE, model=(*p.USUAL, *p.ROPE_FREQS)),
    "exaone4": Layout(
        (*p.USUAL, *p.ROPE_FREQS),
        (Group((*p.separate(out="width"), *p.POST_NORMS, *p.QK_NORM, *p.GATED)),),
        RMS,
    ),
    "falcon": FALCON,
    "gemma": replace(_DENSE, model=p.TIED),
    "gemma-embedding": _GEMMA3,
    "gemma2": replace(
        _DENSE, model=p.TIED, layers=(_GEMMA_NORMS, Group((*p.separate(), *p.GATED)))
    ),
    "gemma3": _GEMMA3,
    "gemma3n": GEMMA3N,
    "glm4": Layout(
        p.USUAL,
        (
            _GEMMA_NORMS,
            Group((*p.separate(), *slots("ffn_up width 2*ff\nffn_down ff width"))),
        ),
        RMS,
    ),
    "gpt-oss": GPT_OSS,
    "gpt2": GPT2,
    "gptneox": GPT_NEOX,
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "internlm2": Layout(p.UNTIED, (Group((*p.NORMS, *p.WIDE, *p.GATED)),), RMS),
    "lfm2": LFM2,
    "llama": LLAMA,
    "minicpm": _FREE_HEAD,
    "nemotron": NEMOTRON,
    "nomic-bert": NOMIC,
    "nomic-bert-moe": NOMIC_MOE,
    "olmo": Layout((*p.EMBEDDING, *p.HEAD_OR_TIED), (Group((*p.WIDE, *p.GATED)),), EPS),
    "olmo2": OLMO2,
    "olmoe": OLMOE,
    "phi2": PHI2,
    "phi3": PHI3,
    "qwen2": QWEN2,
    "qwen2moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3moe": QWEN3_MOE,
    "seed_oss": Layout(
        p.USUAL,
        (Group((*p.ATTN_NORM, *slots("post_attention_norm width"), *p.separate(), *p.GATED)),),
        RMS,
    ),
    "smollm3": _DENSE,
    "stablelm": STABLELM,
    "starcoder": GPT2,
    "starcoder2": STARCODER2,
}
"""By GGUF's name of the architecture."""
