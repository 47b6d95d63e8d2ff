"""State space layers, Mamba's first and second form: their tensors, and what is done to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows.keys import U32, computed, constant, f32, u32
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.recurrent import negative_exp, squeezed
from mbuild.convert.rows.rules import Rule, each, rename

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import KeyRule

LONGEST = 1 << 20
"""The context of models that have no longest one."""

MAMBA = slots("""
    ssm_in width 2*inner
    ssm_conv1d conv inner F32
    ssm_conv1d.bias inner
    ssm_x inner time+2*state
    ssm_dt time inner
    ssm_dt.bias inner
    ssm_a. state inner
    ssm_d. inner
    ssm_out inner width
""")
MAMBA_NORMS = slots("ssm_dt_norm time\nssm_b_norm state\nssm_c_norm state")

MAMBA2 = slots("""
    ssm_in width 2*inner+2*groups*state+time
    ssm_conv1d conv inner+2*groups*state F32
    ?conv ssm_conv1d.bias inner+2*groups*state
    ssm_dt.bias time
    ssm_a. 1 time
    ssm_d. 1 time
    ssm_norm inner/groups groups
    ssm_out inner width
""")

MAMBA_RULES: tuple[Rule, ...] = (
    each(r"\.A_log$", negative_exp),
    each(r"\.conv1d\.weight$", squeezed),
)


def groups(hp: Hyper) -> int:
    """The number of groups that share a state."""
    return hp.integer("n_groups", "num_groups", "mamba_n_groups", low=1, default=1)


def _column(hp: Hyper, lazy: Lazy) -> Lazy:
    return lazy.reshape(lazy.size, 1)


def _by_group(hp: Hyper, lazy: Lazy) -> Lazy:
    return lazy.reshape(groups(hp), lazy.size // groups(hp))


MAMBA2_RULES: tuple[Rule, ...] = (
    each(r"\.A_log$", lambda hp, lazy: _column(hp, negative_exp(hp, lazy))),
    each(r"\.D$", _column),
    rename(r"\.dt_bias$", "dt_bias", "dt_proj.bias"),
    each(r"\.conv1d\.weight$", squeezed),
    each(r"\.(mixer|mamba)\.norm\.weight$", _by_group),
)


def alone(*sizes: KeyRule) -> tuple[KeyRule, ...]:
    """The keys of a model that has nothing but state space layers, ``sizes`` among them."""
    return (
        constant("context_length", U32, LONGEST),
        u32("embedding_length", "hidden_size", "d_model", "dim", low=1, required=True),
        constant("feed_forward_length", U32, 0),
        constant("attention.head_count", U32, 0),
        computed("block_count", U32, lambda hp: hp.blocks),
        *sizes,
        f32("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "rms_norm_eps", default=1e-5),
    )
