"""GLM-4 (9B and 0414), GLM-4.5 to 4.7 with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import DEEPSEEK_V3, tied_head
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    BOOL,
    COMMON,
    F32,
    HEADS,
    NEXTN,
    NO_BOS,
    U32,
    WIDTH,
    Key,
    computed,
    constant,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import EXPERTS, each, paired
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _rotary_width(hp: Hyper) -> int:
    return int(hp.head_dim * hp.rope_number("partial_rotary_factor", 0.5))


def _for_axes(hp: Hyper, lazy: Lazy) -> Lazy:
    """Rows of queries and keys in the order that RoPE of several axes needs, where there is one."""
    if "mrope_section" not in hp.rope:
        return lazy
    return paired(lazy, hp.head_dim, _rotary_width(hp))


_FOR_AXES = (each(r"[qk]_proj\.(weight|bias)$", _for_axes),)

GLM4 = Family(
    gguf="glm4",
    names=("Glm4ForCausalLM",),
    vocabulary=VocabRule(
        tokens=(
            ("eos", "<|endoftext|>"),
            ("eot", "<|user|>"),
            ("unk", "<|endoftext|>"),
            ("bos", "<|endoftext|>"),
        )
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.POST_NORMS, *p.separate())),
            Group(slots("ffn_up width 2*ff\nffn_down ff width")),
            p.NEXTN,
        ),
        p.RMS,
    ),
    keys=(*COMMON, computed("rope.dimension_count", U32, _rotary_width)),
    hf=HFConfig(
        "glm4",
        untied=True,
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1.5625e-7,
            "vocab_size": 151552,
        },
        partial=0.5,
    ),
    rules=_FOR_AXES,
)

GLM = VocabRule(
    tokens=(
        ("bos", "[gMASK]"),
        ("eot", "<|user|>"),
        ("unk", "<|endoftext|>"),
        ("eom", "<|observation|>"),
    )
)
"""The vocabulary of GLM-4.5 and what follows it."""

GLM4_MOE = Family(
    gguf="glm4moe",
    names=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    vocabulary=GLM,
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.ATTN_NORM, *slots("post_attention_norm width"), *p.separate(), *p.QK_NORMS)),
            *p.dense_then_experts("exp_probs_b.bias experts"),
            p.NEXTN,
        ),
        (*p.RMS, "expert_shared_count"),
    ),
    keys=(
        *COMMON,
        computed("rope.dimension_count", U32, _rotary_width),
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        u32("expert_shared_count", "n_shared_experts"),
        u32("leading_dense_block_count", "first_k_dense_replace"),
        constant("expert_gating_func", U32, 2),
        f32("expert_weights_scale", "routed_scaling_factor"),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",)),
        NEXTN,
    ),
    hf=HFConfig(
        "glm4_moe",
        untied=True,
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "vocab_size": 151552,
            "moe_intermediate_size": 1408,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_routed_experts": 128,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
        },
        partial=0.5,
    ),
    rules=_FOR_AXES,
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)

GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    names=("Glm4MoeLiteForCausalLM",),
    vocabulary=GLM,
    keys=(*DEEPSEEK_V3.keys, replace(NEXTN, truthy=True)),
    hf=NO_HF_CONFIG,
    skip=(tied_head,),
    nextn="num_nextn_predict_layers",
)


def _turned(hp: Hyper) -> int:
    width = hp.integer("attention_dim", default=hp.width // hp.heads)
    return int(width * hp.rope_number("partial_rotary_factor", 0.5))


def _base(hp: Hyper) -> float:
    return 10000 * hp.number("rope_ratio", default=1.0)


CHATGLM = Family(
    gguf="chatglm",
    names=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    vocabulary=VocabRule(
        tokens=(("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"))
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.NORMS),
            Group(p.fused("heads*key"), p.some("fused")),
            Group(p.separate(), p.none("fused")),
            Group(slots("ffn_up width 2*ff\nffn_down ff width")),
        ),
        p.RMS,
    ),
    keys=(
        computed("context_length", U32, lambda hp: hp.integer("seq_length", default=hp.width)),
        WIDTH,
        u32("feed_forward_length", "ffn_hidden_size", "intermediate_size", required=True),
        BLOCK_COUNT,
        HEADS,
        u32("attention.head_count_kv", "multi_query_group_num", "num_key_value_heads"),
        f32("attention.layer_norm_rms_epsilon", "layernorm_epsilon", default=1e-5),
        file_type,
        computed("rope.dimension_count", U32, _turned),
        NO_BOS,
        computed("rope.freq_base", F32, _base),
    ),
    hf=HFConfig("chatglm", aliases={"padded_vocab_size": "vocab_size"}, theta=None),
    prefixes=(("transformer.", ""),),
    skip=(r"rotary_pos_emb\.inv_freq$",),
    head="output_layer",
)

GLM4V = replace(
    GLM4,
    names=("Glm4vForConditionalGeneration",),
    hf=HFConfig(
        "glm4v_text",
        values={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "vocab_size": 151552,
        },
    ),
)

GLM_OCR = replace(
    GLM4,
    names=("GlmOcrForConditionalGeneration",),
    keys=(*GLM4.keys, NEXTN),
    hf=NO_HF_CONFIG,
    nextn="num_nextn_predict_layers",
)

GLM_9B = replace(
    CHATGLM,
    names=("GlmForCausalLM",),
    hf=HFConfig(
        "glm",
        untied=True,
        values={
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1.5625e-7,
            "vocab_size": 151552,
        },
        partial=0.5,
    ),
    head="lm_head",
)
"""GLM-4 9B under transformers' own class."""

ROWS = (GLM4, GLM4_MOE, GLM4_MOE_LITE, CHATGLM, GLM_9B, GLM_OCR, GLM4V)
