"""BitNet b1.58: each matrix is -1, 0 and 1 times one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import COMMON, F32, TEXT, constant
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each
from mbuild.convert.rows.torch_math import mean32
from mbuild.convert.vocabulary.rules import SPM_OR_BPE

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _ternary(hp: Hyper, lazy: Lazy) -> Lazy:
    """Values rounded to a multiple of their mean size, in float32:
    https://huggingface.co/1bitLLM/bitnet_b1_58-3B (``utils_quant.py``)."""

    def load() -> Any:
        import numpy as np

        from mbuild.convert.read.dtypes import to_f32

        values = to_f32(lazy.load(), lazy.dtype)
        mean = mean32(np.abs(values))
        inverse = np.float32(1) / max(mean, np.float32(1e-5))
        rounded = np.clip(np.rint(values * inverse), -1, 1) / inverse
        return rounded.astype(np.float16) if lazy.dtype is DType.F16 else rounded

    kind = DType.F16 if lazy.dtype is DType.F16 else DType.F32
    return Lazy(kind, lazy.shape, load, lazy.origin)


BITNET = Family(
    gguf="bitnet",
    names=("BitnetForCausalLM", "BitNetForCausalLM"),
    silu=True,
    vocabulary=SPM_OR_BPE,
    keys=(
        *COMMON,
        constant("rope.scaling.type", TEXT, "linear"),
        constant("rope.scaling.factor", F32, 1.0),
    ),
    layout=TensorLayout(
        p.TIED,
        (
            Group((*p.NORMS, *p.WIDE, *p.GATED)),
            Group(slots("attn_sub_norm width\nffn_sub_norm ff")),
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "bitnet",
        values={
            **{"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "vocab_size": 128256},
            **{"num_key_value_heads": 5, "hidden_act": "relu2"},
        },
        theta=500000.0,
    ),
    replaced=(("attn_sub_norm", "inner_attn_ln"), ("ffn_sub_norm", "ffn_layernorm")),
    rules=(each(r"\.(?:[qkvo]|gate|up|down)_proj\.weight$", _ternary),),
)

ROWS = (BITNET,)
