"""Granite Switch: a dense Granite with adapters in it, one of which a control token turns on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.granite import GRANITE_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import LAYER_NAMES
from mbuild.convert.rows.keys import U32, computed, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Rule, halves, rotary
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_PARTS = {
    "self_attn.qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "self_attn.o_proj": ("attn_output",),
    "shared_mlp.input_linear": ("ffn_gate", "ffn_up"),
    "shared_mlp.output_linear": ("ffn_down",),
}
_ADAPTER = regex(rf"\.(\d+)\.({'|'.join(map(re.escape, _PARTS))})\.lora_([AB])(?:_slices\.(\d))?$")


def _without_switch(config: Mapping[str, Any]) -> Any:
    """One layer of config.json is the switch, which has no weights."""
    count = next((config[name] for name in LAYER_NAMES if name in config), None)
    return count - 1 if type(count) is int and count > 1 else count


def _adapters(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """One matrix for each adapter, behind one of zeros for a text without any."""
    import numpy as np

    match = _ADAPTER.search(name)
    assert match is not None  # the rule's pattern
    part = _PARTS[match[2]][int(match[4] or 0)]
    lazy.need_dims(4)
    count, one, rows, columns = lazy.shape
    if one != 1 or count != hp.integer("num_adapters"):
        raise FormatError(
            f"{lazy.origin} has the shape {list(lazy.shape)} for"
            f" {hp.integer('num_adapters')} adapters"
        )
    flat = lazy.reshape(count, rows, columns)
    heads = {"attn_q": hp.heads, "attn_k": hp.kv_heads}.get(part)
    if match[3] == "B" and heads is not None:
        flat = _turned(flat, heads)

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.concatenate([np.zeros_like(values[:1]), values])

    stacked = flat.move((count + 1, rows, columns), change)
    return [(f"blk.{match[1]}.{part}.lora_{match[3].lower()}", stacked)]


def _turned(lazy: Lazy, heads: int) -> Lazy:
    """The rows of each adapter in the order that those of its base have."""
    count, rows, columns = lazy.shape
    return rotary(lazy.reshape(count * rows, columns), count * heads).reshape(count, rows, columns)


def _attention(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries, keys and values in one matrix, turned as llama.cpp's RoPE wants them."""
    import numpy as np

    width, layer = hp.width // hp.heads, name.split(".")[2]
    own = hp.optional_integer("projection_head_dim", low=1) or hp.optional_integer("head_dim")
    width = own or width
    sizes = (hp.heads * width, hp.kv_heads * width, hp.kv_heads * width)
    lazy.split(0, sizes)  # checks the shape

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        q, k, v = np.split(values, [sizes[0], sizes[0] + sizes[1]])
        turned = [
            part.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(part.shape)
            for part, heads in ((q, hp.heads), (k, hp.kv_heads))
        ]
        return np.concatenate([*turned, v])

    return [(f"blk.{layer}.attn_qkv.weight", lazy.move(lazy.shape, change))]


def _gate_up(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    layer = name.split(".")[2]
    gate, up = halves(0)(hp, lazy)
    return [(f"blk.{layer}.ffn_gate.weight", gate), (f"blk.{layer}.ffn_up.weight", up)]


def _one(part: str) -> Any:
    return lambda hp, name, lazy: [(f"blk.{name.split('.')[2]}.{part}.weight", lazy)]


def _base(name: str, action: Any) -> Rule:
    return Rule(re.compile(rf"{re.escape(name)}\.base_layer\.weight$"), action)


_LORA = "\n".join(
    f"{name}.lora_a. {inner} rank slots\n{name}.lora_b. rank {outer} slots"
    for name, inner, outer in (
        ("attn_q", "width", "heads*key"),
        ("attn_k", "width", "kv*key"),
        ("attn_v", "width", "kv*value"),
        ("attn_output", "heads*key", "width"),
        ("ffn_gate", "width", "ff"),
        ("ffn_up", "width", "ff"),
        ("ffn_down", "ff", "width"),
    )
)

GRANITE_SWITCH = replace(
    GRANITE_MOE,
    gguf="graniteswitch",
    names=("GraniteSwitchForCausalLM",),
    hf=NO_HF_CONFIG,
    settled={"num_hidden_layers": _without_switch},
    keys=(
        *GRANITE_MOE.keys,
        computed(
            "expert_used_count", U32, lambda hp: 0 if not hp.value("num_local_experts") else None
        ),
        u32("adapters.count", "num_adapters", required=True),
        u32("adapters.lora_rank", "max_lora_rank", required=True),
        u32("adapters.token_ids_activate", "adapter_token_ids", required=True),
        u32("adapters.token_ids_substitute", "adapter_substitute_token_ids", required=True),
        f32("adapters.router_gain", "control_token_gain", default=15.0),
    ),
    layout=TensorLayout(
        p.TIED,
        (
            Group(
                (
                    *p.NORMS,
                    *slots("attn_qkv width heads*key+kv*key+kv*value\nattn_output heads*key width"),
                    *p.GATED,
                    *slots(_LORA),
                )
            ),
        ),
        (*p.RMS, "logit_scale", "adapters.count"),
    ),
    skip=(
        r"^(model\.)?switch\.",
        r"(^|\.)(adapter_token_ids|control_to_substitute_lut)$",
        r"^lm_head\.weight$",
    ),
    rules=(
        Rule(_ADAPTER, _adapters),
        _base("self_attn.qkv_proj", _attention),
        _base("self_attn.o_proj", _one("attn_output")),
        _base("shared_mlp.input_linear", _gate_up),
        _base("shared_mlp.output_linear", _one("ffn_down")),
    ),
)

ROWS = (GRANITE_SWITCH,)
