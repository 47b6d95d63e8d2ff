"""Weights of zeros alone: a download that was cut is noticed, a model with some zeros is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbuild.convert.encoded import Encoded, encoded
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.scaled import scaled
from mbuild.convert.zeros import ZeroWatch
from mbuild.core.values import replace
from mbuild.gguf.model import Model, Tensor


def tensor(name: str, values: np.ndarray) -> Tensor:
    """A tensor of F32 values, which can be loaded in pieces."""
    flat = values.reshape(-1)
    lazy = Lazy(DType.F32, values.shape, lambda: values, name, part=lambda a, b: flat[a:b])
    return encoded(name, lazy, OutType.F16, ())


def coded(codes: np.ndarray, scale: float, outtype: OutType) -> Tensor:
    """A weight of 8 bits for each value, times one number, which machine code decodes."""
    flat = codes.reshape(-1)
    stored = Lazy(DType.I8, codes.shape, lambda: codes, "codes", part=lambda a, b: flat[a:b])
    number = Lazy(DType.F32, (1,), lambda: np.array([scale], np.float32), "scale")
    return encoded("blk.0.ffn_up.weight", scaled(stored, number, None), outtype, ())


def no_code(tensor: Tensor) -> Lazy:
    """The same without machine code."""
    assert isinstance(tensor.load, Encoded) and isinstance(tensor.load.item, Lazy)
    return replace(tensor.load.item, encoded=None)


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


@pytest.mark.parametrize("outtype", [OutType.F32, OutType.F16, OutType.BF16])
def test_machine_code_is_not_in_the_way(outtype: OutType) -> None:
    """Codes are decoded at once although the tensor is watched; its zeros are found as before."""
    codes = np.zeros((4, 64), np.int8)
    codes[:2] = 3
    for tiny, scale in ((False, 1e-2), (True, 1e-12)):  # F16 rounds the smaller ones to zero
        made = coded(codes, scale, outtype)
        assert isinstance(made.load, Encoded)
        assert bytes(made.load()) == bytes(replace(made.load, item=no_code(made))())
        assert said(made, piece=64) == [], tiny
    (text,) = said(coded(np.zeros_like(codes), -1, outtype), piece=64)
    assert text.startswith("blk.0.ffn_up.weight holds nothing but zeros")


def test_a_watched_tensor_is_made_in_one_go() -> None:
    """Its values are never there as F32 where one that is not zero is among the first."""
    made = coded(np.ones((4, 64), np.int8), 0.5, OutType.BF16)
    assert isinstance(made.load, Encoded)

    def never(start: int, stop: int) -> Any:
        raise AssertionError("the values were asked for one by one")

    item = replace(made.load.item, steps=never, part=never)
    watched = ZeroWatch().watching(Model((), (replace(made, load=replace(made.load, item=item)),)))
    assert len(watched.tensors[0].load()) == 4 * 64 * 2
