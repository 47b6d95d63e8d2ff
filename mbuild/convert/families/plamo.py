"""PLaMo 1 to 3: one with heads in groups of five, one with Mamba layers, one with a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    COMMON,
    F32,
    HEADS,
    RMS_EPS,
    U32,
    VOCAB_SIZE,
    WIDTH,
    computed,
    constant,
    f32,
    file_type,
    rope_scaling,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.recurrent import negative_exp, squeezed
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, plus, plus_one, rename
from mbuild.convert.vocabulary.rules import SPM, Reader, VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.gguf.model import KV

_GROUPS = 5
"""Key-value heads of PLaMo 1, whatever config.json says."""


def _interleaved(hp: Hyper, lazy: Lazy, axis: int) -> Lazy:
    """Heads so that those of one key-value head lie side by side."""
    heads, rest = hp.heads // _GROUPS, lazy.shape[1 - axis] if len(lazy.shape) == 2 else 0
    width = lazy.size // rest // hp.heads if rest else 0
    if axis:
        return lazy.reshape(rest, heads, _GROUPS, width).transpose(0, 2, 1, 3).reshape(*lazy.shape)
    return lazy.reshape(heads, _GROUPS, width, rest).transpose(1, 0, 2, 3).reshape(*lazy.shape)


PLAMO = Family(
    gguf="plamo",
    names=("PlamoForCausalLM",),
    vocabulary=SPM,
    keys=(
        constant("context_length", U32, 4096),
        WIDTH,
        u32("feed_forward_length", "intermediate_size", required=True),
        BLOCK_COUNT,
        HEADS,
        constant("attention.head_count_kv", U32, _GROUPS),
        RMS_EPS,
        file_type,
    ),
    layout=TensorLayout(p.UNTIED, (Group((*p.ATTN_NORM, *p.WIDE, *p.GATED)),), p.RMS),
    rules=(
        each(r"q_proj\.weight$", lambda hp, lazy: _interleaved(hp, lazy, 0)),
        each(r"o_proj\.weight$", lambda hp, lazy: _interleaved(hp, lazy, 1)),
    ),
)

_NORMS = (
    each(r"\.post_mixer_norm\.weight$", plus(1 / 5)),
    each(r"\.post_mlp_norm\.weight$", plus(1 / 5**1.5)),
    each(r"norm\.weight$", plus_one),
)
_LAYER = slots("""
    attn_norm width
    post_attention_norm. width
    ffn_norm width
    post_ffw_norm. width
    ffn_up width 2*ff
    ffn_down ff width
""")


def _heads(name: str, usual: int) -> Callable[[Hyper], list[int] | None]:
    """So many heads in each layer with attention, none in the others."""

    def compute(hp: Hyper) -> list[int] | None:
        if not hp.flag("mamba_enabled", default=True):
            return None
        count, step = hp.integer(name, default=usual), hp.integer("mamba_step", low=1, default=2)
        if hp.blocks <= step // 2:
            return [0] * (hp.blocks - 1) + [count]
        return [count * (layer % step == step // 2) for layer in range(hp.blocks)]

    return compute


_HEAD = u32("attention.key_length", "hidden_size_per_head", low=1, default=128)

PLAMO2 = Family(
    gguf="plamo2",
    names=("Plamo2ForCausalLM", "PLaMo2ForCausalLM"),
    vocabulary=VocabRule((Reader.PLAMO,)),
    keys=(
        VOCAB_SIZE,
        computed("attention.head_count_kv", U32, _heads("num_key_value_heads", 4)),
        computed("attention.head_count", U32, _heads("num_attention_heads", 32)),
        u32("context_length", "max_position_embeddings", low=1, default=2048),
        u32("embedding_length", "hidden_size", low=1, default=4096),
        _HEAD,
        replace(_HEAD, name="attention.value_length"),
        BLOCK_COUNT,
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6),
        computed("rope.freq_base", F32, lambda hp: hp.rope_number("rope_theta", 10000.0)),
        u32("ssm.state_size", "mamba_d_state", low=1, default=64),
        u32("ssm.conv_kernel", "mamba_d_conv", low=1, default=4),
        u32("ssm.time_step_rank", "mamba_num_heads", low=1, default=64),
        computed("ssm.inner_size", U32, lambda hp: _inner(hp)),
        constant("ssm.group_count", U32, 0),
        u32("feed_forward_length", "intermediate_size", low=1, default=13312),
        file_type,
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(_LAYER),
            Group(
                slots("""
                    ssm_in width 2*inner
                    ssm_conv1d conv inner F32
                    ssm_x inner steps+2*state
                    ssm_dt steps time
                    ssm_dt.bias time
                    ssm_a. time
                    ssm_d. time
                    ssm_out inner width
                    ssm_dt_norm. steps
                    ssm_b_norm. state
                    ssm_c_norm. state
                """),
                p.none("kv"),
            ),
            Group(
                slots("""
                    attn_qkv width heads*key+kv*key+kv*value
                    attn_q_norm key heads
                    attn_k_norm key kv
                    attn_output heads*value width
                """),
                p.some("kv"),
            ),
        ),
        p.RMS,
    ),
    rules=(
        each(r"\.A_log$", negative_exp),
        rename(r"\.dt_bias$", "dt_bias", "dt_proj.bias"),
        rename(r"\.(dt|B|C)_norm_weight$", "_weight", ".weight"),
        rename(r"\.[qk]_weight$", "_weight", ".weight"),
        each(r"\.conv1d\.weight$", squeezed),
        *_NORMS,
    ),
)


def _inner(hp: Hyper) -> int:
    heads = hp.integer("mamba_num_heads", low=1, default=64)
    return heads * hp.integer("hidden_size_per_head", low=1, default=128)


def _yarn(hp: Hyper) -> Iterator[KV]:
    """YaRN, which stands at the root of config.json."""
    factor = hp.number("rope_scaling_factor", default=1.0)
    if factor != 1 and "rope_type" not in hp.rope:
        original = hp.integer("initial_context_length", low=1)
        rope = {
            **{"rope_type": "yarn", "factor": factor, "beta_fast": 32.0, "beta_slow": 1.0},
            "original_max_position_embeddings": original,
        }
        hp = replace(hp, rope={**hp.rope, **rope})
    yield from rope_scaling(hp)


def _pattern(hp: Hyper) -> Any:
    """Which layers have the window, where there is one."""
    window = hp.config.get("window_size", hp.config.get("sliding_window"))
    return None if window is None else hp.value("sliding_window_pattern")


PLAMO3 = Family(
    gguf="plamo3",
    names=("Plamo3ForCausalLM", "PLaMo3ForCausalLM"),
    vocabulary=VocabRule((Reader.PLAMO,), late_template=True),
    keys=(
        *(_yarn if rule is rope_scaling else rule for rule in COMMON),
        VOCAB_SIZE,
        u32("attention.sliding_window", "window_size", "sliding_window"),
        computed("attention.sliding_window_pattern", U32, _pattern),
    ),
    layout=TensorLayout(
        p.USUAL,
        (Group((*_LAYER, *p.fused("heads*key"), *p.QK_NORM)),),
        p.RMS,
    ),
    rules=_NORMS,
)

ROWS = (PLAMO, PLAMO2, PLAMO3)
