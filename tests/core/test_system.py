"""Errors of the operating system come with what to do about them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mbuild.core.errors import SourceError, StoreError
from mbuild.core.system import remedy, reserve, unreadable
from mbuild.gguf.files import FileBytes
from mbuild.models.artifacts.sharing import writing
from mbuild.store import files


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EACCES, "ask its owner for access"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "exFAT"),
        (errno.EIO, "disk may be failing"),
    ],
)
def test_what_can_be_done_is_said(number: int, part: str) -> None:
    """Errors that a person can do something about have a remedy."""
    assert part in remedy(OSError(number, os.strerror(number)))


def test_where_there_is_no_telling_nothing_is_said() -> None:
    """An error that nobody knows, or that has no number, has no remedy."""
    assert remedy(OSError(errno.EXDEV, "x")) == ""
    assert remedy(OSError("no number")) == ""


def test_a_store_has_words_of_its_own_and_else_the_general_ones() -> None:
    """In a store a read-only disk means another store; a full table of files is the same there."""
    assert "--store" in files.remedy(OSError(errno.EROFS, "x"))
    assert files.remedy(OSError(errno.EMFILE, "x")) == remedy(OSError(errno.EMFILE, "x"))


def test_a_source_that_cannot_be_read_is_named() -> None:
    """The message has the file's name and the system's words, the hint what to do."""
    error = unreadable("a.gguf", OSError(errno.EIO, "Input/output error"))
    assert isinstance(error, SourceError)
    assert error.message == "a.gguf cannot be read: Input/output error"
    assert "disk" in error.hint


def test_borders_give_the_remedy(tmp_path: Path) -> None:
    """Where a file is opened and where one is written, what to do is part of the error."""
    long = tmp_path / ("x" * 300)
    with pytest.raises(SourceError, match="cannot be opened") as source:
        FileBytes.open(long)
    with pytest.raises(StoreError) as target, writing(long):
        long.write_bytes(b"")
    assert source.value.hint == target.value.hint == "choose a shorter name"


def test_room_is_taken_before_the_bytes_come(tmp_path: Path) -> None:
    """What a file has stays as it is, and so does its length; where that cannot be, nothing is."""
    path = tmp_path / "file"
    path.write_bytes(b"as it is")
    before = path.stat().st_blocks
    with path.open("r+b") as file:
        if not reserve(file.fileno(), 0, 1 << 20):
            pytest.skip("this file system takes no room ahead")
        assert path.stat().st_blocks >= before + (1 << 20) // 512 - 8
        assert path.read_bytes() == b"as it is"
    with path.open("rb") as file:
        assert not reserve(file.fileno(), 0, 1 << 20)
