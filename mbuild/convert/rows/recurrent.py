"""Recurrent layers: gated delta nets and state space models, their sizes, tensors and changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import CONTRADICTS, ShapeError
from mbuild.convert.rows.keys import BOOL, U32, computed, u32
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.rules import Rule, each, plus_one, rename
from mbuild.convert.rows.torch_math import exp32

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import KeyRule


def negative_exp(hp: Hyper, lazy: Lazy) -> Lazy:
    """The decay from its logarithm: minus e to the x."""
    return lazy.compute(lambda values: -exp32(values))


def positive_exp(hp: Hyper, lazy: Lazy) -> Lazy:
    """A factor from its logarithm."""
    return lazy.compute(exp32)


def four_dims(hp: Hyper, lazy: Lazy) -> Lazy:
    """Kernels of a convolution by channel as (1, channels, 1, width), as ggml wants these."""
    return lazy.reshape(1, lazy.shape[0], 1, lazy.size // max(lazy.shape[0], 1))


def squeezed(hp: Hyper, lazy: Lazy) -> Lazy:
    """Without the axes of length 1."""
    return lazy.reshape(*(size for size in lazy.shape if size != 1))


def _value_heads(hp: Hyper) -> int:
    return hp.integer("linear_num_value_heads", low=1)


def _key_heads(hp: Hyper) -> int:
    return hp.integer("linear_num_key_heads", low=1)


def _inner(hp: Hyper) -> int:
    return hp.integer("linear_value_head_dim", low=1) * _value_heads(hp)


def _recurrent_layers(hp: Hyper) -> list[bool] | None:
    kinds = hp.texts("layer_types")
    if kinds is None:
        return None
    recurrent = [kind == "linear_attention" for kind in kinds]
    return [*recurrent, *[False] * (hp.blocks - len(recurrent))]


DELTA_NET_KEYS: tuple[KeyRule, ...] = (
    u32("ssm.conv_kernel", "linear_conv_kernel_dim", required=True),
    u32("ssm.state_size", "linear_key_head_dim", required=True),
    u32("ssm.group_count", "linear_num_key_heads", required=True),
    u32("ssm.time_step_rank", "linear_num_value_heads", required=True),
    computed("ssm.inner_size", U32, _inner),
    computed("attention.recurrent_layers", BOOL, _recurrent_layers),
    u32("full_attention_interval", "full_attention_interval", default=4),
)

DELTA_NET = slots("""
    attn_qkv width 2*groups*state+time*state
    attn_gate width time*state
    ssm_conv1d conv 2*groups*state+time*state F32
    ssm_dt.bias time
    ssm_a. time
    ssm_norm state
    ssm_out time*state width
""")
"""What every gated delta net has; value heads are as wide as key heads in llama.cpp."""


KDA = slots("""
    ssm_conv1d_q conv 1 kda*heads 1 F32
    ssm_conv1d_k conv 1 kda*heads 1 F32
    ssm_conv1d_v conv 1 kda*heads 1 F32
    attn_q width kda*heads
    attn_k width kda*heads
    attn_v width kda*heads
    ssm_beta width heads
    ssm_dt.bias kda*heads
    ssm_norm kda
    attn_output kda*heads width
""")
"""What delta attention with a gate for each channel has everywhere."""


def tiled(hp: Hyper, lazy: Lazy, width: int, axis: int = 0, start: int = 0) -> Lazy:
    """Value heads of ``width``, from ``start`` of an axis on, in another order: those of each key
    head side by side become the first of every key head, then the second of every one, because
    ggml repeats key heads in that way."""
    import numpy as np

    keys, values = _key_heads(hp), _value_heads(hp)
    if keys == values:
        return lazy
    if axis == len(lazy.shape) - 1:
        width //= lazy.unit
    lazy.split(axis, (start, values * width))  # checks the shape
    grouped = (*lazy.shape[:axis], keys, values // keys, width, *lazy.shape[axis + 1 :])
    if keys * (values // keys) != values:
        raise ShapeError(
            f"{lazy.origin}: {values} value heads for {keys} key heads", hint=CONTRADICTS
        )

    if axis == 0 and start % width == 0:
        before, each = start // width, values // keys
        turned = [before + key * each + value for value in range(each) for key in range(keys)]
        return lazy.in_order([*range(before), *turned], width)
    if not start:
        order = list(range(len(grouped)))
        order[axis], order[axis + 1] = order[axis + 1], order[axis]
        return lazy.reshape(*grouped).transpose(*order).reshape(*lazy.shape)

    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        first, rest = np.split(array, [start], axis)
        moved = rest.reshape(grouped).swapaxes(axis, axis + 1).reshape(rest.shape)
        return np.concatenate([first, moved], axis)

    return lazy.move(lazy.shape, change)


def _key_channels(hp: Hyper) -> int:
    return 2 * _key_heads(hp) * hp.integer("linear_key_head_dim", low=1)


def _value_width(hp: Hyper) -> int:
    return hp.integer("linear_value_head_dim", low=1)


def _after_keys(hp: Hyper, lazy: Lazy) -> Lazy:
    return tiled(hp, lazy, _value_width(hp), start=_key_channels(hp))


_A_LOG = r"linear_attn\.A_log$"
_DT = r"linear_attn\.dt_bias$"
_CONV = r"linear_attn\.conv1d\.weight$"
_DELTA_NORM = each(r"(?<!linear_attn\.)norm\.weight$", plus_one)

DELTA_NET_RULES: tuple[Rule, ...] = (
    each(_A_LOG, negative_exp),
    rename(_DT, "dt_bias", "dt_proj.bias"),
    each(_CONV, squeezed),
    _DELTA_NORM,
)
"""What is done to a gated delta net whose value heads llama.cpp repeats as they lie."""

TILED_DELTA_NET_RULES: tuple[Rule, ...] = (
    each(_A_LOG, lambda hp, lazy: negative_exp(hp, tiled(hp, lazy, 1))),
    rename(_DT, "dt_bias", "dt_proj.bias", lambda hp, lazy: tiled(hp, lazy, 1)),
    each(_CONV, lambda hp, lazy: _after_keys(hp, squeezed(hp, lazy))),
    each(r"linear_attn\.in_proj_qkv\.weight$", _after_keys),
    each(r"linear_attn\.in_proj_z\.weight$", lambda hp, lazy: tiled(hp, lazy, _value_width(hp))),
    each(r"linear_attn\.in_proj_[ab]\.weight$", lambda hp, lazy: tiled(hp, lazy, 1)),
    each(r"linear_attn\.out_proj\.weight$", lambda hp, lazy: tiled(hp, lazy, _value_width(hp), 1)),
    _DELTA_NORM,
)
"""The same where the value heads are moved (:func:`tiled`)."""
