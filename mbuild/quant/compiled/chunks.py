"""BLAKE3 of any part of a file: what makes the digest of a file in any order possible.

BLAKE3 is a tree. Its leaves are chunks of 1024 bytes, each digested with its number in the
file, and the values of two neighbours give their parent's. So a file's parts can be
digested apart, each where and when it is read. The packages for BLAKE3 take a file's bytes
only in order; here LLVM compiles what they do inside (:mod:`mbuild.quant.compiled.chunk_text`)
for this CPU, and the machine code is kept like that of the quantizers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from mbuild.quant.compiled import written
from mbuild.quant.engine import Bytes, Unavailable

NAME = "chunks"
"""The function whose text :mod:`mbuild.quant.compiled.chunk_text` has."""

CHUNK = 1024
"""Bytes of a chunk of the file."""

VALUE = 32
"""Bytes of what stands for a chunk or for a parent in the tree."""

_BLOCK = 64
_START, _END, _PARENT, _ROOT = 1, 2, 4, 8  # flags of the specification
_LOADING = threading.Lock()
_loaded: list[Callable[..., int] | Unavailable] = []


def why_unavailable() -> Unavailable | None:
    """Make ready; why that cannot be done on this machine, None where it is."""
    with _LOADING:
        if not _loaded:
            try:
                _loaded.append(_load())
            except Unavailable as reason:
                _loaded.append(reason)
    found = _loaded[0]
    return found if isinstance(found, Unavailable) else None


def kernel_name() -> str:
    """The name under which the machine code is kept, which changes with its text."""
    return written.name_of(NAME, "chunk_text.py")


def _load() -> Callable[..., int]:
    """The machine code; raises :class:`Unavailable`."""

    def text() -> str:
        from mbuild.quant.compiled.chunk_text import ChunksText

        return ChunksText(NAME).write()

    return written.load(kernel_name(), NAME, text)


def _call(*arguments: int | Bytes) -> None:
    found = _loaded[0]
    assert not isinstance(found, Unavailable)
    found(*arguments)


def chunks(data: Bytes, first: int) -> Bytes:
    """The values of whole chunks, one behind the other; ``first`` is the first one's number."""
    out = np.empty(data.size // CHUNK * VALUE, np.uint8)
    _call(data, CHUNK // _BLOCK, first, 1, 0, _START, _END, _BLOCK, out)
    return out


def last_chunk(data: bytes, number: int) -> Bytes:
    """The value of a file's last chunk, of one byte at least, which need not be whole."""
    blocks = -(-len(data) // _BLOCK)
    padded = np.frombuffer(data.ljust(blocks * _BLOCK, b"\0"), np.uint8)
    out = np.empty(VALUE, np.uint8)
    rest = len(data) - (blocks - 1) * _BLOCK
    _call(padded, blocks, number, 0, 0, _START, _END, rest, out)
    return out


def parents(values: Bytes, *, root: bool = False) -> Bytes:
    """The values of the parents of so many pairs; in the same memory.

    ``root``: of one pair, the digest of the whole file.
    """
    flags = _PARENT | _ROOT if root else _PARENT
    out = values[: values.size // 2]
    _call(values, 1, 0, 0, flags, 0, 0, _BLOCK, out)
    return out
