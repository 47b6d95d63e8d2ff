"""A Modelfile with stages, read: those that are to be built, remembered like a recipe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mbuild import __version__
from mbuild.build.history import keep_modelfile, modelfile_text
from mbuild.build.prepare import Notice
from mbuild.core.digest import Digest
from mbuild.core.errors import MissingFileError, SourceError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.recipe import RECIPE_VERSION
from mbuild.language.span import Span
from mbuild.language.stages.values import StageRecipe
from mbuild.store.records import RECIPE

if TYPE_CHECKING:
    from mbuild.language.stages.evaluate import Brought
    from mbuild.store import Store

MAX_BYTES = 16 << 20
"""The most that a file which is brought in may have, and all of them together four times that."""


class Bringing(Protocol):
    """Where the files are that INCLUDE and ``@`` name; remembers what it gave."""

    @property
    def given(self) -> Mapping[str, bytes]:
        """What was brought in, by the names that the Modelfile has for it."""

    def __call__(self, includer: str, path: str) -> Brought:
        """A file by its path from where the includer lies (empty: the Modelfile)."""

    def read(self, name: str) -> bytes:
        """A file again, by the name that it was given under."""


class StagesRead(NamedTuple):
    """The stages to build in the file's order, warnings, and the files that were brought in."""

    stages: tuple[StageRecipe, ...]
    warnings: tuple[Notice, ...]
    brought: Mapping[str, Digest]


class _Bringer:
    """What the ways to bring files in have in common."""

    def __init__(self) -> None:
        self.given: dict[str, bytes] = {}

    def __call__(self, includer: str, path: str) -> Brought:
        """The file, named from the Modelfile's folder."""
        from mbuild.language.stages.evaluate import Brought

        if not path or "\0" in path:
            raise SourceError("the name of a file is missing", hint="write it behind the @")
        home = os.path.expanduser(path)
        name = os.path.normpath(os.path.join(os.path.dirname(includer), home))
        if name not in self.given:
            self.given[name] = self.read(name)
        if sum(map(len, self.given.values())) > 4 * MAX_BYTES:
            raise SourceError(
                f"the files that are brought in are larger than {4 * MAX_BYTES} bytes"
            )
        return Brought(name, self.given[name])

    def read(self, name: str) -> bytes:
        """A file by its name."""
        raise NotImplementedError


class FilesBeside(_Bringer):
    """Files of the disk: paths start from the Modelfile's folder, and may leave it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def read(self, name: str) -> bytes:
        """A regular file of at most :data:`MAX_BYTES`; raises :class:`SourceError`."""
        from mbuild.store.copying import OpenFile

        try:
            opened = OpenFile.open(self._folder / name, name)
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise MissingFileError(f"{name}: no such file", hint=self._meant(name)) from None
            raise
        with opened, open(opened.fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SourceError(f"{name} is larger than {MAX_BYTES} bytes", hint="take a text file")
        return data

    def _meant(self, name: str) -> str:
        """What to do about a file that is not there."""
        from mbuild.lint.remedies import missing

        return missing(self._folder, name) or "paths start from the folder of the Modelfile"


class FilesKept(_Bringer):
    """Files as an earlier build had them, out of the cache."""

    def __init__(self, brought: Mapping[str, Digest], store: Store) -> None:
        super().__init__()
        self._brought = brought
        self._store = store

    def read(self, name: str) -> bytes:
        """The bytes that were kept; raises :class:`SourceError` where they are gone."""
        digest = self._brought.get(name)
        data = None if digest is None else modelfile_text(digest, self._store)
        if data is None:
            raise SourceError(f"the cache no longer has {name}, which the Modelfile brings in",
                              hint="name the Modelfile with -f FILE")  # fmt: skip
        return data


class FilesGiven(_Bringer):
    """Files that a program has in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__()
        self._files = files

    def read(self, name: str) -> bytes:
        """The bytes; raises KeyError for a file that there is not."""
        return self._files[name]


class FilesTold(_Bringer):
    """Files that a statement names by their digests, from where they lie now."""

    def __init__(self, folder: Path, elsewhere: Path | None, digests: Collection[str]) -> None:
        super().__init__()
        self._folder = folder
        self._elsewhere = elsewhere
        self._digests = digests

    def read(self, name: str) -> bytes:
        """The file beside the Modelfile, or in the other folder; raises :class:`SourceError`."""
        from mbuild.build.sources.local import moved

        path = self._folder / name
        if self._elsewhere is not None:
            path = moved(path, self._folder, self._elsewhere)
        data = FilesBeside(path.parent).read(path.name)
        if str(Digest.of(data)) not in self._digests:
            raise SourceError(
                f"{name} is not the file that the Modelfile brought in: the statement has no"
                f" {Digest.of(data)}",
                hint="bring the one that the model was made with",
            )
        return data


class NoFiles(_Bringer):
    """No file at all: over HTTP a text must not say what is read from this machine."""

    def read(self, name: str) -> bytes:
        """Raises :class:`UsageError`."""
        raise UsageError(
            f"{name}: no file is opened because a request names it",
            hint="send its text in the Modelfile",
        )


def read_stages(
    data: bytes,
    filename: str,
    store: Store,
    bring: Bringing,
    arguments: Mapping[str, str],
    targets: Sequence[str],
) -> StagesRead:
    """Evaluate and check a Modelfile with stages; ``targets`` are what ``--target`` says.

    What a text without errors came to is remembered with the digests of all that it brings
    in, so that a build with nothing to do loads no grammar. Raises :class:`ModelfileError`.
    """
    asked = json.dumps([RECIPE_VERSION, __version__, filename, dict(arguments), list(targets)])
    key = hashlib.sha256(f"stages {asked}\0".encode() + data).hexdigest()
    remembered = store.cache.get(RECIPE, key)
    if remembered is not None:
        with suppress(ValueError, TypeError, KeyError, SourceError):
            return _again(remembered, bring)
    from mbuild.lint.stages import check_stages

    checked = check_stages(data, filename, bring, arguments, targets)
    stages = tuple(stage.recipe() for stage in checked.stages)
    notices = tuple(Notice(problem.message, problem.span) for problem in checked.warnings)
    brought = {name: Digest.of(content) for name, content in bring.given.items()}
    rows = [[name, str(digest)] for name, digest in brought.items()]
    store.cache.put(RECIPE, key, [[stage.to_json() for stage in stages], notices, rows])
    for content in (data, *bring.given.values()):
        keep_modelfile(content, store)
    return StagesRead(stages, notices, brought)


def _again(remembered: Any, bring: Bringing) -> StagesRead:
    """What is remembered, if the files are the same; raises ValueError if one is not."""
    stages, notices, rows = remembered
    brought = {}
    for name, text in rows:
        brought[name] = Digest.of(bring.read(name))
        if str(brought[name]) != text:
            raise ValueError(f"{name} changed")
    warnings = tuple(Notice(text, span and Span(*span)) for text, span in notices)
    return StagesRead(tuple(map(StageRecipe.from_json, stages)), warnings, brought)
