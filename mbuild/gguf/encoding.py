"""Metadata values as bytes and back, as laid out in GGUF versions 2 and 3.

A string is its length (uint64) and its bytes; an array is its element type
(uint32), its count (uint64) and its elements; all little-endian (gguf.h).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import Any

from mbuild.core.errors import FormatError
from mbuild.gguf.types import ValueType

SCALAR_CODES: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""The ``struct`` code of every type but STRING and ARRAY."""

SCALAR_SIZES: dict[ValueType, int] = {
    type_: struct.calcsize(f"<{code}") for type_, code in SCALAR_CODES.items()
}
"""Bytes that one value of the type takes."""

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
_ARRAY_HEAD = struct.Struct("<IQ")


def encode_string(text: str | bytes) -> bytes:
    """A length and the bytes; text as UTF-8, bytes as they are."""
    data = text.encode() if isinstance(text, str) else text
    return U64.pack(len(data)) + data


def encode_entry(key: str, type_: ValueType, element: ValueType | None, value: Any) -> bytes:
    """A whole metadata entry: key, type and value.

    Raises :class:`FormatError` when the value does not fit its type.
    """
    try:
        payload = _encode_value(type_, element, value)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        shown = f"{type_.name}({element.name})" if element is not None else type_.name
        raise FormatError(f"metadata key {key!r}: not a value of {shown}: {error}") from error
    return b"".join((encode_string(key), U32.pack(type_), payload))


def _encode_value(type_: ValueType, element: ValueType | None, value: Any) -> bytes:
    if type_ is ValueType.STRING:
        return encode_string(value)
    if type_ is not ValueType.ARRAY:
        return struct.pack(f"<{SCALAR_CODES[type_]}", _scalar(type_, value))
    if element is None or element is ValueType.ARRAY:
        raise TypeError("an array needs an element type other than ARRAY")
    if isinstance(value, str | bytes):
        raise TypeError("a string is not an array")
    head = _ARRAY_HEAD.pack(element, len(value))
    if element is ValueType.STRING:
        return head + _encode_strings(value)
    return head + _encode_numbers(element, value)


def _scalar(type_: ValueType, value: Any) -> Any:
    # struct takes any object for "?" and says nothing.
    if type_ is ValueType.BOOL and value not in (0, 1):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _encode_strings(values: Iterable[str | bytes]) -> bytes:
    data = [v.encode() if isinstance(v, str) else v for v in values]
    lengths = map(U64.pack, map(len, data))
    return b"".join(chain.from_iterable(zip(lengths, data, strict=True)))


def _encode_numbers(element: ValueType, values: Any) -> bytes:
    code = SCALAR_CODES[element]
    if sys.byteorder == "little" and (view := _same_layout(values, code)) is not None:
        return view.tobytes()
    if element is ValueType.BOOL:
        return bytes(_scalar(element, v) for v in values)
    numbers = array(code, values if isinstance(values, list | tuple) else list(values))
    if numbers.itemsize != SCALAR_SIZES[element]:  # no such platform is known
        return struct.pack(f"<{len(numbers)}{code}", *numbers)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _same_layout(values: Any, code: str) -> memoryview | None:
    """A view of an object that already holds the wanted numbers (numpy, array)."""
    try:
        view = memoryview(values)
    except (TypeError, BufferError, ValueError):
        return None
    same_kind = view.format == code or (view.format == "l" and code == "q" and view.itemsize == 8)
    same_kind = same_kind or (view.format == "L" and code == "Q" and view.itemsize == 8)
    return view if same_kind and view.ndim == 1 else None


def decode_value(type_: ValueType, element: ValueType | None, data: bytes) -> Any:
    """The value that ``data``, a payload checked by the reader, holds.

    Arrays become lists. Bytes of strings that are not UTF-8 become U+FFFD:
    llama.cpp takes any bytes for a token, and a copy goes through the raw
    bytes, so nothing is lost by it.
    """
    if type_ is ValueType.STRING:
        return data[8:].decode(errors="replace")
    if type_ is not ValueType.ARRAY or element is None:
        return struct.unpack(f"<{SCALAR_CODES[type_]}", data)[0]
    count = _ARRAY_HEAD.unpack_from(data)[1]
    if element is ValueType.STRING:
        return _decode_strings(data, count)
    return list(struct.unpack_from(f"<{count}{SCALAR_CODES[element]}", data, _ARRAY_HEAD.size))


def _decode_strings(data: bytes, count: int) -> list[str]:
    values = []
    at = _ARRAY_HEAD.size
    for _ in range(count):
        start = at + 8
        at = start + U64.unpack_from(data, at)[0]
        values.append(data[start:at].decode(errors="replace"))
    return values
