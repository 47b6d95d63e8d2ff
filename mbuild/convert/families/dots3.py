"""Dots 3 Note (text): latent attention of two kinds, full with an indexer, and sliding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import DEEPSEEK_V3, absorbed, tied_head
from mbuild.convert.families.deepseek_v32 import INDEXER, INDEXER_KEYS
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import main_layers
from mbuild.convert.rows.keys import BOOL, U32, computed, replaced, u32
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Rule, times
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.layout import Where
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes
    from mbuild.gguf.model import KV

_AHEAD = "model.mtp.embed_tokens.weight"
_ONLY: tuple[tuple[str, Any], ...] = (
    ("use_dsa", True),
    ("normalization", "RMSNorm"),
    ("final_norm", "RMSNorm"),
    ("k_rope_only_layernorm", True),
    ("topk_method", "noaux_tc"),
    ("n_group", 1),
    ("topk_group", 1),
    ("use_dynamic_rsf", False),
    ("moe_gating_fp32", False),
    ("attention_gate_type", "headwise"),
    ("swa_attention_gate_type", "headwise"),
)
"""Settings that llama.cpp has one value for."""


def _slides(hp: Hyper, layer: int) -> bool:
    kinds = hp.texts("layer_types") or []
    return layer >= hp.main or kinds[layer] == "sliding_attention"


def _heads(hp: Hyper) -> list[int]:
    names = {True: "swa_num_attention_heads", False: "num_attention_heads"}
    return [hp.integer(names[_slides(hp, layer)], low=1) for layer in range(hp.blocks)]


def _pattern(hp: Hyper) -> list[bool]:
    return [_slides(hp, layer) for layer in range(hp.main)]


def _sum(*names: str) -> Any:
    return lambda hp: sum(hp.integer(name, low=1) for name in names)


def _supported(hp: Hyper) -> Iterator[KV]:
    """Nothing; raises :class:`UnsupportedError` for what llama.cpp does not compute."""
    for name, value in _ONLY:
        if hp.config.get(name, value) != value:
            raise UnsupportedError(f"config.json: {name} is {hp.config[name]!r:.60}, not {value!r}")
    for one, other in (
        ("swa_qk_rope_head_dim", "qk_rope_head_dim"),
        ("swa_q_lora_rank", "q_lora_rank"),
    ):
        if hp.integer(one) != hp.integer(other):
            raise UnsupportedError(f"config.json: {one} is not {other}, which llama.cpp needs")
    yield from ()


_PLACED = placed(
    {"self_attn.k_rope_only_layernorm": "attn_k_norm", "self_attn.g_proj": "attn_gate"}
)


def _renamed(config: Mapping[str, Any], name: str) -> str:
    if name == _AHEAD:
        return f"model.layers.{main_layers(config)}.embed_tokens.weight"
    return _PLACED(config, name)


def _layers_ahead(names: Iterable[str]) -> int:
    return int(_AHEAD in names)


def _layer(name: str) -> int:
    return int(name.split(".")[2])


def _kv(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Keys and values for the absorbed form, by the sizes of the layer's kind."""
    sliding = _slides(hp, _layer(name))
    before = "swa_" if sliding else ""
    sizes = {n: hp.integer(f"{before}{n}", low=1) for n in ("qk_nope_head_dim", "v_head_dim")}
    own = replace(hp, config={**hp.config, **sizes})
    halves = absorbed(own, lazy, hp.integer(f"{before}num_attention_heads", low=1))
    return [
        (name.replace("kv_b_proj", label), half)
        for label, half in zip(("k_b_proj", "v_b_proj"), halves, strict=True)
    ]


def _norm(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """The factor of a latent's width becomes part of the norm before it."""
    if not hp.flag("apply_mla_qkv_lora_rescale"):
        return [(name, lazy)]
    before = "swa_" if ".kv_a_" in name and _slides(hp, _layer(name)) else ""
    rank = hp.integer(f"{before}{'kv' if '.kv_a_' in name else 'q'}_lora_rank", low=1)
    return [(name, times(lazy, math.sqrt(hp.width / rank)))]


def _kind(sliding: bool) -> Where:
    def where(sizes: Sizes, layer: int) -> bool:
        return (bool(sizes.value("sliding", layer)) or ahead(sizes, layer)) is sliding

    return where


def _dense(sizes: Sizes, layer: int) -> bool:
    return ahead(sizes, layer) or p.leading(sizes, layer)


def _latent(end: str) -> str:
    return f"""
        attn_kv_a_norm kv_rank{end}
        attn_kv_a_mqa width kv_rank{end}+rotary
        attn_q_b q_rank heads*key_mla{end}
        attn_k_b key_mla{end}+-rotary kv_rank{end} heads
        attn_v_b kv_rank{end} value_mla{end} heads
        attn_output heads*value_mla{end} width
    """


DOTS3_NOTE = replace(
    DEEPSEEK_V3,
    gguf="dots3note",
    names=(
        *("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"),
        "Dots3NoteTextForCausalLM",
    ),
    hf=NO_HF_CONFIG,
    vocabulary=VocabRule(eot_text="<|endofassistant|>"),
    settled={"head_dim": lambda config: None},
    keys=(
        _supported,
        *replaced(DEEPSEEK_V3.keys, computed("attention.head_count", U32, _heads)),
        u32("attention.sliding_window", "sliding_window_size", required=True),
        computed("attention.sliding_window_pattern", BOOL, _pattern),
        u32("attention.kv_lora_rank_swa", "swa_kv_lora_rank", required=True),
        computed("attention.key_length_swa", U32, _sum("swa_kv_lora_rank", "swa_qk_rope_head_dim")),
        u32("attention.value_length_swa", "swa_kv_lora_rank", required=True),
        computed(
            "attention.key_length_mla_swa",
            U32,
            _sum("swa_qk_nope_head_dim", "swa_qk_rope_head_dim"),
        ),
        u32("attention.value_length_mla_swa", "swa_v_head_dim", required=True),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
        *INDEXER_KEYS[1:],
        computed("attention.indexer.types", BOOL, lambda hp: [not s for s in _pattern(hp)]),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(
                (
                    *p.NORMS,
                    *slots("""
                        attn_q_a width q_rank
                        attn_q_a_norm q_rank
                        attn_k_norm rotary
                        attn_gate width heads
                    """),
                )
            ),
            Group(slots(_latent("")), _kind(sliding=False)),
            Group(slots(_latent("_swa")), _kind(sliding=True)),
            Group(INDEXER.slots, _kind(sliding=False)),
            Group(p.GATED, _dense),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts("expert_ff*shared"),
                    *slots("exp_probs_b.bias experts"),
                ),
                lambda sizes, layer: not _dense(sizes, layer),
            ),
            p.NEXTN,
        ),
        (*p.RMS, "expert_gating_func", "rope.freq_base_swa", "attention.q_lora_rank"),
    ),
    renamed=_renamed,
    skip=(tied_head,),
    rules=(
        Rule(regex(r"kv_b_proj\.weight$"), _kv),
        Rule(regex(r"(q|kv)_a_layernorm\.weight$"), _norm),
    ),
    counted=_layers_ahead,
)

ROWS = (DOTS3_NOTE,)
