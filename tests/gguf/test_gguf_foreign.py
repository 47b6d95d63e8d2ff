"""Files in a GGUF file's place are recognised by their first bytes."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.files import FileBytes
from mbuild.gguf.foreign import FOREIGN, HEAD, MAGIC, refuse_foreign


def _refuse(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with closing(FileBytes.open(path, path.name)) as file:
        refuse_foreign(file, data[:HEAD])


@pytest.mark.parametrize(
    ("data", "part", "kind"),
    [
        (b"", "empty", FormatError),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs", FormatError),
        (b"<!doctype html><html>", "web page", FormatError),
        (b"Invalid username or password.", "error message", FormatError),
        (b'{"error": "no"}', "error message", FormatError),
        (b"FUGG\x03\0\0\0", "big-endian", UnsupportedError),
        (b"lmgg\x03\0\0\0", "old GGML", UnsupportedError),
        (b"PK\x03\x04" + b"\0" * 8, "zip", FormatError),
        (b"\x10\0\0\0\0\0\0\0{}", "safetensors", FormatError),
        (b"\x01\x02\x03\x04", "the bytes 01 02 03 04", FormatError),
        (b"hello world", "the text 'hello world'", FormatError),
    ],
)
def test_what_is_no_gguf_is_named(
    tmp_path: Path, data: bytes, part: str, kind: type[Exception]
) -> None:
    """The error says which file it is, what it holds instead, and what to do."""
    with pytest.raises(kind, match=r"^x\.gguf") as error:
        _refuse(tmp_path / "x.gguf", data)
    assert part in str(error.value)
    assert error.value.hint  # type: ignore[attr-defined]


def test_gguf_passes(tmp_path: Path) -> None:
    """What begins with GGUF's four letters is read further, and no kind claims it."""
    _refuse(tmp_path / "x.gguf", MAGIC + b"\x03\0\0\0")
    assert not [kind.what for kind in FOREIGN if re.match(kind.pattern, MAGIC, re.S)]
