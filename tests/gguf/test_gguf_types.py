"""GGUF's tables agree with the published gguf package."""

from __future__ import annotations

import pytest

from mbuild.core.errors import FormatError
from mbuild.gguf.encoding import SCALAR_SIZES
from mbuild.gguf.types import ALIGNMENT, BLOCKS, GGMLType, ValueType, tensor_nbytes

gguf = pytest.importorskip("gguf", reason="the reference package is not installed")


def test_block_sizes_are_those_of_the_reference() -> None:
    """Every type that both know has one number, block and size; no type of ours is made up."""
    reference = {kind.name: (int(kind), sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {kind.name: (int(kind), tuple(block)) for kind, block in BLOCKS.items()}
    assert BLOCKS.keys() == set(GGMLType)
    assert reference.keys() <= ours.keys()
    assert ours.keys() - reference.keys() <= SINCE_0_19
    assert {name: ours[name] for name in ours.keys() & reference.keys()} == {
        name: reference[name] for name in ours.keys() & reference.keys()
    }


SINCE_0_19 = {"NVFP4", "Q1_0", "Q2_0"}
"""Types that releases before 0.19 lack."""


def test_value_types_are_those_of_the_reference() -> None:
    """Metadata types have the package's numbers."""
    assert {t.name: int(t) for t in ValueType} == {t.name: int(t) for t in gguf.GGUFValueType}
    assert gguf.GGUF_DEFAULT_ALIGNMENT == ALIGNMENT


def test_scalar_sizes() -> None:
    """Each scalar type has the size that its name says."""
    named = {t: int("".join(c for c in t.name if c.isdigit()) or 8) // 8 for t in SCALAR_SIZES}
    assert named == SCALAR_SIZES
    assert set(ValueType) - set(SCALAR_SIZES) == {ValueType.STRING, ValueType.ARRAY}


def test_a_row_must_be_whole_blocks() -> None:
    """Sizes come from whole blocks, and Python's integers do not wrap."""
    assert tensor_nbytes(GGMLType.Q4_K, (512, 3)) == 2 * 144 * 3
    assert tensor_nbytes(GGMLType.F32, (2**32, 2**32)) == 2**66
    with pytest.raises(FormatError, match="row of 31 values"):
        tensor_nbytes(GGMLType.Q4_0, (31, 2))
