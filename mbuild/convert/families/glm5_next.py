"""GLM-5.3 (text): delta and latent attention, an indexer, streams beside the residual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import LATENT_AT_KV, absorbed, tied_head
from mbuild.convert.families.deepseek_v32 import INDEXER, INDEXER_KEYS
from mbuild.convert.families.glm import GLM
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer, as_number, missing
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    NEXTN,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    constant,
    f32,
    replaced,
    u32,
    without,
)
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.recurrent import KDA, four_dims, negative_exp
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS, each, parts
from mbuild.convert.rows.sizes import Size
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes


def linear(hp: Hyper, name: str) -> Any:
    """A setting of delta attention."""
    config = hp.value("linear_attn_config")
    if not isinstance(config, dict):
        raise missing("linear_attn_config")
    return config.get(name)


def linear_size(key: str, name: str) -> Key:
    """A whole number among them."""
    label = f"linear_attn_config.{name}"
    return computed(key, U32, lambda hp: as_integer(linear(hp, name), label, low=1))


def _lower_bound(hp: Hyper) -> float | None:
    bound = linear(hp, "gate_lower_bound")
    return None if bound is None else as_number(bound, "linear_attn_config.gate_lower_bound")


LOWER_BOUND = computed("kda.gate_lower_bound", F32, _lower_bound)


def _kv_heads(hp: Hyper) -> list[int]:
    kinds = hp.texts("layer_types") or []
    here = [int(kind != "linear_attention") for kind in kinds[: hp.main]]
    return [*here, *[1] * (hp.blocks - len(here))]


def total(*names: str) -> Callable[[Hyper], int]:
    """The sum of numbers of config.json."""
    return lambda hp: sum(hp.integer(name) for name in names)


def decay(hp: Hyper, lazy: Lazy) -> Lazy:
    """One for each head, whatever shape they have."""
    return negative_exp(hp, lazy.reshape(lazy.size).slice(0, 0, hp.heads))


def _own_indexer(hp: Hyper) -> list[bool] | None:
    kinds = hp.value("indexer_types")
    return [kind == "full" for kind in kinds] if isinstance(kinds, list) else None


def _clamp(hp: Hyper) -> list[float] | None:
    return None if hp.value("swiglu_limit") is None else [hp.number("swiglu_limit")] * hp.blocks


def _indexed(sizes: Sizes, layer: int) -> bool:
    return bool(sizes.value("kv", layer)) and INDEXER.where(sizes, layer)


def _here(sizes: Sizes, layer: int) -> bool:
    return not ahead(sizes, layer)


GLM5_NEXT = Family(
    gguf="glm5-next",
    names=("Glm5NextForConditionalGeneration",),
    vocabulary=GLM,
    keys=(
        *replaced(
            without(COMMON, "attention.key_length", "attention.value_length"),
            computed("attention.head_count_kv", U32, _kv_heads),
        ),
        VOCAB_SIZE,
        constant("attention.layer_norm_epsilon", F32, 1e-6),
        replace(NEXTN, truthy=True),
        linear_size("ssm.conv_kernel", "short_conv_kernel_size"),
        linear_size("kda.head_dim", "head_dim"),
        LOWER_BOUND,
        u32("attention.q_lora_rank", "q_lora_rank", required=True),
        u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
        u32("rope.dimension_count", "qk_rope_head_dim", required=True),
        computed("attention.key_length", U32, total("kv_lora_rank", "qk_rope_head_dim")),
        u32("attention.value_length", "kv_lora_rank", required=True),
        computed("attention.key_length_mla", U32, total("qk_nope_head_dim", "qk_rope_head_dim")),
        u32("attention.value_length_mla", "v_head_dim", low=1, required=True),
        *INDEXER_KEYS[1:],
        u32("attention.indexer.kpool", "index_kpool", low=1, required=True),
        Key(
            "attention.indexer.kpool_select_tail",
            BOOL,
            ("index_kpool_always_select_tail",),
            default=True,
        ),
        computed("attention.indexer.types", BOOL, _own_indexer),
        u32("hyper_connection.count", "hc_mult", low=1, required=True),
        u32("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters", required=True),
        f32("hyper_connection.epsilon", "hc_eps", required=True),
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_count", "n_shared_experts", required=True),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
        computed("swiglu_clamp_exp", F32, _clamp),
        computed("swiglu_clamp_shexp", F32, _clamp),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group(p.FFN_NORM),
            Group(
                slots("""
                    hc_attn_fn streams*width 2*streams+streams*streams F32
                    hc_attn_base 2*streams+streams*streams
                    hc_attn_scale 3
                    hc_ffn_fn streams*width 2*streams+streams*streams F32
                    hc_ffn_base 2*streams+streams*streams
                    hc_ffn_scale 3
                """),
                _here,
            ),
            Group(
                (
                    *p.ATTN_NORM,
                    *KDA,
                    *slots("""
                        ssm_f_a width kda
                        ssm_f_b kda kda*heads
                        ssm_a. heads
                        ssm_g_a width kda
                        ssm_g_b kda kda*heads
                    """),
                ),
                p.none("kv"),
            ),
            *LATENT_AT_KV,
            Group(
                (
                    *INDEXER.slots,
                    *slots("""
                        indexer_compressor_gate width index_key F32
                        indexer_compressor_ape index_key pool F32
                    """),
                ),
                _indexed,
            ),
            Group(p.GATED, p.leading),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts("expert_ff*shared"),
                    *slots("exp_probs_b.bias experts"),
                ),
                p.following,
            ),
            p.NEXTN,
        ),
        (*p.RMS, "attention.kv_lora_rank", "ssm.conv_kernel", "hyper_connection.count"),
        sizes={
            "pool": Size("attention.indexer.kpool", ("index_kpool",)),
        },
    ),
    renamed=placed(
        {
            **{
                f"hc_{part}_{name}": f"hc_{part}_{name}"
                for part in ("attn", "ffn")
                for name in ("fn", "base", "scale")
            },
            "self_attn.indexer.index_kpool_compress_gate": "indexer_compressor_gate",
            "self_attn.indexer.index_kpool_compress_ape": "indexer_compressor_ape",
            "self_attn.A_log": "ssm_a.",
            "self_attn.dt_bias": "ssm_dt.bias.",
        }
    ),
    rules=(
        each(r"_conv1d\.weight$", four_dims),
        each(r"\.ssm_a$", decay),
        parts(
            r"kv_b_proj\.weight$",
            "kv_b_proj",
            ("k_b_proj", "v_b_proj"),
            lambda hp, lazy: absorbed(hp, lazy, hp.heads),
        ),
    ),
    stacks=(EXPERTS,),
    skip=(tied_head,),
    nextn="num_nextn_predict_layers",
)

ROWS = (GLM5_NEXT,)
