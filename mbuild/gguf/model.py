"""A GGUF model in memory: metadata, and tensors whose bytes are loaded on demand.

Conversion, merging and quantization are maps over this value; one writer
materializes it, so peak memory is a few tensors whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mbuild.core.values import FrozenValue, NamedTuple
from mbuild.gguf.encoding import U32, decode_value, encode_entry, encode_string
from mbuild.gguf.files import FileBytes
from mbuild.gguf.types import GGMLType, ValueType, tensor_nbytes

if TYPE_CHECKING:
    from typing_extensions import Buffer


class MetadataEntry(Protocol):
    """A metadata entry: one made here (:class:`KV`) or one in a file (:class:`RawKV`)."""

    @property
    def key(self) -> str:
        """The key, such as ``llama.block_count``."""

    @property
    def type(self) -> ValueType:
        """The value's type."""

    @property
    def element(self) -> ValueType | None:
        """The type of an array's items; ``None`` for anything else."""

    @property
    def value(self) -> Any:
        """The value as Python's int, float, bool, str or a sequence of them."""

    def encode(self) -> bytes:
        """The entry as it stands in a file: key, type and value."""


class KV(NamedTuple):
    """One metadata entry.

    ``value`` is an int, float, bool, str or, for ``ARRAY``, a sequence whose
    items have the type ``element`` (a numpy array is a sequence too; strings
    may be given as bytes). Arrays of arrays do not occur in models and are not
    represented.
    """

    key: str
    type: ValueType
    value: Any
    element: ValueType | None = None

    def encode(self) -> bytes:
        """The entry as it stands in a file; raises :class:`FormatError` if it cannot."""
        return encode_entry(self.key, self.type, self.element, self.value)


class RawKV(FrozenValue):
    """A metadata entry that lies in a file, at bytes ``start`` to ``stop``.

    The range holds the value (for an array with its element type and count).
    Nothing is kept in memory: ``value`` reads and decodes each time it is
    asked for, ``encode()`` copies without decoding. ``count`` is the number of
    an array's items, 1 for anything else.
    """

    key: str
    type: ValueType
    element: ValueType | None
    count: int
    start: int
    stop: int
    file: FileBytes

    @property
    def value(self) -> Any:
        """The decoded value; arrays are lists."""
        return decode_value(self.type, self.element, self.raw())

    def raw(self) -> bytes:
        """The bytes of the range; raises :class:`FormatError` if the file changed."""
        return self.file.read(self.start, self.stop - self.start)

    def encode(self) -> bytes:
        """The entry as it stands in the file."""
        return b"".join((encode_string(self.key), U32.pack(self.type), self.raw()))


@runtime_checkable
class InPieces(Protocol):
    """A tensor's ``load`` that can also give the bytes piece by piece."""

    @property
    def count(self) -> int:
        """Bytes that calling it gives."""

    def __call__(self) -> Buffer:
        """All the bytes."""

    def pieces(self, size: int, row: int = 1) -> Iterator[InPieces]:
        """Loads of at most about ``size`` bytes that give the same one after another.

        Each begins and ends with a row of ``row`` bytes, if all of them do.
        """


WHOLE = 32 << 20
"""Bytes of a piece from which on it is one that cannot be cut further."""


def held_for(size: int) -> int:
    """Bytes that making a piece of so many takes.

    A small one is made of about as much; what cannot be cut is moved as a whole, so that its
    values are in memory before and after, with those that were read beside them.
    """
    return size if size <= WHOLE else 3 * size


class Tensor(NamedTuple):
    """One tensor: its place in the model and a way to get its bytes.

    ``dims`` are fastest first, as in the file (the reverse of numpy's shape).
    ``load()`` returns the stored bytes, exactly ``nbytes`` of them,
    little-endian, as anything with the buffer protocol; each call may read and
    compute anew, from any thread.
    """

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    load: Callable[[], Buffer]

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without padding."""
        return tensor_nbytes(self.type, self.dims)


class Model(FrozenValue):
    """What a GGUF file holds: metadata in file order, tensors in file order.

    ``shards`` says how many of the tensors each file had that the model was merged from,
    in order; it is empty for a model that is not split.
    """

    metadata: tuple[MetadataEntry, ...]
    tensors: tuple[Tensor, ...]
    shards: tuple[int, ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or ``default``."""
        for kv in self.metadata:
            if kv.key == key:
                return kv.value
        return default

    def read(self, key: str) -> Any:
        """The value of a key as who reads the file will see it, whatever it was made as.

        Numbers are Python's, arrays lists, texts str; None where the key is missing.
        """
        for kv in self.metadata:
            if kv.key == key:
                head = len(encode_string(key)) + U32.size  # the key, and the type's number
                return decode_value(kv.type, kv.element, kv.encode()[head:])
        return None

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)
