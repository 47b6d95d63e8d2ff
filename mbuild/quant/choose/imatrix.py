"""Importance matrices as ``llama-imatrix`` writes them: GGUF files and the old binary form.

Both hold, for every tensor, sums over a text's tokens of the squared activations
that each column was multiplied with, and how many there were; importances are
their quotient, computed in float32 as ``llama-quantize`` does. Only the places of
the values are read when a file is opened; a tensor's importances when asked for.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import FormatError, UsageError
from mbuild.core.patterns import regex
from mbuild.core.values import FrozenValue, NamedTuple, replace
from mbuild.gguf.cursor import Cursor
from mbuild.gguf.encoding import SCALAR_SIZES
from mbuild.gguf.files import FileBytes
from mbuild.gguf.types import ALIGNMENT, GGMLType, ValueType
from mbuild.quant.choose.metadata import Importances
from mbuild.quant.choose.rules import EXACT, Category

Reals = NDArray[np.float32]

MAX_ENTRIES = 65_536
MAX_NAME = 1024
_START = 64  # bytes that tell a text file
SUMS, COUNTS = ".in_sum2", ".counts"
_NAME_IT = "name the file that llama-imatrix wrote: imatrix.gguf, or the older imatrix.dat"


class MatrixUse(NamedTuple):
    """What of an importance matrix is used: the tensors whose names have one of the texts
    ``include`` in them, if there are any, and none of ``exclude``; ``pruned`` are layers of the
    matrix that the model does not have."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pruned: tuple[int, ...] = ()


_ALL_OF_IT = MatrixUse()
KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


class ImatrixEntry(NamedTuple):
    """One tensor's importances: how many there are, and a way to read them (float32)."""

    size: int
    load: Callable[[], Reals]


class Imatrix(NamedTuple):
    """An opened importance matrix; ``chunks`` and ``dataset`` say how it was made.

    ``listed`` is how many entries count, where those of layers that the model lacks are gone.
    """

    name: str
    entries: dict[str, ImatrixEntry]
    chunks: int
    dataset: str | None
    listed: int | None = None

    def has(self, tensor: str, dims: Sequence[int]) -> bool:
        """Whether :meth:`of` will give importances for this tensor, or refuse to."""
        entry = self.entries.get(tensor)
        if entry is None:
            return False
        fits = entry.size == dims[0] * (dims[2] if len(dims) > 2 else 1)
        return fits or EXACT.get(tensor) is not Category.TOKEN_EMBD

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
                f"{self.name}: {entry.size} importance values for {tensor}, "
                f"which has {columns} columns and {matrices} matrices",
                hint="use the importance matrix of this model",
            )
        values = entry.load()
        if not np.isfinite(values).all():
            raise FormatError(f"{self.name}: an importance of {tensor} is not finite")
        return values.reshape(matrices, columns)

    def source(self, file: str) -> Importances:
        """What the quantized model's metadata says about this matrix; ``file`` as given."""
        count = len(self.entries) if self.listed is None else self.listed
        return Importances(file, self.dataset, count, self.chunks)

    def used(self, use: MatrixUse) -> Imatrix:
        """What is used of it (llama-quantize's ``prepare_imatrix`` and ``remap_imatrix``).

        Raises :class:`UsageError` where that is nothing.
        """
        kept = {
            name: entry
            for name, entry in self.entries.items()
            if not any(text in name for text in use.exclude)
            and (not use.include or any(text in name for text in use.include))
        }
        if not kept:
            flag = "--include-weights" if use.include else "--exclude-weights"
            raise UsageError(
                f"{flag} leaves nothing of {self.name}",
                hint=f"a tensor is named, for example, {next(iter(self.entries))}",
            )
        moved = {name: entry for old, entry in kept.items() if (name := _moved(old, use.pruned))}
        return replace(self, entries=moved, listed=len(kept))


_IN_LAYER = regex(r"blk\.([0-9]{1,9})\.")


def _moved(name: str, pruned: Sequence[int]) -> str:
    """A tensor's name in a model without some layers; empty where it is of one of them."""
    found = _IN_LAYER.match(name)
    if found is None or not pruned:
        return name
    layer = int(found[1])
    if layer in pruned:
        return ""
    return f"blk.{layer - sum(each < layer for each in pruned)}.{name[found.end() :]}"


def open_imatrix(
    path: str | os.PathLike[str], *, name: str = "", use: MatrixUse = _ALL_OF_IT
) -> Imatrix:
    """Open an importance matrix of either format, and take what is used of it.

    Raises :class:`FormatError` for a file that is neither, is cut short or claims
    more than it holds, :class:`UsageError` where nothing of it is used, and
    :class:`mbuild.core.errors.SourceError` if it cannot be opened.
    """
    file = FileBytes.open(path, name or os.fspath(path))
    gguf = file.read(0, min(4, file.size)) == b"GGUF"
    found = _open_gguf(file) if gguf else _open_binary(file)
    return found if use == _ALL_OF_IT else found.used(use)


class _Values(FrozenValue):
    """float32 values of a tensor in the file."""

    file: FileBytes
    start: int
    count: int

    def load(self) -> Reals:
        return np.frombuffer(self.file.read(self.start, self.count * 4), "<f4")


def _open_gguf(file: FileBytes) -> Imatrix:
    """A GGUF file without a model: the reader of models would refuse it."""
    cursor = Cursor(file)
    cursor.skip(4, "the magic")
    version = cursor.u32("the version")
    tensors, kvs = cursor.u64("the number of tensors"), cursor.u64("the number of entries")
    if version not in (2, 3) or max(tensors, kvs) > 2 * MAX_ENTRIES:
        raise cursor.fail(f"version {version}, {tensors} tensors, {kvs} entries", at=4)
    held = dict(_metadata(cursor) for _ in range(kvs))
    if not any(key in held for key in KEYS):
        raise FormatError(f"{file.name}: a GGUF file, but not an importance matrix", hint=_NAME_IT)
    infos = [_info(cursor) for _ in range(tensors)]
    missing = [key for key in KEYS if key not in held]
    if missing or not infos:
        what = f"no {missing[0]}" if missing else "no sums of activations"
        raise FormatError(f"{file.name}: {what}: not an importance matrix", hint=_NAME_IT)
    alignment = held.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise FormatError(f"{file.name}: general.alignment is {alignment!r}")
    start = -(-cursor.position // alignment) * alignment
    parts: dict[str, dict[str, _Values]] = {}
    for name, count, offset in infos:
        if start + offset + 4 * count > file.size:
            raise file.error(f"{name} lies outside the file", start + offset)
        for suffix in (SUMS, COUNTS):
            if name.endswith(suffix):
                found = parts.setdefault(name.removesuffix(suffix), {})
                found[suffix] = _Values(file, start + offset, count)
    entries = {name: _gguf_entry(file.name, name, found) for name, found in parts.items()}
    chunks, dataset = held[KEYS[1]], held[KEYS[0]]
    chunks = chunks if isinstance(chunks, int) else 0
    return Imatrix(file.name, entries, chunks, dataset if isinstance(dataset, str) else None)


def _metadata(cursor: Cursor) -> tuple[str, int | str | None]:
    """Key and value of an entry: a UINT32, the first string of an array, or None."""
    key = cursor.string("a metadata key", MAX_NAME).decode(errors="replace")
    type_ = cursor.u32("a metadata type")
    if type_ == ValueType.UINT32:
        return key, cursor.u32(key)
    if type_ == ValueType.STRING:
        cursor.skip_strings(1, key)
        return key, ""
    if type_ != ValueType.ARRAY:
        cursor.skip(_size(cursor, type_), key)
        return key, None
    element, count = cursor.u32(key), cursor.u64(key)
    if element != ValueType.STRING:
        cursor.skip(count * _size(cursor, element), key)
        return key, None
    if count * 8 > cursor.remaining:
        raise cursor.fail(f"{key} claims {count} strings")
    first = cursor.string(key, MAX_NAME).decode(errors="replace") if count else None
    cursor.skip_strings(max(count - 1, 0), key)
    return key, first


def _size(cursor: Cursor, type_: int) -> int:
    """Bytes of a scalar of this type."""
    sizes = {int(known): size for known, size in SCALAR_SIZES.items()}
    if type_ not in sizes:
        raise cursor.fail(f"unknown metadata type {type_}")
    return sizes[type_]


def _info(cursor: Cursor) -> tuple[str, int, int]:
    """Name, number of values and offset of a tensor, which is F32."""
    name = cursor.string("a tensor's name", MAX_NAME).decode(errors="replace")
    rank = cursor.u32("a tensor's rank")
    if not 1 <= rank <= 4:
        raise cursor.fail(f"{name} has {rank} dimensions")
    count = math.prod(cursor.u64("a dimension") for _ in range(rank))
    if cursor.u32("a tensor's type") != GGMLType.F32:
        raise cursor.fail(f"{name}: sums and counts must be F32")
    return name, count, cursor.u64("a tensor's offset")


def _gguf_entry(file: str, name: str, found: dict[str, _Values]) -> ImatrixEntry:
    if len(found) != 2:
        lone = SUMS if SUMS in found else COUNTS
        raise FormatError(f"{file}: {name} has {lone} only")
    sums, counts = found[SUMS], found[COUNTS]
    size, matrices = sums.count, counts.count
    if matrices == 0 or size % matrices:
        raise FormatError(f"{file}: {name}: {size} sums do not go with {matrices} counts")

    def load() -> Reals:
        values, number = sums.load().reshape(matrices, -1), counts.load()[:, None]
        with np.errstate(all="ignore"):
            # Counts are whole numbers kept as float32; halves go away from zero.
            number = np.trunc(number + np.copysign(np.float32(0.5), number))
            # What no token ever reached counts as 1.
            shares = np.where(number > 0, values / number, np.float32(1))
        return shares.astype(np.float32).reshape(-1)

    return ImatrixEntry(size, load)


def _open_binary(file: FileBytes) -> Imatrix:
    """The old form: a count, then per entry name, calls, number of values, values."""
    (count,) = _ints(file, 0, 1)
    if not 1 <= count <= MAX_ENTRIES:
        start = file.read(0, min(_START, file.size))
        what = "a text file" if start.isascii() and b"\0" not in start else "an unknown format"
        raise FormatError(
            f"{file.name}: {what}, not an importance matrix",
            hint=_NAME_IT,
        )
    entries: dict[str, ImatrixEntry] = {}
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


def _binary_entry(file: FileBytes, at: int, size: int, calls: int) -> ImatrixEntry:
    def load() -> Reals:
        values = np.frombuffer(file.read(at, size * 4), "<f4").astype(np.float32)
        return values / np.float32(calls) if calls > 0 else values

    return ImatrixEntry(size, load)


def _bytes(file: FileBytes, at: int, count: int) -> bytes:
    if count > file.size - at:
        raise file.error("the file is cut short", at)
    return file.read(at, count)


def _ints(file: FileBytes, at: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", _bytes(file, at, 4 * count))
