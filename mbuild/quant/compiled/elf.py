"""Machine code from an ELF object file on Linux on x86-64, put into memory without a library.

A kernel is some sections of code and constants that refer to each other, and to nothing of the
process but a few functions of the C library. LLVM could load it too, but its library is larger
than everything else that mbuild needs, and takes longer to load than a hundred kernels.

Sources: the System V ABI, chapters 4 (object files) and 5, and its AMD64 supplement, section 4.4
(relocation).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator

from mbuild.core.values import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_KIND = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_PROGBITS, _SYMTAB, _RELA = 1, 2, 4
_WRITE, _ALLOC = 1, 2
_UNDEFINED, _RESERVED = 0, 0xFF00
_ABSOLUTE_64, _RELATIVE_32, _CALL_32 = 1, 2, 4
_PAGE = mmap.PAGESIZE


class ForeignError(Exception):
    """An object file that is damaged, or has more than kernels have."""


class _Section(NamedTuple):
    """A row of the table of sections; the names are those of ``Elf64_Shdr``."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    """A row of the table of symbols: ``Elf64_Sym``."""

    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


class ObjectFile:
    """An object file, and where its sections come to lie behind each other in memory.

    Raises :class:`ForeignError`.
    """

    def __init__(self, code: bytes) -> None:
        self.code = code
        try:
            self._sections = list(self._read_sections())
            self._symbols = list(self._read_symbols())
        except (struct.error, ValueError, IndexError) as error:
            raise ForeignError(f"damaged: {error}") from error
        self._places: dict[int, int] = {}
        end = 0
        for number, section in enumerate(self._sections):
            if not section.flags & _ALLOC or not section.size:
                continue
            # Exceptions are not thrown through kernels: what unwinding needs stays away.
            if section.type == _PROGBITS and self._name_of(section) != ".eh_frame":
                if section.flags & _WRITE:
                    raise ForeignError("it has variables")
                self._places[number] = end = -(-end // max(1, section.align)) * section.align
                end += section.size
            elif section.type == _PROGBITS or section.type >= 1 << 28:
                continue
            else:
                raise ForeignError(f"a section of type {section.type}")
        self.size = end

    def _read_sections(self) -> Iterator[_Section]:
        header = _HEADER.unpack_from(self.code)
        if not header[0].startswith(_KIND) or header[1:3] != (_RELOCATABLE, _X86_64):
            raise ValueError("no object file for Linux on x86-64")
        start, count, self._names = header[6], header[12], header[13]
        for number in range(count):
            yield _Section(*_SECTION.unpack_from(self.code, start + number * _SECTION.size))

    def _read_symbols(self) -> Iterator[_Symbol]:
        (table,) = (section for section in self._sections if section.type == _SYMTAB)
        self._strings = self._sections[table.link]
        for start in range(table.offset, table.offset + table.size, _SYMBOL.size):
            yield _Symbol(*_SYMBOL.unpack_from(self.code, start))

    def _text(self, strings: _Section, start: int) -> str:
        start += strings.offset
        return self.code[start : self.code.index(b"\0", start)].decode()

    def _name_of(self, section: _Section) -> str:
        return self._text(self._sections[self._names], section.name)

    def offset(self, name: str) -> int:
        """Where the function of this name begins, from the first section's beginning."""
        for symbol in self._symbols:
            if symbol.section in self._places and self._text(self._strings, symbol.name) == name:
                return self._places[symbol.section] + symbol.value
        raise ForeignError(f"no function {name} in the object file")

    def image(self, base: int) -> bytes:
        """The sections' bytes, as they have to be in memory from the address ``base`` on."""
        made = bytearray(self.size)
        for number, place in self._places.items():
            section = self._sections[number]
            content = self.code[section.offset : section.offset + section.size]
            if len(content) < section.size:
                raise ForeignError("damaged: a section ends early")
            made[place : place + section.size] = content
        for section in self._sections:
            if section.type == _RELA and section.info in self._places:
                try:
                    self._relocate(made, base, section)
                except (struct.error, IndexError) as error:
                    raise ForeignError(f"damaged: {error}") from error
        return bytes(made)

    def _relocate(self, made: bytearray, base: int, table: _Section) -> None:
        """Write the addresses that a section's code refers to."""
        for start in range(table.offset, table.offset + table.size, _RELOCATION.size):
            offset, what, addend = _RELOCATION.unpack_from(self.code, start)
            place, kind = self._places[table.info] + offset, what & 0xFFFFFFFF
            value = self._value(base, self._symbols[what >> 32]) + addend
            if kind == _ABSOLUTE_64:
                struct.pack_into("<Q", made, place, value)
            elif kind in (_RELATIVE_32, _CALL_32):
                struct.pack_into("<i", made, place, value - base - place)
            else:
                raise ForeignError(f"a relocation of type {kind}")

    def _value(self, base: int, symbol: _Symbol) -> int:
        """The address of a symbol: of this file, or a function of the process."""
        if symbol.section in self._places:
            return base + self._places[symbol.section] + symbol.value
        name = self._text(self._strings, symbol.name)
        if symbol.section == _UNDEFINED and hasattr(_process(), name):
            return ctypes.cast(getattr(_process(), name), ctypes.c_void_p).value or 0
        where = "reserved" if symbol.section >= _RESERVED else str(symbol.section)
        raise ForeignError(f"it refers to {name or 'something'} in section {where}")


def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def address(code: bytes, name: str) -> int:
    """Put an object file into memory that can be run; the address of the function ``name``.

    The memory can be written before it can be run and not after, and is never given back.
    Raises :class:`ForeignError`, and OSError where the system refuses.
    """
    file = ObjectFile(code)
    offset = file.offset(name)
    size = -(-file.size // _PAGE) * _PAGE
    process = _process()
    # Not Python's mmap, which gives memory back at the process's end: threads may run in it.
    process.mmap.restype = ctypes.c_void_p
    process.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    process.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = process.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        raise _refusal("memory for it")
    ctypes.memmove(base, file.image(base), file.size)
    if process.mprotect(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise _refusal("running memory that was written")
    return int(base) + offset


def _refusal(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"the system refuses {what}: {os.strerror(number)}")
