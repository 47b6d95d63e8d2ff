"""Small files of a checkpoint (JSON, templates, vocabularies), read with limits.

A checkpoint comes from a stranger: every file is opened only when it is a
regular file, its size is checked before it is read, and JSON is refused when
it is too deep or holds more containers than a tokenizer can need. The limits
are far above every published model's files (the largest known tokenizer.json
is 33 MB).
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import FormatError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MIB = 1 << 20
SMALL_LIMIT = 16 * MIB
"""Most bytes of config.json, tokenizer_config.json and the like."""
TOKENIZER_LIMIT = 96 * MIB
"""Most bytes of tokenizer.json and tokenizer.model."""
TEMPLATE_LIMIT = 1 * MIB
"""Most bytes of a chat template."""
CONTAINER_LIMIT = 4_000_000
"""Most arrays and objects in one JSON file: each costs memory far beyond its two bytes."""

_LFS = b"version https://git-lfs.github.com/spec/"


class CheckpointFiles:
    """The files of one checkpoint by their relative names, each read at most once."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._json: dict[str, Any] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def names(self, prefix: str, suffix: str) -> Iterator[str]:
        """Names directly below ``prefix`` that end in ``suffix``, sorted."""
        for name in sorted(self._files):
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and name.endswith(suffix) and "/" not in rest:
                yield name

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of a file; raises :class:`SourceError` or :class:`FormatError`."""
        path = self._files[name]
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{name}: not a regular file")
            if status.st_size > limit:
                raise FormatError(f"{name}: {status.st_size} bytes; the limit is {limit}")
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise SourceError(f"{name}: {error.strerror or error}") from error
        if len(data) > limit:
            raise FormatError(f"{name}: more than the limit of {limit} bytes")
        if data.startswith(_LFS):
            raise FormatError(f"{name}: a git-lfs pointer, not the file", hint="run git lfs pull")
        return data

    def text(self, name: str, limit: int) -> str:
        """A UTF-8 file with its line ends turned into newlines, as Python reads text."""
        text = decode(self.read(name, limit), name)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def json_object(self, name: str, limit: int = SMALL_LIMIT) -> dict[str, Any] | None:
        """A JSON file that holds one object; None when there is no such file.

        The same object is returned on every call: callers must not change it.
        """
        if name not in self._files:
            return None
        if name not in self._json:
            self._json[name] = parse_object(self.read(name, limit), name)
        value: dict[str, Any] = self._json[name]
        return value


def decode(data: bytes, name: str) -> str:
    """UTF-8 bytes as text; raises :class:`FormatError` that names the file."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: not UTF-8 at byte {error.start}") from error


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """One JSON object; raises :class:`FormatError` for anything else."""
    if data.count(b"[") + data.count(b"{") > CONTAINER_LIMIT:
        raise FormatError(f"{name}: more than {CONTAINER_LIMIT} arrays and objects")
    try:
        value = json.loads(decode(data, name))
    except RecursionError:
        raise FormatError(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{name}: not JSON: {error}") from error
    if b"\\ud" in data or b"\\uD" in data:
        _check_surrogates(value, name)
    if not isinstance(value, dict):
        raise FormatError(f"{name}: a JSON object is expected, not {type(value).__name__}")
    return value


def _check_surrogates(value: object, name: str) -> None:
    """JSON can escape half a character, which is no text that a file could hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{name}: a text has half of a surrogate pair") from None
