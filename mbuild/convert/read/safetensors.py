"""The safetensors reader: a bounded header parser, and tensors that are read by ``pread``.

Format: https://github.com/huggingface/safetensors#format. Eight bytes of
little-endian header length N, N bytes of JSON, then the data. The JSON maps
each name to ``dtype``, ``shape`` and ``data_offsets`` (begin and end, counted
from the end of the header). The rules are those of the reference
implementation (0.8); two things the format forbids and that one lets pass are
refused here as well: a header that does not start with ``{`` and a name that
occurs twice.

Files belong to the user and may change at any time, so nothing is mapped into
memory (a truncated mapping kills the process): every read is a ``pread`` of a
file that must still be the one whose header was parsed.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import FormatError, SourceError
from mbuild.core.system import unreadable
from mbuild.core.values import Frozen, NamedTuple
from mbuild.gguf.files import Arriving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from mbuild.gguf.files import Seen

MAX_HEADER = 100_000_000
"""Bytes of JSON that a header may have (the reference's limit)."""

MAX_NAME = 255
"""Bytes of UTF-8 that a tensor's name may have."""

_HEAD = 64  # bytes that tell what else a file is, if it is none of these
_MAX_COUNT = 1 << 63
_READ_AT_ONCE = 1 << 30
_LFS_POINTER = b"version https://git-lfs"


class DType(StrEnum):
    """An element type, spelled as in the header."""

    BOOL = "BOOL"
    F4 = "F4"
    F6_E2M3 = "F6_E2M3"
    F6_E3M2 = "F6_E3M2"
    U8 = "U8"
    I8 = "I8"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    F8_E8M0 = "F8_E8M0"
    F8_E4M3FNUZ = "F8_E4M3FNUZ"
    F8_E5M2FNUZ = "F8_E5M2FNUZ"
    I16 = "I16"
    U16 = "U16"
    F16 = "F16"
    BF16 = "BF16"
    I32 = "I32"
    U32 = "U32"
    F32 = "F32"
    C64 = "C64"
    I64 = "I64"
    U64 = "U64"
    F64 = "F64"


BITS: dict[DType, int] = {
    DType.BOOL: 8,
    DType.F4: 4,
    DType.F6_E2M3: 6,
    DType.F6_E3M2: 6,
    DType.U8: 8,
    DType.I8: 8,
    DType.F8_E4M3: 8,
    DType.F8_E5M2: 8,
    DType.F8_E8M0: 8,
    DType.F8_E4M3FNUZ: 8,
    DType.F8_E5M2FNUZ: 8,
    DType.I16: 16,
    DType.U16: 16,
    DType.F16: 16,
    DType.BF16: 16,
    DType.I32: 32,
    DType.U32: 32,
    DType.F32: 32,
    DType.C64: 64,
    DType.I64: 64,
    DType.U64: 64,
    DType.F64: 64,
}


_DTYPES = {dtype.value: dtype for dtype in DType}


class Shard(NamedTuple):
    """One safetensors file as it was when its header was read.

    ``name`` is what messages call it (the path may be a blob's). ``identity``
    is device, inode, size in bytes and modification time in nanoseconds. ``seen`` is
    shown what is read of its tensors.
    """

    name: str
    path: Path
    identity: tuple[int, int, int, int]
    seen: Seen | None = None


class StoredTensor(Frozen):
    """One tensor of a file: ``shape`` slowest dimension first, ``offset`` from the file's start."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: Shard
    offset: int
    nbytes: int

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The stored bytes, or those from ``start`` to ``stop``, one-dimensional; from any thread.

        Raises :class:`FormatError` when the file is no longer the one that was
        opened, :class:`SourceError` when it cannot be read.
        """
        from mbuild.gguf.memory import room
        from mbuild.work.limits import reading

        stop = self.nbytes if stop is None else stop
        data = room(stop - start)
        arriving = isinstance(self.shard.seen, Arriving)
        if isinstance(self.shard.seen, Arriving):
            self.shard.seen.wait(self.offset + start, self.offset + stop)
        try:
            fd = os.open(self.shard.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(self.shard.name, error) from error
        try:
            counts = 3 if arriving else 4  # what arrives has no time that stays
            if _identity(os.fstat(fd))[:counts] != self.shard.identity[:counts]:
                raise _changed(self.shard.name)
            with reading():
                _fill(fd, self.offset + start, data.data, self.shard.name)
        except OSError as error:
            raise unreadable(self.shard.name, error) from error
        finally:
            os.close(fd)
        if self.shard.seen is not None:
            self.shard.seen(self.offset + start, data.data)
        return data


def _wait_for_header(fd: int, size: int, arriving: Arriving) -> None:
    """Wait until the header of a file that is still coming is there."""
    arriving.wait(0, min(_HEAD, size))
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    arriving.wait(0, min(8 + min(length, MAX_HEADER), size))


def _fill(fd: int, offset: int, view: memoryview, name: str) -> None:
    done = 0
    while done < len(view):
        part = view[done : done + _READ_AT_ONCE]
        if hasattr(os, "preadv"):
            count = os.preadv(fd, [part], offset + done)
        else:  # a Python built for a system without it
            chunk = os.pread(fd, len(part), offset + done)
            count = len(chunk)
            part[:count] = chunk
        if not count:
            raise _changed(name)
        done += count


def read_header(path: Path, name: str, seen: Seen | None = None) -> tuple[StoredTensor, ...]:
    """The tensors of one file, in the order of their names.

    Args:
        path: the file to open.
        name: what to call it in messages.
        seen: is shown what is read of its tensors.

    Raises:
        FormatError: for anything that the format forbids.
        SourceError: when the file cannot be read.
    """
    with opened_file(path, name) as fd:
        try:
            identity = file_identity(fd)
            if isinstance(seen, Arriving):
                _wait_for_header(fd, identity[2], seen)
            raw = _read_header_bytes(fd, identity[2], name)
        except OSError as error:
            raise unreadable(name, error) from error
    shard = Shard(name, path, identity, seen)
    entries = _parse(raw, name)
    entries.pop("__metadata__", None)
    start = 8 + len(raw)
    tensors = [_tensor(shard, key, entry, start) for key, entry in entries.items()]
    _check_layout(tensors, start, identity[2], name)
    return tuple(sorted(tensors, key=lambda tensor: tensor.name))


@contextmanager
def opened_file(path: Path, name: str) -> Iterator[int]:
    """The descriptor of a regular file; raises :class:`SourceError`, which calls it ``name``."""
    try:
        # A FIFO under a shard's name must not block the build: no waiting for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(name, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SourceError(f"{name} is not a regular file")
        yield fd
    finally:
        os.close(fd)


def file_identity(fd: int) -> tuple[int, int, int, int]:
    """What tells an open file from another, or from itself once it changed (:class:`Shard`)."""
    return _identity(os.fstat(fd))


def _read_header_bytes(fd: int, size: int, name: str) -> bytes:
    head = os.pread(fd, _HEAD, 0)
    if head.startswith(_LFS_POINTER):
        raise FormatError(
            f"{name} is a git-lfs pointer, not the file itself",
            hint="fetch the real files with: git lfs pull",
        )
    if len(head) < 8:
        raise FormatError(f"{name} is not a safetensors file: it has only {size} bytes")
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise FormatError(
            f"{name}: the header claims {length} bytes, more than {MAX_HEADER}",
            hint="the file is damaged or not a safetensors file",
        )
    if 8 + length > size:
        raise FormatError(
            f"{name}: the header claims {length} bytes, but the file has only {size}",
            hint="download it again: it is incomplete, or not a safetensors file",
        )
    raw = bytearray(length)
    _fill(fd, 8, memoryview(raw), name)
    if not raw.startswith(b"{"):
        raise FormatError(f"{name}: the header does not start with '{{'")
    return bytes(raw)


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    try:
        entries = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise FormatError(f"{name}: the header is nested too deeply") from error
    except (ValueError, FormatError) as error:
        raise FormatError(f"{name}: the header is not valid JSON: {error}") from error
    metadata = entries.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{name}: the header's __metadata__ is not a map of strings")
    return entries  # type: ignore[no-any-return]  # an object: it starts with "{"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"{twice!r} occurs twice")
    return result


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _tensor(shard: Shard, key: str, entry: Any, start: int) -> StoredTensor:
    where = f"{shard.name}: tensor {key!r}"
    check_name(key, shard.name)
    if not isinstance(entry, dict):
        raise FormatError(f"{where} is not described by an object")
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise FormatError(f"{where} has the unknown dtype {str(entry.get('dtype'))[:40]!r}")
    shape = _integers(entry.get("shape"), f"{where}: shape")
    offsets = _integers(entry.get("data_offsets"), f"{where}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{where}: data_offsets {list(offsets)} are not a start and an end")
    bits = BITS[dtype]
    for dim in shape:
        bits *= dim
        if bits >= _MAX_COUNT:
            raise FormatError(f"{where}: the shape {list(shape)} is too large")
    nbytes = offsets[1] - offsets[0]
    if bits != 8 * nbytes:
        raise FormatError(
            f"{where}: {dtype} of shape {list(shape)} is not the {nbytes} bytes of its data_offsets"
        )
    return StoredTensor(key, dtype, shape, shard, start + offsets[0], nbytes)


def check_name(key: str, file: str) -> None:
    """Raise :class:`FormatError` for a tensor's name that none can have."""
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise FormatError(f"{file}: a tensor's name is not valid Unicode: {key!r}") from error
    if not 0 < size <= MAX_NAME or "\0" in key:
        raise FormatError(
            f"{file}: the tensor name {key[:64]!r} is empty, has a NUL or is longer "
            f"than {MAX_NAME} bytes"
        )


def _integers(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where} is missing or not a list")
    for item in value:
        if type(item) is not int or not 0 <= item < _MAX_COUNT:
            raise FormatError(f"{where} has {str(item)[:40]!r}, which is not a size")
    return tuple(value)


def _check_layout(tensors: list[StoredTensor], start: int, size: int, name: str) -> None:
    at = start
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != at:
            what = "overlaps the one before" if tensor.offset < at else "leaves a gap before it"
            raise FormatError(f"{name}: the data of tensor {tensor.name!r} {what}")
        at += tensor.nbytes
    if at != size:
        what = "more" if at < size else "fewer"
        raise FormatError(
            f"{name} has {abs(size - at)} bytes {what} than its header describes",
            hint="the file is incomplete or damaged: download or save it again",
        )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _changed(name: str) -> FormatError:
    return FormatError(f"{name} changed while it was being read", hint="build again")
