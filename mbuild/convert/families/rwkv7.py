"""RWKV 7, and Qwen 2 with its layers in the place of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows import rwkv
from mbuild.convert.rows.keys import RMS_EPS, U32, computed, constant, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import RWKV, SPM_OR_BPE
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import Key
    from mbuild.convert.rows.layout import Where


def _rank(key: str, names: tuple[str, str], exponent: float, factor: float) -> Key:
    def compute(hp: Hyper) -> int:
        usual = max(1, round(hp.width**exponent * factor / 32)) * 32
        return hp.integer(*names, default=usual)

    return computed(f"attention.{key}_lora_rank", U32, compute)


def _kinds(hp: Hyper) -> str:
    return "rwkvag" if hp.flag("wkv_has_gate", default=True) else "rwkva"


def _inner(hp: Hyper) -> int:
    return hp.integer("intermediate_size", default=4 * hp.width)


_FIRST: tuple[Where, Where] = (
    lambda sizes, layer: layer == 0,
    lambda sizes, layer: layer > 0,
)

LAYERS = (
    Group(rwkv.RWKV7),
    Group(rwkv.FIRST_VALUES, _FIRST[0]),
    Group(rwkv.OTHER_VALUES, _FIRST[1]),
)
_GATE = "time_mix_g1 width gate_rank\ntime_mix_g2 gate_rank width"
_LERPS = r"layers\.(?P<layer>\d+)\.attention\.x_(?P<index>[a-z])\.weight$"

RWKV7 = Family(
    gguf="rwkv7",
    names=("Rwkv7ForCausalLM", "RWKV7ForCausalLM"),
    vocabulary=RWKV,
    keys=(
        *rwkv.keys(
            f32("attention.layer_norm_epsilon", "norm_eps", "layer_norm_epsilon", required=True),
            u32("wkv.head_size", "head_size", "head_dim", low=1, required=True),
            _rank("decay", ("lora_rank_decay", "decay_low_rank_dim"), 0.5, 1.8),
            _rank("iclr", ("lora_rank_iclr", "a_low_rank_dim"), 0.5, 1.8),
            _rank(
                "value_residual_mix", ("lora_rank_value_residual_mix", "v_low_rank_dim"), 0.5, 1.3
            ),
            _rank("gate", ("lora_rank_gate", "gate_low_rank_dim"), 0.8, 0.6),
            computed("feed_forward_length", U32, _inner),
        ),
        rwkv.NO_HEADS,
    ),
    layout=TensorLayout(
        (*p.UNTIED, *rwkv.NORMS),
        (
            Group((*rwkv.LAYER_NORMS, *rwkv.GROUP_NORM, *slots(_GATE))),
            *LAYERS,
            Group(
                slots("""
                    time_mix_lerp_fused width 1 1 6 F32
                    channel_mix_lerp_k width
                    channel_mix_key width ff
                    channel_mix_value ff width
                """)
            ),
        ),
        (*p.EPS, "wkv.head_size"),
    ),
    replaced=rwkv.RWKV7_NAMES,
    renamed=rwkv.with_ending,
    rules=rwkv.RWKV7_RULES,
    stacks=(rwkv.lerps(_LERPS, _kinds),),
)


def _gate_rank(hp: Hyper) -> int:
    return 128 if hp.flag("wkv_has_gate") else 0


ARWKV7 = replace(
    RWKV7,
    gguf="arwkv7",
    names=("RwkvHybridForCausalLM",),
    vocabulary=SPM_OR_BPE,
    keys=(
        *rwkv.keys(
            RMS_EPS,
            u32("wkv.head_size", "head_size", low=1, required=True),
            constant("attention.decay_lora_rank", U32, 64),
            constant("attention.iclr_lora_rank", U32, 64),
            constant("attention.value_residual_mix_lora_rank", U32, 32),
            computed("attention.gate_lora_rank", U32, _gate_rank),
            u32("feed_forward_length", "intermediate_size", required=True),
        ),
        rwkv.SHIFT,
        rwkv.NO_HEADS,
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.GATED)),
            *LAYERS,
            Group(
                slots("""
                    ?gate time_mix_g1 width gate_rank
                    ?gate time_mix_g2 gate_rank width
                    ?ln time_mix_ln width
                    ?ln time_mix_ln.bias width
                """)
            ),
            Group(slots("time_mix_lerp_fused width 1 1 6 F32"), p.some("gate_rank")),
            Group(slots("time_mix_lerp_fused width 1 1 5 F32"), p.none("gate_rank")),
        ),
        (*p.RMS, "wkv.head_size"),
    ),
)
ROWS = (RWKV7, ARWKV7)
