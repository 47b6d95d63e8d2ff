"""tar: deterministic headers for writing, and a bounded scan for reading.

Headers are POSIX ustar with pax records (POSIX.1-2001, "pax Interchange Format").
Nothing here ever extracts by name: a scan tells where each file's bytes lie.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.models.artifacts.sharing import BLOCK
from mbuild.store.copying import OpenFile

RECORD = 512
END = bytes(2 * RECORD)
MAX_ENTRIES = 200_000
MAX_PAX = 1 << 20
"""Bytes of one extended header."""

_OCTAL_LIMIT = 8 << 30
_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_TYPE = slice(156, 157)
_MAGIC = slice(257, 263)
_PREFIX = slice(345, 500)

_FILES = (b"0", b"\0", b"7")
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
}
_PAX_LENGTH = regex(rb"([1-9][0-9]{0,6}) ")


class Member(NamedTuple):
    """A file in an archive: where its bytes start, and how many they are."""

    start: int
    size: int


# Writing.


def header(name: str, size: int, at: int, *, align: bool) -> bytes:
    """The header of a file to be written at ``at`` in the archive.

    Mode 0644, owner 0, time 0, so that equal files give equal archives. With
    ``align`` a comment (which readers skip) moves the file's bytes to the start of a
    block, where they can share extents with the file that they come from.
    """
    records = b"" if size < _OCTAL_LIMIT else _record("size", str(size))
    if align and (records or (at + RECORD) % BLOCK):
        records += _comment(at + 2 * RECORD, len(records))
    extended = b""
    if records:
        padding = bytes(-len(records) % RECORD)
        extended = _ustar("pax/header", len(records), b"x") + records + padding
    return extended + _ustar(name, size if size < _OCTAL_LIMIT else 0, b"0")


def padding(size: int) -> bytes:
    """The zeros that follow a file's bytes."""
    return bytes(-size % RECORD)


def _comment(start: int, used: int) -> bytes:
    """A comment that fills the extended header to where the file's bytes start with a block.

    ``start`` is where they would start were the extended header empty.
    """
    total = -start % BLOCK
    while total - used < 20:  # too short for a record
        total += BLOCK
    length = total - used
    head = f"{length} comment="
    return (head + "-" * (length - len(head) - 1) + "\n").encode()


def _record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return f"{length}{body}".encode()


def _ustar(name: str, size: int, kind: bytes) -> bytes:
    fields = bytearray(RECORD)
    fields[: len(name)] = name.encode()
    fields[100:124] = b"0000644\0" + b"0000000\0" * 2
    fields[124:148] = f"{size:011o}\0".encode() + b"00000000000\0"
    fields[148:156] = b" " * 8
    fields[156:157] = kind
    fields[257:265] = b"ustar\x0000"
    fields[329:345] = b"0000000\0" * 2
    fields[148:156] = f"{sum(fields):06o}\0 ".encode()
    return bytes(fields)


# Reading.


def scan(file: OpenFile) -> dict[str, Member]:
    """The files of an archive by their plain relative names.

    Raises :class:`FormatError` for an archive that is damaged, cut short or
    hostile (a link, a device, a name that leads out, one name twice, a size
    that the file does not have), :class:`UnsupportedError` for a compressed
    one. Reads headers only, at most 200,000 of them.
    """
    _refuse_compressed(file)
    found: dict[str, Member] = {}
    for name, member in _members(file):
        if name in found:
            raise FormatError(f"{file.name}: {name!r} is in the archive twice")
        found[name] = member
    if not found:
        raise FormatError(f"{file.name}: no file in it")
    return found


def _members(file: OpenFile) -> Iterator[tuple[str, Member]]:
    at, extra = 0, _Extra()
    for _ in range(MAX_ENTRIES):
        block = _read(file, at, RECORD) if at + RECORD <= file.size else b""
        if len(block) < RECORD or block == bytes(RECORD):
            if not block and not at:
                raise FormatError(f"{file.name}: too short for a tar archive")
            return
        _check(file, block, at)
        kind, size = block[_TYPE], _number(file, block[_SIZE], at)
        if kind in (b"x", b"g", b"L", b"K"):
            data = _extension(file, at, size)
            if kind != b"g":
                extra = _read_extra(file, kind, data, extra, at)
            at += RECORD + size + -size % RECORD
            continue
        name = extra.name or _name(block)
        size = size if extra.size is None else extra.size
        at, extra = at + RECORD, _Extra()
        if kind == b"5":
            _check_name(file, name)
            continue
        if kind not in _FILES:
            what = _REFUSED.get(kind, f"an entry of type {kind!r}")
            raise FormatError(f"{file.name}: {name[:80]!r} is {what}, not a plain file")
        if at + size > file.size:
            raise FormatError(
                f"{file.name}: cut short: {name[:80]!r} ends {at + size - file.size} bytes past"
                " its end",
                hint="copy or download it again",
            )
        yield _check_name(file, name), Member(at, size)
        at += size + -size % RECORD
    raise FormatError(f"{file.name}: more than {MAX_ENTRIES} entries")


class _Extra(NamedTuple):
    """What an extended header says of the entry after it."""

    name: str = ""
    size: int | None = None


def _read_extra(file: OpenFile, kind: bytes, data: bytes, extra: _Extra, at: int) -> _Extra:
    if kind == b"K":  # the target of a link, which is refused when it comes
        return extra
    if kind == b"L":
        return extra._replace(name=data.rstrip(b"\0").decode("utf-8", "replace"))
    records = _pax(file, data, at)
    size = extra.size
    if "size" in records:
        if not re.fullmatch(r"[0-9]{1,18}", records["size"]):
            raise FormatError(f"{file.name}: at byte {at}: size {records['size'][:40]!r}")
        size = int(records["size"])
    if any(key.startswith("GNU.sparse") for key in records):
        raise FormatError(f"{file.name}: at byte {at}: a sparse file, not a plain one")
    return _Extra(records.get("path", extra.name), size)


def _pax(file: OpenFile, data: bytes, at: int) -> Mapping[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        match = _PAX_LENGTH.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1] != 0x0A:
            raise FormatError(f"{file.name}: at byte {at}: a malformed extended header")
        key, _, value = data[match.end() : end - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        position = end
    return records


def _extension(file: OpenFile, at: int, size: int) -> bytes:
    if size > MAX_PAX:
        raise FormatError(f"{file.name}: at byte {at}: an extended header of {size} bytes")
    return _read(file, at + RECORD, size)


def _read(file: OpenFile, at: int, count: int) -> bytes:
    data = os.pread(file.fd, count, at)
    if len(data) != count:
        raise FormatError(f"{file.name}: cut short at byte {at}", hint="copy it again")
    return data


def _check(file: OpenFile, block: bytes, at: int) -> None:
    told = block[_CHECKSUM].rstrip(b"\0 ").lstrip()
    actual = sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20
    if not re.fullmatch(rb"[0-7]{1,8}", told) or int(told, 8) != actual:
        what = "not a tar archive" if at == 0 else f"damaged at byte {at}"
        raise FormatError(f"{file.name}: {what}")


def _number(file: OpenFile, field: bytes, at: int) -> int:
    if field[0] == 0x80:  # GNU's base 256, for 8 GiB and more
        value = int.from_bytes(field[1:], "big")
    else:
        text = field.strip(b"\0 ")
        if not re.fullmatch(rb"[0-7]*", text):
            raise FormatError(f"{file.name}: at byte {at}: size {field!r}")
        value = int(text or b"0", 8)
    if value >= 1 << 62:
        raise FormatError(f"{file.name}: at byte {at}: size {value}")
    return value


def _name(block: bytes) -> str:
    name = block[_NAME].split(b"\0", 1)[0]
    if block[_MAGIC] == b"ustar\0":
        prefix = block[_PREFIX].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return name.decode("utf-8", "replace")


def _check_name(file: OpenFile, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise FormatError(f"{file.name}: the name {name[:80]!r} points outside the archive")
    return "/".join(parts)


def _refuse_compressed(file: OpenFile) -> None:
    start = os.pread(file.fd, 8, 0)
    for magic, (name, remedy) in _COMPRESSED.items():
        if start.startswith(magic):
            raise UnsupportedError(
                f"{file.name} is compressed with {name}", hint=f"unpack it first: {remedy} FILE"
            )
