"""Importance matrices as ``llama-imatrix`` writes them: GGUF files and the old binary form.

Both hold, for every tensor, sums over a text's tokens of the squared activations
that each column was multiplied with, and how many there were; importances are
their quotient, computed in float32 as ``llama-quantize`` does. Only the places of
the values are read when a file is opened; a tensor's importances when asked for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.errors import FormatError
from mbuild.gguf.files import FileBytes
from mbuild.gguf.model import Tensor
from mbuild.gguf.reader import read_header
from mbuild.gguf.types import GGMLType
from mbuild.quant.metadata import Importances
from mbuild.quant.rules import EXACT, Category

Reals = NDArray[np.float32]

MAX_ENTRIES = 65_536
MAX_NAME = 1024
SUMS, COUNTS = ".in_sum2", ".counts"
KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor's importances: how many there are, and a way to read them (float32)."""

    size: int
    load: Callable[[], Reals]


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An opened importance matrix; ``chunks`` and ``dataset`` say how it was made."""

    name: str
    entries: dict[str, Entry]
    chunks: int
    dataset: str | None

    def of(self, tensor: str, dims: Sequence[int]) -> Reals | None:
        """The importances of a tensor: (matrices, columns) float32, or None if there are none.

        Raises :class:`FormatError` if they do not fit the tensor (token embeddings
        apart, which llama-quantize then does without) or are not finite.
        """
        entry = self.entries.get(tensor)
        if entry is None:
            return None
        columns, matrices = dims[0], dims[2] if len(dims) > 2 else 1
        if entry.size != columns * matrices:
            if EXACT.get(tensor) is Category.TOKEN_EMBD:
                return None
            raise FormatError(
                f"{self.name}: {entry.size} importances for {tensor}, "
                f"which has {columns} columns and {matrices} matrices",
                hint="use the importance matrix of this very model",
            )
        values = entry.load()
        if not np.isfinite(values).all():
            raise FormatError(f"{self.name}: an importance of {tensor} is not finite")
        return values.reshape(matrices, columns)

    def source(self, file: str) -> Importances:
        """What the quantized model's metadata says about this matrix; ``file`` as given."""
        return Importances(file, self.dataset, len(self.entries), self.chunks)


def open_imatrix(path: str | os.PathLike[str], *, name: str = "") -> Imatrix:
    """Open an importance matrix of either format.

    Raises :class:`FormatError` for a file that is neither, is cut short or claims
    more than it holds, and :class:`mbuild.errors.SourceError` if it cannot be opened.
    """
    file = FileBytes.open(path, name or os.fspath(path))
    if file.read(0, min(4, file.size)) == b"GGUF":
        return _open_gguf(file)
    return _open_binary(file)


def _open_gguf(file: FileBytes) -> Imatrix:
    header = read_header(file)
    model = header.model()
    parts: dict[str, dict[str, Tensor]] = {}
    for tensor in model:
        for suffix in (SUMS, COUNTS):
            if tensor.name.endswith(suffix):
                parts.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = tensor
    missing = [key for key in KEYS if model.get(key) is None]
    if missing or not parts:
        what = f"no {missing[0]}" if missing else "no sums of activations"
        raise FormatError(f"{file.name}: {what}: not an importance matrix")
    entries = {name: _gguf_entry(file.name, name, found) for name, found in parts.items()}
    return Imatrix(file.name, entries, _chunks(model.get(KEYS[1])), _dataset(model.get(KEYS[0])))


def _chunks(value: Any) -> int:
    return int(value) if isinstance(value, int) else 0


def _dataset(value: Any) -> str | None:
    """The first data set's name, if there is one."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return str(value[0]) if listed and len(value) else None


def _gguf_entry(file: str, name: str, found: dict[str, Tensor]) -> Entry:
    if len(found) != 2:
        lone = SUMS if SUMS in found else COUNTS
        raise FormatError(f"{file}: {name} has {lone} only")
    sums, counts = found[SUMS], found[COUNTS]
    if sums.type is not GGMLType.F32 or counts.type is not GGMLType.F32:
        raise FormatError(f"{file}: {name}: sums and counts must be F32")
    size, matrices = sums.nbytes // 4, counts.nbytes // 4
    if matrices == 0 or size % matrices:
        raise FormatError(f"{file}: {name}: {size} sums do not go with {matrices} counts")

    def load() -> Reals:
        values = np.frombuffer(memoryview(sums.load()), "<f4").reshape(matrices, -1)
        number = np.frombuffer(memoryview(counts.load()), "<f4")[:, None]
        with np.errstate(all="ignore"):
            # Counts are whole numbers kept as float32; halves go away from zero.
            number = np.trunc(number + np.copysign(np.float32(0.5), number))
            # What no token ever reached counts as 1.
            shares = np.where(number > 0, values / number, np.float32(1))
        return shares.astype(np.float32).reshape(-1)

    return Entry(size, load)


def _open_binary(file: FileBytes) -> Imatrix:
    """The old form: a count, then per entry name, calls, number of values, values."""
    (count,) = _ints(file, 0, 1)
    if not 1 <= count <= MAX_ENTRIES:
        raise file.error(f"{count} entries: neither a GGUF nor an old importance matrix", 0)
    entries: dict[str, Entry] = {}
    at = 4
    for _ in range(count):
        (length,) = _ints(file, at, 1)
        if not 0 <= length <= MAX_NAME:
            raise file.error(f"a name of {length} bytes", at)
        name = _bytes(file, at + 4, length).split(b"\0")[0].decode(errors="replace")
        at += 4 + length
        calls, size = _ints(file, at, 2)
        if size < 1 or size * 4 > file.size - at - 8:
            raise file.error(f"{size} values of {name[:80]!r}", at)
        entries[name] = _binary_entry(file, at + 8, size, calls)
        at += 8 + size * 4
    chunks, dataset = _trailer(file, at)
    return Imatrix(file.name, entries, chunks, dataset)


def _trailer(file: FileBytes, at: int) -> tuple[int, str | None]:
    """Number of chunks and name of the data set, which may be missing."""
    if file.size - at < 4:
        return 0, None
    (chunks,) = _ints(file, at, 1)
    if file.size - at < 8:
        return chunks, None
    (length,) = _ints(file, at + 4, 1)
    if not 0 < length <= file.size - at - 8:
        return chunks, None
    text = file.read(at + 8, min(length, MAX_NAME)).split(b"\0")[0]
    return chunks, text.decode(errors="replace")


def _binary_entry(file: FileBytes, at: int, size: int, calls: int) -> Entry:
    def load() -> Reals:
        values = np.frombuffer(file.read(at, size * 4), "<f4").astype(np.float32)
        return values / np.float32(calls) if calls > 0 else values

    return Entry(size, load)


def _bytes(file: FileBytes, at: int, count: int) -> bytes:
    if count > file.size - at:
        raise file.error("the file is cut short", at)
    return file.read(at, count)


def _ints(file: FileBytes, at: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", _bytes(file, at, 4 * count))
