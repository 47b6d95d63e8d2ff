"""Apertus, whose activation function has parameters, which its checkpoints keep as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

_PARAMETERS = ("alpha_n", "alpha_p", "beta", "eps")
_PARAMETER = regex(r"\.layers\.(\d+)\.mlp\.act_fn\.(alpha_n|alpha_p|beta|eps)$")


def _xielu_keys(hp: Hyper, tensors: Mapping[str, Lazy]) -> Iterator[KV]:
    """``xielu.*``: four arrays of float32 with one number a layer, read here and now.

    Raises :class:`FormatError` if a layer has none or more than one number.
    """
    complete: dict[str, list[tuple[int, Lazy]]] = {name: [] for name in _PARAMETERS}
    for name, lazy in tensors.items():
        match = _PARAMETER.search(name)
        if match is not None:  # to the end: llama.cpp writes a key when its last layer was seen
            layers = complete.pop(match[2])
            complete[match[2]] = [*layers, (int(match[1]), lazy)]
    for parameter, layers in complete.items():
        if not layers:
            continue
        numbers = [layer for layer, _ in layers]
        if sorted(numbers) != list(range(hp.blocks)) or any(t.size != 1 for _, t in layers):
            raise FormatError(
                f"act_fn.{parameter} does not have one number for each of {hp.blocks} layers"
            )
        values = [
            float(to_f32(lazy.load(), lazy.dtype).reshape(-1)[0])
            for _, lazy in sorted(layers, key=lambda item: item[0])
        ]
        yield KV(f"xielu.{parameter}", ValueType.ARRAY, values, ValueType.FLOAT32)


APERTUS = replace(
    LLAMA,
    gguf="apertus",
    names=("ApertusForCausalLM",),
    silu=False,
    layout=TensorLayout(
        (*p.UNTIED, *p.ROPE_FREQS, *p.ROPE_FACTORS),
        (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.QK_NORM, *p.PLAIN)),),
        (*p.RMS, "xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"),
    ),
    hf=HFConfig(
        "apertus",
        untied=True,
        values={"max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "vocab_size": 131072},
        fills={"num_key_value_heads": heads},
        theta=12e6,
        rope={
            "rope_type": "llama3",
            "rope_theta": 12e6,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    rules=(),
    skip=(r"\.act_fn\.(alpha_n|alpha_p|beta|eps)$",),
    early=_xielu_keys,
)

ROWS = (APERTUS,)
