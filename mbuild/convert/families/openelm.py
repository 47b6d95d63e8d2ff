"""OpenELM: heads and feed-forward widths that grow from layer to layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer, as_number
from mbuild.convert.rows.keys import BLOCK_COUNT, F32, U32, computed, constant, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule, halves
from mbuild.convert.vocabulary.rules import SPM
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from typing import Any

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _each(hp: Hyper, name: str) -> list[Any]:
    values = hp.value(name)
    if not isinstance(values, list) or len(values) != hp.blocks:
        raise FormatError(f"config.json: {name} is not a list of one number per layer")
    return values


def _heads(name: str) -> Any:
    return lambda hp: [as_integer(value, name, low=1) for value in _each(hp, name)]


def _feed_forward(hp: Hyper) -> list[int]:
    """The nearest multiple, but never more than a tenth below."""
    divisor, width = hp.integer("ffn_dim_divisor", low=1), hp.integer("model_dim", low=1)
    result = []
    for factor in _each(hp, "ffn_multipliers"):
        wanted = as_number(factor, "ffn_multipliers") * width
        size = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        result.append(size + divisor if size < 0.9 * wanted else size)
    return result


def _gate_up(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    layer = name.split(".")[2]
    gate, up = halves(0)(hp, lazy)
    return [(f"blk.{layer}.ffn_gate.weight", gate), (f"blk.{layer}.ffn_up.weight", up)]


OPENELM = Family(
    gguf="openelm",
    names=("OpenELMForCausalLM",),
    vocabulary=SPM,
    keys=(
        BLOCK_COUNT,
        u32("context_length", "max_context_length", low=1, required=True),
        u32("embedding_length", "model_dim", low=1, required=True),
        computed("feed_forward_length", U32, _feed_forward),
        computed("attention.head_count", U32, _heads("num_query_heads")),
        computed("attention.head_count_kv", U32, _heads("num_kv_heads")),
        f32("rope.freq_base", "rope_freq_constant", required=True),
        constant("attention.layer_norm_rms_epsilon", F32, 1e-6),
        u32("rope.dimension_count", "head_dim", low=1, required=True),
        u32("attention.key_length", "head_dim", low=1, required=True),
        u32("attention.value_length", "head_dim", low=1, required=True),
        file_type,
    ),
    layout=TensorLayout(
        p.TIED,
        (
            Group((*p.NORMS, *p.GATED, *p.QK_NORM)),
            Group(slots("attn_qkv width heads*key+2*kv*key\nattn_output heads*key width")),
        ),
        p.RMS,
    ),
    rules=(Rule(regex(r"^transformer\.layers\.\d+\.ffn\.proj_1\.weight$"), _gate_up),),
)

ROWS = (OPENELM,)
