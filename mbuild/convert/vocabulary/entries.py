"""Metadata entries in the order they are first set, as llama.cpp's GGUF writer keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Entries:
    """An ordered set of entries: a key set twice keeps its first place and its last value.

    Empty strings and empty arrays are not written (``GGUFWriter.add_string``
    and ``add_array`` in gguf-py).
    """

    def __init__(self) -> None:
        self._entries: dict[str, KV] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(self, kv: KV) -> None:
        """Set an entry as it is."""
        self._entries[kv.key] = kv

    def string(self, key: str, value: str) -> None:
        """Set a STRING, unless it is empty."""
        if value:
            self._entries[key] = KV(key, ValueType.STRING, value)

    def uint32(self, key: str, value: int) -> None:
        """Set a UINT32; raises :class:`FormatError` when the value is none."""
        if not 0 <= value < 1 << 32:
            raise FormatError(f"{key}: {value} is not an unsigned 32-bit number")
        self._entries[key] = KV(key, ValueType.UINT32, value)

    def int32(self, key: str, value: int) -> None:
        """Set an INT32; raises :class:`FormatError` when the value is none."""
        if not -(1 << 31) <= value < 1 << 31:
            raise FormatError(f"{key}: {value} is not a signed 32-bit number")
        self._entries[key] = KV(key, ValueType.INT32, value)

    def float32(self, key: str, value: float) -> None:
        """Set a FLOAT32."""
        self._entries[key] = KV(key, ValueType.FLOAT32, value)

    def boolean(self, key: str, value: bool) -> None:
        """Set a BOOL."""
        self._entries[key] = KV(key, ValueType.BOOL, value)

    def array(
        self, key: str, value: Sequence[str] | bytes | NDArray[np.generic], element: ValueType
    ) -> None:
        """Set an ARRAY of ``element``, unless it is empty."""
        if len(value):
            self._entries[key] = KV(key, ValueType.ARRAY, value, element)

    def list(self) -> list[KV]:
        """All entries in order."""
        return [*self._entries.values()]
