"""A bounded, lazy reader of GGUF files (versions 2 and 3, little-endian).

The header is parsed once, forward, with every claimed length held against the
bytes that remain; values and tensors are read when they are asked for. The
published ``gguf`` package builds every token as an object and trusts lengths,
which makes it slow on big vocabularies and unsafe on files of unknown origin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from struct import Struct
from types import MappingProxyType, TracebackType
from typing import Any

from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import NamedTuple
from mbuild.gguf.checks import (
    check_alignment,
    check_key,
    check_metadata,
    check_tensor_name,
    check_texts,
    place_tensors,
)
from mbuild.gguf.cursor import DAMAGED, MAX_STRING, Cursor
from mbuild.gguf.encoding import SCALAR_SIZES
from mbuild.gguf.files import FileBytes, FileRange, Seen
from mbuild.gguf.foreign import HEAD, refuse_foreign
from mbuild.gguf.model import Model, RawKV, Tensor
from mbuild.gguf.types import GGMLType, ValueType, tensor_nbytes

MAX_KVS = 65_536
MAX_TENSORS = 65_536
"""Far above any model (below 5,000 tensors, 200 keys), and read in under a second."""
MAX_KEY = 1024
MAX_KEYS_TOTAL = 16 << 20
"""Bytes of all keys together: what a file can make the reader keep."""
MAX_ARRAY = 64 << 20
MAX_STRINGS = 2 << 20
"""Items of all string arrays together (real vocabularies with merges: below one million)."""
MAX_NAME = 63
"""Longest tensor name in bytes (GGML_MAX_NAME is 64, with its NUL)."""
MAX_DIMS = 4

_MIN_KV = 8 + 1 + 4 + 1  # key length, key, type, value
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8  # name length, name, rank, one dim, type, offset

_TENSOR_TAILS = {rank: Struct(f"<{rank}QIQ") for rank in range(1, MAX_DIMS + 1)}
"""What follows a tensor's rank: its dimensions, its type, its offset."""

_VALUE_TYPES: dict[int, ValueType] = {int(t): t for t in ValueType}
_GGML_TYPES: dict[int, GGMLType] = {int(t): t for t in GGMLType}


class TensorInfo(NamedTuple):
    """Where a tensor lies: ``dims`` fastest first, ``offset`` from the start of the file."""

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    offset: int
    nbytes: int


class GGUFFile(NamedTuple):
    """A parsed header; values and tensors stay in the file, which is held open.

    ``kvs`` maps keys to entries in file order; ``data_start`` is where tensor
    data begins and ``size`` the file's length, in bytes. Closing (or leaving
    the ``with`` block) is optional: the last reference closes too. Tensors of
    :meth:`model` keep the file open.
    """

    name: str
    version: int
    alignment: int
    byte_order: str
    kvs: Mapping[str, RawKV]
    tensors: tuple[TensorInfo, ...]
    data_start: int
    size: int
    file: FileBytes

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, read and decoded now, or ``default``."""
        entry = self.kvs.get(key)
        return default if entry is None else entry.value

    def model(self) -> Model:
        """The file as a model whose tensors are read on demand.

        A tensor's ``load`` raises :class:`FormatError` if the file changed.
        """
        tensors = tuple(
            Tensor(t.name, t.dims, t.type, FileRange(self.file, t.offset, t.nbytes))
            for t in self.tensors
        )
        return Model(tuple(self.kvs.values()), tensors)

    def close(self) -> None:
        """Close the file; what is asked of it afterwards is an error."""
        self.file.close()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_gguf(
    path: str | os.PathLike[str], *, name: str = "", seen: Seen | None = None
) -> GGUFFile:
    """Open and check a GGUF file; ``name`` is what errors call it (default: the path).

    ``seen`` is shown what is read of its tensors.

    Raises :class:`FormatError` for a file that is damaged, hostile or not GGUF,
    :class:`UnsupportedError` for one that mbuild does not read (GGUF version 1,
    big-endian, old GGML) and :class:`SourceError` if it cannot be opened. Takes
    under a second and a bounded amount of memory whatever the file holds.
    """
    file = FileBytes.open(path, name)
    file.seen = seen
    return read_header(file)


def read_header(file: FileBytes) -> GGUFFile:
    """Parse the header of an open file; raises as :func:`open_gguf` does."""
    cursor = Cursor(file)
    refuse_foreign(file, file.read(0, min(HEAD, file.size)))
    version, n_tensors, n_kvs = _read_counts(cursor)
    kvs = _read_kvs(cursor, n_kvs)
    alignment = check_alignment(file, kvs)
    infos = [_read_tensor(cursor) for _ in range(n_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    placed = place_tensors(file, infos, data_start, alignment)
    check_texts(file, kvs)
    check_metadata(file, kvs)
    return GGUFFile(
        name=file.name,
        version=version,
        alignment=alignment,
        byte_order="little",
        kvs=MappingProxyType(kvs),
        tensors=tuple(
            TensorInfo(i.name, i.dims, i.type, offset, i.nbytes)
            for i, offset in zip(infos, placed, strict=True)
        ),
        data_start=data_start,
        size=file.size,
        file=file,
    )


def _read_counts(cursor: Cursor) -> tuple[int, int, int]:
    """Version, number of tensors and number of metadata entries."""
    cursor.skip(4, "the magic")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise UnsupportedError(
            f"{cursor.file.name}: a big-endian GGUF file",
            hint="convert it with gguf-convert-endian of the gguf package",
        )
    if version == 1:
        raise UnsupportedError(
            f"{cursor.file.name}: GGUF version 1, which llama.cpp stopped reading too",
            hint="convert the original checkpoint again, or find a newer file",
        )
    if version not in (2, 3):
        raise cursor.fail(f"unknown GGUF version {version}", at=4, hint="mbuild reads 2 and 3")
    n_tensors = cursor.u64("the number of tensors")
    n_kvs = cursor.u64("the number of metadata entries")
    for count, limit, what in (
        (n_tensors, MAX_TENSORS, "tensors"),
        (n_kvs, MAX_KVS, "metadata entries"),
    ):
        if count > limit:
            raise cursor.fail(f"claims {count} {what}, more than {limit}", at=8)
    if n_tensors * _MIN_TENSOR + n_kvs * _MIN_KV > cursor.remaining:
        raise cursor.fail(
            f"claims {n_tensors} tensors and {n_kvs} metadata entries, "
            f"but {cursor.remaining} bytes remain",
            at=8,
            hint=DAMAGED,
        )
    return version, n_tensors, n_kvs


def _read_kvs(cursor: Cursor, count: int) -> dict[str, RawKV]:
    kvs: dict[str, RawKV] = {}
    key_budget, string_budget = MAX_KEYS_TOTAL, MAX_STRINGS
    for _ in range(count):
        at = cursor.position
        key = _read_key(cursor)
        if key in kvs:
            raise cursor.fail(f"metadata key {short(key)} occurs twice", at=at)
        kvs[key] = entry = _read_value(cursor, key, string_budget)
        key_budget -= len(key)
        string_budget -= entry.count if entry.element is ValueType.STRING else 0
        if key_budget < 0:
            raise cursor.fail(f"metadata keys of more than {MAX_KEYS_TOTAL} bytes", at=at)
    return kvs


def _read_key(cursor: Cursor) -> str:
    at = cursor.position
    raw = cursor.string("a metadata key", MAX_KEY)
    try:
        key = raw.decode()
    except UnicodeDecodeError:
        raise cursor.fail(f"metadata key {raw[:80]!r} is not UTF-8", at=at) from None
    if not key:
        raise cursor.fail("empty metadata key", at=at)
    if problem := check_key(key):
        raise cursor.fail(
            f"metadata key {short(key)} {problem}",
            at=at,
            hint="programs would read different models; convert the original checkpoint again",
        )
    return key


def short(key: str) -> str:
    """A key for a message; hostile ones are long."""
    return repr(key if len(key) <= 80 else f"{key[:80]}...")


def _value_type(cursor: Cursor, key: str) -> ValueType:
    at = cursor.position
    number = cursor.u32("a metadata type")
    type_ = _VALUE_TYPES.get(number)
    if type_ is None:
        raise cursor.fail(f"metadata key {short(key)} has the unknown type {number}", at=at)
    return type_


def _read_value(cursor: Cursor, key: str, string_budget: int) -> RawKV:
    """Pass over a value, checking it, and note where it lies."""
    type_ = _value_type(cursor, key)
    start = cursor.position
    element: ValueType | None = None
    count = 1
    if type_ is ValueType.ARRAY:
        element = _value_type(cursor, key)
        count = cursor.u64("an array's count")
        _check_array(cursor, key, element, count, string_budget)
        _skip_items(cursor, key, element, count)
    elif type_ is ValueType.STRING:
        what = f"metadata key {short(key)}"
        cursor.skip(cursor.length(what, MAX_STRING), what)
    else:
        _skip_items(cursor, key, type_, 1)
    return RawKV(key, type_, element, count, start, cursor.position, cursor.file)


def _check_array(
    cursor: Cursor, key: str, element: ValueType, count: int, string_budget: int
) -> None:
    """Hold an array's claim against the file and the limits, before any loop."""
    if element is ValueType.ARRAY:
        raise cursor.fail(
            f"metadata key {short(key)} is an array of arrays", at=cursor.position - 12
        )
    limit = string_budget if element is ValueType.STRING else MAX_ARRAY
    smallest = SCALAR_SIZES.get(element, 8)  # a string takes at least its length field
    if count > limit or count * smallest > cursor.remaining:
        raise cursor.fail(
            f"metadata key {short(key)} claims {count} items of {element.name}; "
            f"{cursor.remaining} bytes remain, {limit} items are allowed",
            at=cursor.position - 8,
            hint=DAMAGED,
        )


def _skip_items(cursor: Cursor, key: str, type_: ValueType, count: int) -> None:
    what = f"metadata key {short(key)}"
    if type_ is ValueType.STRING:
        cursor.skip_strings(count, what)
    elif type_ is ValueType.BOOL:
        _check_bools(cursor, count, what)
    else:
        cursor.skip(count * SCALAR_SIZES[type_], what)


def _check_bools(cursor: Cursor, count: int, what: str) -> None:
    while count:
        step = min(count, 1 << 16)
        at = cursor.position
        if odd := cursor.take(step, what).translate(None, b"\0\1"):
            raise cursor.fail(f"{what} has the boolean {odd[0]}, neither 0 nor 1", at=at)
        count -= step


class RawTensorInfo(NamedTuple):
    """A tensor's entry as written: ``offset`` is relative to the data, ``at`` is the entry's."""

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    offset: int
    nbytes: int
    at: int


def _read_tensor(cursor: Cursor) -> RawTensorInfo:
    at = cursor.position
    name = check_tensor_name(cursor.file, cursor.string("a tensor's name", MAX_NAME), at)
    rank = cursor.u32("a tensor's rank")
    if not 1 <= rank <= MAX_DIMS:
        raise cursor.fail(f"tensor {name!r} has {rank} dimensions, not 1 to {MAX_DIMS}", at=at)
    *dims_, type_number, offset = _TENSOR_TAILS[rank].unpack(
        cursor.take(_TENSOR_TAILS[rank].size, "a tensor's dimensions, type and offset")
    )
    dims = tuple(dims_)
    if 0 in dims:
        raise cursor.fail(f"tensor {name!r} is empty: dimensions {list(dims)}", at=at)
    type_ = _GGML_TYPES.get(type_number)
    if type_ is None:
        raise cursor.fail(
            f"tensor {name!r} has the unknown type {type_number}",
            at=at,
            hint="the type was removed from ggml, or is newer than this mbuild",
        )
    try:
        nbytes = tensor_nbytes(type_, dims)
    except FormatError as error:
        raise cursor.fail(f"tensor {name!r}: {error.message}", at=at) from None
    return RawTensorInfo(name, dims, type_, offset, nbytes, at)
