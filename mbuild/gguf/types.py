"""GGUF's tables: tensor types with their block sizes, and metadata value types.

Numbers and sizes are those of ggml (``ggml.h``, ``gguf.h``); a test holds them
against the published ``gguf`` package, which is too heavy to import here (it
loads numpy, and a build with nothing to do must not).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple

ALIGNMENT = 32
"""Default alignment in bytes of tensor data (``general.alignment`` overrides it)."""


class Block(NamedTuple):
    """How a type is stored: ``weights`` values share one block of ``size`` bytes."""

    weights: int
    size: int


class GGMLType(IntEnum):
    """A tensor's element type: one row each.

    Its number in GGUF files; the values that share a block, and a block's bytes; then, where files
    that are mostly of the type are called by its name, their ``general.file_type``.
    """

    block: Block
    file_type: int | None

    def __new__(cls, number: int, weights: int, size: int, file_type: int | None = None) -> Self:
        """A row."""
        made = int.__new__(cls, number)
        made._value_ = number
        made.block, made.file_type = Block(weights, size), file_type
        return made

    F32 = 0, 1, 4, 0
    F16 = 1, 1, 2, 1
    Q4_0 = 2, 32, 18, 2
    Q4_1 = 3, 32, 20, 3
    Q5_0 = 6, 32, 22, 8
    Q5_1 = 7, 32, 24, 9
    Q8_0 = 8, 32, 34, 7
    Q8_1 = 9, 32, 40
    Q2_K = 10, 256, 84, 10
    Q3_K = 11, 256, 110
    Q4_K = 12, 256, 144
    Q5_K = 13, 256, 176
    Q6_K = 14, 256, 210, 18
    Q8_K = 15, 256, 292
    IQ2_XXS = 16, 256, 66, 19
    IQ2_XS = 17, 256, 74, 20
    IQ3_XXS = 18, 256, 98, 23
    IQ1_S = 19, 256, 50, 24
    IQ4_NL = 20, 32, 18, 25
    IQ3_S = 21, 256, 110, 26
    IQ2_S = 22, 256, 82
    IQ4_XS = 23, 256, 136, 30
    I8 = 24, 1, 1
    I16 = 25, 1, 2
    I32 = 26, 1, 4
    I64 = 27, 1, 8
    F64 = 28, 1, 8
    IQ1_M = 29, 256, 56, 31
    BF16 = 30, 1, 2, 32
    TQ1_0 = 34, 256, 54, 36
    TQ2_0 = 35, 256, 66, 37
    MXFP4 = 39, 32, 17
    NVFP4 = 40, 64, 36
    Q1_0 = 41, 128, 18, 40
    Q2_0 = 42, 64, 18, 41


BLOCKS: dict[GGMLType, Block] = {type_: type_.block for type_ in GGMLType}
"""How each type is stored."""

MIXES: dict[str, tuple[int, GGMLType]] = {
    "Q3_K_S": (11, GGMLType.Q3_K),
    "Q3_K_M": (12, GGMLType.Q3_K),
    "Q3_K_L": (13, GGMLType.Q3_K),
    "Q4_K_S": (14, GGMLType.Q4_K),
    "Q4_K_M": (15, GGMLType.Q4_K),
    "Q5_K_S": (16, GGMLType.Q5_K),
    "Q5_K_M": (17, GGMLType.Q5_K),
    "Q2_K_S": (21, GGMLType.Q2_K),
    "IQ3_XS": (22, GGMLType.IQ3_S),
    "IQ3_M": (27, GGMLType.IQ3_S),
    "IQ2_S": (28, GGMLType.IQ2_XS),
    "IQ2_M": (29, GGMLType.IQ2_S),
    "MXFP4_MOE": (38, GGMLType.MXFP4),
}
"""File types with other names than their tensors have: their numbers, and the type of most tensors
(``llama_ftype`` of llama.cpp)."""


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
