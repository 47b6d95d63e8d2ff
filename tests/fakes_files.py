"""A front end in memory: the smallest ``Files`` and ``Names`` that a resolver works over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mbuild.build.sources.files import Files, Found
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import (
    DamagedError,
    MbuildError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
)
from mbuild.core.names import InvalidNameError


class FakeFiles:
    """A folder whose files are bytes, known by their digests as those of a remote are.

    Only what the resolver opens has to lie on the disk, in ``folder``: without one nothing
    can be opened. ``asked`` are the names of the files that it wanted.
    """

    def __init__(self, contents: Mapping[str, bytes], folder: Path = Path("/nowhere")) -> None:
        self.name = "model"
        self.value = "far/model"
        self.asked: list[str] = []
        self._contents = contents
        self._folder = folder

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._contents)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._contents

    def file(self, name: str) -> SourceFile:
        """A file whose BLAKE3 is known."""
        self.asked.append(name)
        data = self._contents[name]
        stamp = FileStamp(0, 0, len(data), 0, 0)
        return SourceFile(name, self._folder / name, stamp, Digest.of(data, BLAKE3))


class FakeNames:
    """A front end where every value leads where ``places`` says, else to a stored model."""

    def __init__(self, places: Mapping[str, Found | SourceFile]) -> None:
        self._places = places

    def find(self, word: str, value: str) -> Found | SourceFile | None:
        """What ``places`` has."""
        return self._places.get(value)

    def nothing_in(self, word: str, value: str, files: Files) -> MbuildError:
        """An error that names all that the resolver told."""
        return SourceError(f"{word} {value}: nothing in {files.value}")

    def no_model(self, value: str, error: InvalidNameError | NameNotFoundError) -> MbuildError:
        """An error that names the value."""
        return NameNotFoundError(f"no model {value}")

    def is_model(self, value: str) -> MbuildError:
        """An error with this front end's remedy."""
        return SourceError(f"ADAPTER {value}: it is a model", hint=f"{value} goes elsewhere")

    def is_adapter(self, value: str) -> MbuildError:
        """An error with this front end's remedy."""
        return SourceError(f"FROM {value}: it is a LoRA adapter", hint=f"{value} goes elsewhere")

    def not_the_first(self, name: str, first: str, count: int) -> MbuildError:
        """An error with this front end's remedy."""
        return SourceError(f"{name} is not the first of {count} shards", hint=f"take {first}")

    def shards_missing(self, shown: str, missing: Sequence[str], count: int) -> MbuildError:
        """An error with this front end's remedy."""
        return MissingFileError(
            f"{shown}: {len(missing)} of {count} shards are missing: {', '.join(missing)}",
            hint="take all",
        )

    def lost_blob(self, value: str, digest: Digest) -> MbuildError:
        """An error that names the value and the blob."""
        return DamagedError(f"{value} lost {digest}")
