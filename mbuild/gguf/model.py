"""A GGUF model in memory: metadata, and tensors whose bytes are loaded on demand.

Conversion, merging and quantization are maps over this value; one writer
materializes it, so peak memory is a few tensors whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.gguf.types import GGMLType, ValueType, tensor_nbytes

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, slots=True)
class KV:
    """One metadata entry.

    ``value`` is an int, float, bool, str or, for ``ARRAY``, a sequence whose
    items have the type ``element`` (a numpy array is a sequence too). Arrays
    of arrays do not occur in models and are not represented.
    """

    key: str
    type: ValueType
    value: Any
    element: ValueType | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
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


@dataclass(frozen=True, slots=True)
class Model:
    """What a GGUF file holds: metadata in file order, tensors in file order."""

    metadata: tuple[KV, ...]
    tensors: tuple[Tensor, ...]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or ``default``."""
        for kv in self.metadata:
            if kv.key == key:
                return kv.value
        return default

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)
