"""Weights of zeros alone: a download that was cut is noticed, a model with some zeros is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mbuild.convert.encoded import encoded
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.zeros import ZeroWatch
from mbuild.gguf.model import Model, Tensor


def tensor(name: str, values: np.ndarray) -> Tensor:
    """A tensor of F32 values, which can be loaded in pieces."""
    flat = values.reshape(-1)
    lazy = Lazy(DType.F32, values.shape, lambda: values, name, part=lambda a, b: flat[a:b])
    return encoded(name, lazy, OutType.F16, ())


def said(*tensors: Tensor, piece: int = 1 << 20) -> list[str]:
    """The warnings after all of each tensor was loaded, piece by piece."""
    watch = ZeroWatch()
    model = watch.watching(Model((), tensors))
    for each in model.tensors:
        for part in each.load.pieces(piece):
            part()
    return watch.warnings(model.tensors)


def test_zeros_alone_are_said() -> None:
    """Whole or in pieces, with the number of those that are like the first."""
    empty = np.zeros((4, 64), np.float32)
    for piece in (1 << 20, 128):
        first, second = tensor("blk.0.ffn_up.weight", empty), tensor("output_norm.weight", empty[0])
        (text,) = said(first, second, piece=piece)
        assert text.startswith("blk.0.ffn_up.weight holds nothing but zeros, like 1 more:")
        assert "download" in text


def test_one_value_is_enough() -> None:
    """A matrix that has a value anywhere is none that was never fetched."""
    values = np.zeros((4, 64), np.float32)
    values[3, 63] = 1e-9
    assert said(tensor("blk.0.ffn_up.weight", values), piece=128) == []


def test_some_zeros_are_meant() -> None:
    """Biases begin as zeros, and RoBERTa has no kinds of tokens."""
    empty = np.zeros((1, 64), np.float32)
    assert said(tensor("blk.0.attn_q.bias", empty[0]), tensor("token_types.weight", empty)) == []


def test_what_was_not_loaded_is_not_judged() -> None:
    """Pieces that came from the cache say nothing, and neither does a half of a tensor."""
    watch = ZeroWatch()
    model = watch.watching(Model((), (tensor("a.weight", np.zeros((4, 64), np.float32)),)))
    next(iter(model.tensors[0].load.pieces(128)))()
    assert watch.warnings(model.tensors) == []
    assert watch.warnings([replace(model.tensors[0], load=lambda: None)]) == []
