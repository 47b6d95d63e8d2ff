"""DBRX: all experts of a layer as the rows of one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_integer, missing
from mbuild.convert.rows.keys import BLOCK_COUNT, F32, U32, constant, file_type, u32, within
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import rename, transposed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Fill, Hyper


def _experts(hp: Hyper, lazy: Lazy) -> Lazy:
    settings = hp.value("ffn_config")
    if not isinstance(settings, dict):
        raise missing("ffn_config")
    experts, inner = (
        as_integer(settings.get(name), f"ffn_config.{name}", low=1)
        for name in ("moe_num_experts", "ffn_hidden_size")
    )
    return lazy.reshape(experts, inner, hp.integer("d_model", low=1))


def _experts_down(hp: Hyper, lazy: Lazy) -> Lazy:
    return transposed(hp, _experts(hp, lazy))


_ATTENTION = {"clip_qkv": None, "kv_n_heads": 1, "rope_theta": 10000.0}
_EXPERTS_SAID = {"ffn_hidden_size": 3584, "moe_num_experts": 4, "moe_top_k": 1}


def _with(section: str, values: Mapping[str, Any]) -> Fill:
    """An object of the config, with what transformers' class of it adds."""

    def fill(config: Mapping[str, Any]) -> Any:
        given = config.get(section)
        return {**values, **given} if isinstance(given, dict) else given or dict(values)

    return fill


DBRX = Family(
    gguf="dbrx",
    names=("DbrxForCausalLM",),
    keys=(
        BLOCK_COUNT,
        u32("context_length", "max_seq_len", low=1, required=True),
        u32("embedding_length", "d_model", low=1, required=True),
        within("ffn_config", "feed_forward_length", U32, "ffn_hidden_size"),
        u32("attention.head_count", "n_heads", low=1, required=True),
        within("attn_config", "attention.head_count_kv", U32, "kv_n_heads"),
        within("attn_config", "rope.freq_base", F32, "rope_theta"),
        within("attn_config", "attention.clamp_kqv", F32, "clip_qkv"),
        within("ffn_config", "expert_count", U32, "moe_num_experts"),
        within("ffn_config", "expert_used_count", U32, "moe_top_k"),
        constant("attention.layer_norm_epsilon", F32, 1e-5),
        file_type,
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group(
                slots("""
                    attn_norm width
                    attn_qkv width width+2*kv*key
                    attn_output width width
                    attn_output_norm width
                    ffn_gate_inp width experts
                    ffn_gate_exps width ff experts
                    ffn_down_exps ff width experts
                    ffn_up_exps width ff experts
                """)
            ),
        ),
        (*p.EPS, "attention.clamp_kqv"),
    ),
    hf=HFConfig(
        "dbrx",
        aliases={
            "num_attention_heads": "n_heads",
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "max_position_embeddings": "max_seq_len",
        },
        values={
            **{"d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048},
            "vocab_size": 32000,
        },
        forced={
            "attn_config": _with("attn_config", _ATTENTION),
            "ffn_config": _with("ffn_config", _EXPERTS_SAID),
        },
        theta=None,
    ),
    rules=(
        *(
            rename(rf"ffn\.experts\.mlp\.{name}$", f".{name}", f".{name}.weight", convert)
            for name, convert in (("w1", _experts), ("v1", _experts), ("w2", _experts_down))
        ),
    ),
)

ROWS = (DBRX,)
