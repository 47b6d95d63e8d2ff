"""Hunyuan V4: gated latent attention with sinks, an indexer, streams beside the residual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import DEEPSEEK_V3, LATENT, absorbed, tied_head
from mbuild.convert.families.deepseek_v32 import INDEXER
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, F32, U32, computed, constant, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Rule, halves, parts
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes

_SPARSE = ("sparse_attention", "deepseek_sparse_attention")


def _own_indexer(hp: Hyper) -> list[bool] | None:
    """Which layers have an indexer of their own; none at all where the model has none."""
    kinds, whole = hp.texts("indexer_types"), "full"
    if kinds is None:
        kinds = [whole if kind in _SPARSE else "" for kind in hp.texts("layer_types") or []]
        if whole not in kinds:
            return None
    own = [kind == whole for kind in kinds[: hp.blocks]]
    if not own[0]:
        raise FormatError("config.json: layer 0 has no indexer, and nothing before it to share")
    return own


def _index(name: str) -> Any:
    def compute(hp: Hyper) -> int | None:
        return None if _own_indexer(hp) is None else hp.integer(name, low=1)

    return compute


def _dense(config: Mapping[str, Any]) -> Any:
    """The first layers that ``mlp_layer_types`` calls dense, if config.json does not say it."""
    kinds, said = config.get("mlp_layer_types"), config.get("first_k_dense_replace")
    if not isinstance(kinds, list):
        return said
    lead = next((n for n, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    if "dense" in kinds[lead:] or (said is not None and said != lead):
        raise FormatError("config.json: mlp_layer_types are not first_k_dense_replace dense layers")
    return lead


def _ungrouped(name: str) -> Any:
    """No groups of experts where there is one alone."""

    def settle(config: Mapping[str, Any]) -> Any:
        alone = config.get("n_group") == 1 and config.get("topk_group") == 1
        return None if alone else config.get(name)

    return settle


def _heads(config: Mapping[str, Any]) -> Any:
    return config.get("num_attention_heads")


def _clamp(hp: Hyper) -> list[float] | None:
    limit = hp.number("swiglu_limit", default=0.0)
    return [limit] * hp.blocks if limit > 0 else None


def _experts(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """All experts' gate and up projections in one tensor."""
    lazy.need_dims(3)
    layer = name.split(".")[2]
    return [
        (f"blk.{layer}.ffn_{part}_exps.weight", half)
        for part, half in zip(("gate", "up"), halves(1)(hp, lazy), strict=True)
    ]


def _absorbed(hp: Hyper, lazy: Lazy) -> list[Lazy]:
    return absorbed(hp, lazy, hp.heads)


def _indexed(sizes: Sizes, layer: int) -> bool:
    return bool(sizes.value("index_heads", layer)) and bool(sizes.value("indexed", layer))


_HC = ("fn", "base", "scale")

HY_V4 = replace(
    DEEPSEEK_V3,
    gguf="hy_v4",
    names=("HYV4ForCausalLM",),
    hf=NO_HF_CONFIG,
    settled={
        "topk_group": _ungrouped("topk_group"),
        "n_group": _ungrouped("n_group"),
        "first_k_dense_replace": _dense,
        "num_key_value_heads": _heads,
    },
    keys=(
        *DEEPSEEK_V3.keys,
        constant("expert_gating_func", U32, 2),
        computed("swiglu_clamp_exp", F32, _clamp),
        u32("hyper_connection.count", "hc_mult", low=1, required=True),
        f32("hyper_connection.epsilon", "hc_eps", required=True),
        f32("hyper_connection.magnitude", "hc_magnitude", required=True),
        computed("attention.indexer.head_count", U32, _index("index_n_heads")),
        computed("attention.indexer.key_length", U32, _index("index_head_dim")),
        computed("attention.indexer.top_k", U32, _index("index_topk")),
        computed("attention.indexer.types", BOOL, _own_indexer),
    ),
    layout=TensorLayout(
        (
            *p.UNTIED,
            *slots("""
                output_hc_fn streams*width streams F32
                output_hc_base streams
                output_hc_scale 1
            """),
        ),
        (
            *LATENT,
            Group(
                slots("""
                    attn_sinks heads
                    attn_gate width heads*value_mla
                    hc_attn_fn streams*width 2*streams F32
                    hc_attn_base 2*streams
                    hc_attn_scale 2
                    hc_ffn_fn streams*width 2*streams F32
                    hc_ffn_base 2*streams
                    hc_ffn_scale 2
                """)
            ),
            Group(INDEXER.slots, _indexed),
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
        (*p.RMS, "attention.q_lora_rank", "hyper_connection.count"),
    ),
    renamed=placed(
        {
            **{
                f"hc_{theirs}_layer.hc_pre.hc_{name}": f"hc_{ours}_{name}"
                for theirs, ours in (("attn", "attn"), ("mlp", "ffn"))
                for name in _HC
            },
            **{f"model.hc_head.hc_head_{name}": f"output_hc_{name}.weight" for name in _HC},
            "self_attn.learnable_sink_param": "attn_sinks",
            "mlp.experts.down_proj": "ffn_down_exps",
        }
    ),
    skip=(tied_head, r"^model\.mtp_layers\."),
    rules=(
        Rule(regex(r"mlp\.experts\.gate_up_proj$"), _experts),
        parts(r"kv_b_proj\.weight$", "kv_b_proj", ("k_b_proj", "v_b_proj"), _absorbed),
    ),
)

ROWS = (HY_V4,)
