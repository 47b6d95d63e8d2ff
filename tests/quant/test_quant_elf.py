"""Object files put into memory without LLVM: they run, and what is not understood is refused."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

from mbuild.quant.compiled import llvm, loader
from mbuild.quant.compiled.elf import ForeignError, ObjectFile, address
from mbuild.quant.kernels import target

pytestmark = pytest.mark.skipif(not target.is_known(), reason="object files of Linux on x86-64")

TEXT = """
target triple = "x86_64-unknown-linux-gnu"
@table = private constant [4 x i64] [i64 3, i64 5, i64 7, i64 11]
declare i64 @labs(i64)
define i64 @pick(i64 %n) {
  %place = getelementptr [4 x i64], ptr @table, i64 0, i64 %n
  %value = load i64, ptr %place
  %less = sub i64 0, %value
  %made = call i64 @labs(i64 %less)
  ret i64 %made
}
define i64 @second(i64 %n) {
  ret i64 %n
}
"""
"""A function that has a constant of its own and calls one of the C library, and one without."""

VARIABLE = """
@counter = global i64 7
define i64 @count() {
  %n = load i64, ptr @counter
  ret i64 %n
}
"""

MISSING = """
declare i64 @nobody_has_this(i64)
define i64 @call(i64 %n) {
  %made = call i64 @nobody_has_this(i64 %n)
  ret i64 %made
}
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    """The object file of TEXT."""
    return llvm.compiled(TEXT)


def run(place: int, number: int) -> int:
    """What the function at this address makes of a number."""
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(place)(number))


@pytest.mark.parametrize("way", [address, llvm.address])
def test_functions_run_with_their_constants_and_the_c_librarys(
    way: Callable[[bytes, str], int], code: bytes
) -> None:
    """Here as with LLVM's own way of loading."""
    pick = way(code, "pick")
    assert [run(pick, number) for number in range(4)] == [3, 5, 7, 11]
    assert run(way(code, "second"), 29) == 29


def test_where_linux_tells_of_the_processor_nothing_is_loaded_by_llvm(
    code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless an object file has what only LLVM understands."""
    monkeypatch.setattr(llvm, "address", lambda code, name: pytest.fail("LLVM was asked"))
    assert loader.load(code, "second")(17) == 17
    asked: list[str] = []
    monkeypatch.setattr(llvm, "address", lambda code, name: asked.append(name) or 1)
    loader.load(llvm.compiled(VARIABLE), "count")
    assert asked == ["count"]


def test_code_cannot_be_written_once_it_can_be_run(code: bytes) -> None:
    """By /proc/self/maps."""
    place = address(code, "pick")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for span, rights, *_ in lines:
        first, last = (int(number, 16) for number in span.split("-"))
        if first <= place < last:
            assert rights == "r-xp"
            return
    pytest.fail("the code lies nowhere")


def changed(code: bytes, offset: int, kind: str, value: int) -> bytes:
    """The file with one number written over."""
    made = bytearray(code)
    struct.pack_into(kind, made, offset, value)
    return bytes(made)


def relocation(code: bytes) -> int:
    """Where the first relocation of the code stands in the file."""
    file = ObjectFile(code)
    return next(one.offset for one in file._sections if one.type == 4 and one.info in file._places)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda code: b"", "damaged"),
    "no object file": (lambda code: b"x" * 4096, "no object file for Linux on x86-64"),
    "another processor's": (lambda code: changed(code, 18, "<H", 183), "no object file for Linux"),
    "cut off": (lambda code: code[: len(code) // 2], "damaged"),
    "an unknown relocation": (
        lambda code: changed(code, relocation(code) + 8, "<I", 9),
        "a relocation of type 9",
    ),
    "a relocation of nothing": (
        lambda code: changed(code, relocation(code) + 12, "<I", 1 << 20),
        "damaged",
    ),
    "a variable": (lambda code: llvm.compiled(VARIABLE), "it has variables"),
    "a function that nobody has": (
        lambda code: llvm.compiled(MISSING),
        "it refers to nobody_has_this",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_not_understood_is_refused(kind: str, code: bytes) -> None:
    """Before any of it can be run, with the reason."""
    damage, said = DAMAGES[kind]
    with pytest.raises(ForeignError, match=said):
        ObjectFile(damage(code)).image(0)


def test_a_function_that_is_not_there(code: bytes) -> None:
    """Nor is there one of the name of a function that is only called."""
    for name in ("third", "labs"):
        with pytest.raises(ForeignError, match=f"no function {name}"):
            address(code, name)


def test_a_system_that_lets_nothing_written_be_run(
    code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal is raised, with its words: here of rights that no memory can have."""
    monkeypatch.setattr(mmap, "PROT_EXEC", 1 << 30)
    with pytest.raises(OSError, match="the system refuses running memory that was written"):
        address(code, "pick")


def test_the_processor_has_what_llvm_says_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every feature that kernels are chosen by, under Linux's names and LLVM's."""
    from llvmlite import binding

    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    there = {name for name, has in binding.get_host_cpu_features().items() if has}
    ours = {name.removeprefix("+") for name in target.features().split(",")}
    known = {name for names in target.LEVELS.values() for name in names}
    assert ours == there & known
