"""Gemma 3n (text)."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.gemma import GEMMA3
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_number
from mbuild.convert.rows.keys import BOOL, computed, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Stack, each, rename
from mbuild.convert.rows.sizes import LAUREL_RANK
from mbuild.core.errors import FormatError
from mbuild.core.values import replace
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes

_MAX_LAYERS = 1 << 16


def _layers(config: Mapping[str, Any]) -> int:
    count = config.get("num_hidden_layers")
    return count if type(count) is int and 0 < count < _MAX_LAYERS else 0


def _widths(config: Mapping[str, Any]) -> Any:
    width = config.get("intermediate_size", 16384)
    return width if isinstance(width, list) else [width] * _layers(config)


def _layer_types(config: Mapping[str, Any]) -> list[str]:
    return [
        "full_attention" if (layer + 1) % 5 == 0 else "sliding_attention"
        for layer in range(_layers(config))
    ]


def _sparsity(config: Mapping[str, Any]) -> list[float]:
    count = _layers(config)
    sparse = 10 if count > 10 else 0
    return [0.95] * sparse + [0.0] * (count - sparse)


def _sparsity_scale(hp: Hyper) -> Iterator[KV]:
    """The standard normal's quantile of each layer's share of zeros; no zeros: minus infinity."""
    shares = hp.value("activation_sparsity_pattern")
    if not isinstance(shares, list) or len(shares) != hp.blocks:
        raise FormatError("config.json: activation_sparsity_pattern is not one number per layer")
    scales = [_quantile(as_number(share, "activation_sparsity_pattern")) for share in shares]
    key = f"{hp.arch}.activation_sparsity_scale"
    yield KV(key, ValueType.ARRAY, scales, ValueType.FLOAT32)


def _quantile(share: float) -> float:
    """As torch computes it: the root of two times erfinv(2 share - 1), each step in float32."""
    import numpy as np

    f32 = np.float32
    centred = f32(2) * f32(share) - f32(1)
    if not -1 <= centred < 1:
        raise FormatError(f"config.json: activation_sparsity_pattern has {share}, not 0 to below 1")
    if centred == -1:
        return -math.inf
    inverse = NormalDist().inv_cdf((float(centred) + 1) / 2) / math.sqrt(2)
    return float(f32(inverse) * f32(math.sqrt(2)))


def _padded(hp: Hyper, lazy: Lazy) -> Lazy:
    """Rows of zeros for the tokens of images and sound, whose embeddings come from elsewhere."""
    lazy.need_dims(2)
    rows = hp.integer("vocab_size", default=262400)
    missing = rows - lazy.shape[0]
    if missing <= 0:
        return lazy
    if missing > lazy.shape[0]:
        raise FormatError(f"{lazy.origin} has {lazy.shape[0]} rows, but vocab_size is {rows}")

    def pad(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        return np.concatenate([values, np.zeros((missing, values.shape[1]), values.dtype)])

    return lazy.move((rows, lazy.shape[1]), pad)


def _altup(kind: str) -> Stack:
    return Stack(
        re.compile(rf"{kind}\.(?P<index>\d+)\.weight$"),
        ("",),
        f"model.{kind}.weight",
        lambda hp: hp.integer("altup_num_inputs", low=2) - 1,
    )


def _rank(sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    rank = sizes.value("laurel", 0)
    if rank != LAUREL_RANK:
        yield f"llama.cpp loads only a laurel_rank of {LAUREL_RANK}, not {rank}"


_LAYOUT = replace(
    GEMMA3.layout,
    doubts=_rank,
    model=(
        *p.USUAL,
        *slots("""
            altup_proj width width altup+-1
            altup_unembd_proj width width altup+-1
            per_layer_token_embd per_layer*layers tokens
            per_layer_model_proj width per_layer*layers
            per_layer_proj_norm per_layer
        """),
    ),
    layers=(
        *GEMMA3.layout.layers,
        Group(
            slots("""
                inp_gate width per_layer
                proj per_layer width
                post_norm width
                altup_correct_coef altup altup F32
                altup_correct_scale width
                altup_predict_coef altup altup*altup F32
                altup_router width altup
                altup_router_norm width
                laurel_l width laurel
                laurel_r laurel width
                laurel_post_norm width
            """)
        ),
    ),
)

GEMMA3N = Family(
    gguf="gemma3n",
    names=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    vocabulary=GEMMA3.vocabulary,
    padded=True,
    layout=_LAYOUT,
    keys=(
        *GEMMA3.keys,
        u32("altup.active_idx", "altup_active_idx", required=True),
        u32("altup.num_inputs", "altup_num_inputs", required=True),
        u32("embedding_length_per_layer_input", "hidden_size_per_layer_input", required=True),
        u32("attention.shared_kv_layers", "num_kv_shared_layers", required=True),
        _sparsity_scale,
        computed("attention.sliding_window_pattern", BOOL, sliding_pattern),
    ),
    hf=HFConfig(
        "gemma3n_text",
        values={
            "max_position_embeddings": 32768,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "vocab_size": 262400,
            "vocab_size_per_layer_input": 262144,
            "hidden_size_per_layer_input": 256,
            "sliding_window": 512,
            "final_logit_softcapping": 30.0,
            "altup_active_idx": 0,
            "altup_num_inputs": 4,
            "num_kv_shared_layers": 15,
        },
        fills={"layer_types": _layer_types, "activation_sparsity_pattern": _sparsity},
        forced={"intermediate_size": _widths},
        theta=1e6,
        sliding_theta=10000.0,
    ),
    rules=(
        each(r"embed_tokens\.weight$|embed_tokens_per_layer", _padded),
        rename(r"_scale$", "_scale", "_scale.weight"),
    ),
    stacks=(_altup("altup_unembed_projections"), _altup("altup_projections")),
)

ROWS = (GEMMA3N,)
