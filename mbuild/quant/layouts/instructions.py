"""The names of operations of compiled kernels alone: bytes in and out, reductions over lanes.

They complete :mod:`mbuild.quant.search.ops` for the parts of a kernel that no search contains
and that the numpy engine does on whole arrays instead. The functions exist to be named:
:mod:`mbuild.quant.kernels.lane_bytes` tells numba what they mean. So a text that uses them
can be imported without numba.
"""

from __future__ import annotations

from typing import Any


class Width:
    """How many lanes a kernel runs in; passed to it as its first argument."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes


def count(w: Width) -> int:
    """The number of lanes, a constant to the compiler."""
    return w.lanes


def store_bytes(w: Width, target: Any, start: int, value: Any) -> None:
    """The low bytes of a whole vector, to ``target[start:]`` (uint8, one dimension)."""
    raise NotImplementedError("only compiled kernels store bytes")


def store_halves(w: Width, target: Any, start: int, value: Any) -> None:
    """The low 16 bits of a whole vector, to the bytes ``target[start:]``."""
    raise NotImplementedError("only compiled kernels store bytes")


def store_words(w: Width, target: Any, start: int, value: Any) -> None:
    """A whole vector, to the bytes ``target[start:]``."""
    raise NotImplementedError("only compiled kernels store bytes")


def store_nibbles(w: Width, target: Any, start: int, value: Any) -> None:
    """Half as many bytes as lanes to ``target[start:]``: lane i low, lane i + half high."""
    raise NotImplementedError("only compiled kernels store bytes")


def store_bits(w: Width, target: Any, start: int, mask: Any) -> None:
    """The mask's lanes as bits, lane 0 the lowest of the first byte, to ``target[start:]``."""
    raise NotImplementedError("only compiled kernels store bytes")


def store_half(target: Any, start: int, pattern: int) -> None:
    """The low 16 bits of a number, to the bytes ``target[start:]``."""
    raise NotImplementedError("only compiled kernels store bytes")


def load_bytes(w: Width, source: Any, start: int) -> Any:
    """The bytes ``source[start:]`` (uint8), one a lane; a whole vector."""
    raise NotImplementedError("only compiled kernels load bytes")


def prefetch(source: Any, start: int) -> None:
    """Bring the line with byte ``start`` of ``source`` nearer; it may lie beyond the end."""
    raise NotImplementedError("only compiled kernels prefetch")


def load_f32(w: Width, source: Any, index: int) -> Any:
    """Values ``index * lanes`` ... of ``source``, bytes (uint8) that hold float32."""
    raise NotImplementedError("only compiled kernels load bytes")


def load_bf16(w: Width, source: Any, index: int) -> Any:
    """As :func:`load_f32`, from bytes that hold bfloat16."""
    raise NotImplementedError("only compiled kernels load bytes")


def load_u16(w: Width, source: Any, index: int) -> Any:
    """As :func:`load_f32`, from bytes that hold 16-bit integers; a whole vector."""
    raise NotImplementedError("only compiled kernels load bytes")


def largest(value: Any) -> float:
    """The largest magnitude among the lanes of a real vector without NaN."""
    raise NotImplementedError("only compiled kernels reduce a vector")


def magnitudes(source: Any, first: int, columns: Any, row: int, lane: int) -> None:
    """The largest magnitude of each of 8 rows of 32 values, to ``columns[row, lane:lane + 8]``.

    ``source`` are bytes that hold float32, ``first`` the number of the first row. A row
    with a NaN or an infinity gives one of them.
    """
    raise NotImplementedError("only compiled kernels reduce a vector")


def ranges(source: Any, first: int, columns: Any, row: int, lane: int) -> Any:
    """The greatest and the least of each of 8 rows of 32 values, to two rows of ``columns``.

    As :func:`magnitudes`; the least go to ``row + 1``, and among zeros of both signs any
    may be taken. Returns 8 real lanes that are not all finite if the values are not, and
    perhaps if their sums are too large.
    """
    raise NotImplementedError("only compiled kernels reduce a vector")


def first_lane(mask: Any) -> int:
    """The first lane in which the mask, which holds somewhere, holds."""
    raise NotImplementedError("only compiled kernels reduce a vector")


def lane_of(value: Any, lane: int) -> float:
    """One lane of a real vector."""
    raise NotImplementedError("only compiled kernels read a lane")


def turn(x: Any, start: int, stride: int, columns: Any, row: int, lane: int) -> None:
    """Transpose 8 by 8: ``columns[row + i, lane + k] = x[start + k * stride + i]``."""
    raise NotImplementedError("only compiled kernels transpose")
