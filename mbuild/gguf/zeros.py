"""Weights that hold nothing but zeros, as a download leaves them that was cut.

A program that reserves a file's room before it fetches the bytes, and is stopped, leaves a file
whose header and size are right: nothing but the values tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.gguf.reader import GGUFFile, TensorInfo

_SAMPLE = 64  # bytes
_PIECE = 1 << 20  # bytes
_ZERO_ON_PURPOSE = ("token_types.weight",)
"""RoBERTa has no kinds of tokens, and the checkpoints of its family hold zeros for them."""


def may_not_be_zero(name: str) -> bool:
    """Whether a tensor of that name is a weight that no training leaves at zero."""
    return name.endswith(".weight") and name not in _ZERO_ON_PURPOSE


def zero_tensors(file: GGUFFile) -> Iterator[str]:
    """The names of the weights that are zeros alone.

    Three samples tell of nearly all others that they are not; only what is zero in all three is
    read whole. Blocks of quantized types whose bytes are zero stand for zeros, too.
    """
    for tensor in file.tensors:
        if may_not_be_zero(tensor.name) and _is_zero(file, tensor):
            yield tensor.name


def _is_zero(file: GGUFFile, tensor: TensorInfo) -> bool:
    end = tensor.offset + tensor.nbytes
    for place in (tensor.nbytes // 2, 0, max(tensor.nbytes - _SAMPLE, 0)):
        start = tensor.offset + place
        if not _are_zeros(file.file.read(start, min(_SAMPLE, end - start))):
            return False
    pieces = range(tensor.offset, end, _PIECE)
    return all(_are_zeros(file.file.read(at, min(_PIECE, end - at))) for at in pieces)


def _are_zeros(data: bytes) -> bool:
    return data.count(0) == len(data)


def nothing_but_zeros(names: Sequence[str]) -> list[str]:
    """What to say of such weights: one warning, or none."""
    if not names:
        return []
    more = f", like {len(names) - 1} more" if len(names) > 1 else ""
    return [
        f"{names[0]} holds nothing but zeros{more}: a download that was cut leaves such files;"
        " compare their SHA-256, or download them again"
    ]
