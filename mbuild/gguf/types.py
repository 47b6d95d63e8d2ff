"""GGUF's tables: tensor types with their block sizes, and metadata value types.

Numbers and sizes are those of ggml (``ggml.h``, ``gguf.h``); a test holds them
against the published ``gguf`` package, which is too heavy to import here (it
loads numpy, and a build with nothing to do must not).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mbuild.core.errors import FormatError

ALIGNMENT = 32
"""Default alignment in bytes of tensor data (``general.alignment`` overrides it)."""


class GGMLType(IntEnum):
    """A tensor's element type, as numbered in GGUF files."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41


class Block(NamedTuple):
    """How a type is stored: ``weights`` values share one block of ``size`` bytes."""

    weights: int
    size: int


BLOCKS: dict[GGMLType, Block] = {
    GGMLType.F32: Block(1, 4),
    GGMLType.F16: Block(1, 2),
    GGMLType.Q4_0: Block(32, 18),
    GGMLType.Q4_1: Block(32, 20),
    GGMLType.Q5_0: Block(32, 22),
    GGMLType.Q5_1: Block(32, 24),
    GGMLType.Q8_0: Block(32, 34),
    GGMLType.Q8_1: Block(32, 40),
    GGMLType.Q2_K: Block(256, 84),
    GGMLType.Q3_K: Block(256, 110),
    GGMLType.Q4_K: Block(256, 144),
    GGMLType.Q5_K: Block(256, 176),
    GGMLType.Q6_K: Block(256, 210),
    GGMLType.Q8_K: Block(256, 292),
    GGMLType.IQ2_XXS: Block(256, 66),
    GGMLType.IQ2_XS: Block(256, 74),
    GGMLType.IQ3_XXS: Block(256, 98),
    GGMLType.IQ1_S: Block(256, 50),
    GGMLType.IQ4_NL: Block(32, 18),
    GGMLType.IQ3_S: Block(256, 110),
    GGMLType.IQ2_S: Block(256, 82),
    GGMLType.IQ4_XS: Block(256, 136),
    GGMLType.I8: Block(1, 1),
    GGMLType.I16: Block(1, 2),
    GGMLType.I32: Block(1, 4),
    GGMLType.I64: Block(1, 8),
    GGMLType.F64: Block(1, 8),
    GGMLType.IQ1_M: Block(256, 56),
    GGMLType.BF16: Block(1, 2),
    GGMLType.TQ1_0: Block(256, 54),
    GGMLType.TQ2_0: Block(256, 66),
    GGMLType.MXFP4: Block(32, 17),
    GGMLType.NVFP4: Block(64, 36),
    GGMLType.Q1_0: Block(128, 18),
}


class ValueType(IntEnum):
    """The type of a metadata value, as numbered in GGUF files."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


def tensor_nbytes(type_: GGMLType, dims: tuple[int, ...]) -> int:
    """Bytes that a tensor of these dims (fastest first) takes, without padding.

    Raises :class:`FormatError` when a row is not a whole number of blocks.
    Python's integers do not wrap, so hostile dims give a huge number, not a
    small one.
    """
    block = BLOCKS[type_]
    row = dims[0] if dims else 1
    if row % block.weights:
        raise FormatError(
            f"row of {row} values is not a multiple of {block.weights}, the block of {type_.name}"
        )
    count = row // block.weights
    for dim in dims[1:]:
        count *= dim
    return count * block.size
