"""A GGUF file whose weights were never fetched is noticed when it is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.gguf.reader import open_gguf
from mbuild.gguf.zeros import nothing_but_zeros, zero_tensors

NAME = "blk.0.attn_q.weight"


def names_of_zeros(path: Path) -> list[str]:
    """What is found in a file."""
    with open_gguf(path) as file:
        return list(zero_tensors(file))


def cut(path: Path, name: str, keep: int) -> None:
    """Overwrite a tensor with zeros from its byte ``keep`` on."""
    with open_gguf(path) as file:
        found = next(tensor for tensor in file.tensors if tensor.name == name)
    with path.open("r+b") as stream:
        stream.seek(found.offset + keep)
        stream.write(bytes(found.nbytes - keep))


def test_a_weight_of_zeros_is_named(tmp_path: Path) -> None:
    """And only that one; the file itself is right."""
    path = tiny_gguf(tmp_path / "m.gguf")
    assert names_of_zeros(path) == []
    cut(path, NAME, 0)
    assert names_of_zeros(path) == [NAME]


@pytest.mark.parametrize("keep", [1, 65, 200])
def test_a_byte_anywhere_is_enough(tmp_path: Path, keep: int) -> None:
    """What stands between the samples counts as well."""
    path = tiny_gguf(tmp_path / "m.gguf")
    cut(path, NAME, 0)
    with open_gguf(path) as file:
        found = next(tensor for tensor in file.tensors if tensor.name == NAME)
    with path.open("r+b") as stream:
        stream.seek(found.offset + keep)
        stream.write(b"\x01")
    assert names_of_zeros(path) == []


def test_what_is_said_of_several() -> None:
    """One sentence, however many there are."""
    assert nothing_but_zeros([]) == []
    (text,) = nothing_but_zeros(["a.weight", "b.weight", "c.weight"])
    assert text.startswith("a.weight holds nothing but zeros, like 2 more: ")
