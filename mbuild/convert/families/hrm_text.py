"""HRM: two stacks of layers that are gone through several times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, COMMON, ROPE_HEAD_DIM, Key, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import halves, parts
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes

_PART = regex(r"^model\.([LH])_module\.layers\.(\d{1,6})\.(attn\.)?(.+)$")


def _stack(config: Mapping[str, Any]) -> Any:
    return config.get("num_layers_per_stack") or config.get("num_hidden_layers")


def _times(config: Mapping[str, Any]) -> Any:
    """Layers as often as they are gone through: each needs a cache of its own."""
    stack, high, low = _stack(config), config.get("H_cycles"), config.get("L_cycles")
    if type(stack) is int and type(high) is int and type(low) is int:
        return stack * high * (low + 1)
    return config.get("num_hidden_layers")


def _named(config: Mapping[str, Any], name: str) -> str:
    """The layers of the high stack stand behind those of the low one."""
    match = _PART.match(name)
    first = _stack(config)
    if match is None or type(first) is not int:
        return "hrm.z_l_init" if name == "model.z_L_init" else name
    layer = int(match[2]) + (first if match[1] == "H" else 0)
    return f"model.layers.{layer}.{'self_attn.' if match[3] else ''}{match[4]}"


def _there(sizes: Sizes, layer: int) -> bool:
    return layer < 2 * (sizes.value("stack", 0) or 0)


def _quarters(hp: Hyper, lazy: Lazy) -> list[Lazy]:
    return lazy.split(0, 4 * ((lazy.shape or (0,))[0] // 4,))


HRM_TEXT = Family(
    gguf="hrm_text",
    names=("HrmTextForCausalLM",),
    keys=(
        *COMMON,
        ROPE_HEAD_DIM,
        f32("embedding_scale", "embedding_scale", required=True),
        u32("hrm.layers_per_stack", "num_layers_per_stack", low=1, required=True),
        u32("hrm.h_cycles", "H_cycles", low=1, required=True),
        u32("hrm.l_cycles", "L_cycles", low=1, required=True),
        Key("hrm.prefix_lm", BOOL, ("prefix_lm",), default=False),
    ),
    layout=TensorLayout(
        (*p.EMBEDDING, *p.HEAD_OR_TIED, *slots("hrm.z_l_init. width")),
        (Group((*p.separate(), *slots("attn_gate width heads*key"), *p.GATED), _there),),
        (*p.RMS, "hrm.layers_per_stack"),
    ),
    settled={"num_layers_per_stack": _stack, "num_hidden_layers": _times},
    renamed=_named,
    rules=(
        parts(
            r"gqkv_proj\.weight$",
            "gqkv_proj",
            ("gate_proj", "q_proj", "k_proj", "v_proj"),
            _quarters,
        ),
        parts(r"gate_up_proj\.weight$", "gate_up_proj", ("gate_proj", "up_proj"), halves(0)),
    ),
)

ROWS = (HRM_TEXT,)
