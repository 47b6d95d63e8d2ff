"""Builds that run now, in whichever process: each tells of itself in a small file while it lives.

The files lie in ``.mbuild/running/``. A line is the build's record so far, or what became of one of
its steps since. The maker holds its file locked, so what a killed build left is known and removed
by the next one. A build with nothing to do writes none; one that cannot write here builds all the
same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.history import BuildRecord, StepRecord
from mbuild.core.errors import MbuildError
from mbuild.store.files import (
    TemporaryFile,
    inherit,
    is_held,
    make_directories,
    open_regular,
    remove_stale,
)

if TYPE_CHECKING:
    from mbuild.store import Store

FOLDER = "running"
MAX_BYTES = 64 << 20
"""More is read of no file; a build of ten thousand steps tells less."""

RUNNING = "running"
"""The result of a build that has not ended, and the status of a step that has begun."""

WAITING = "waiting"
"""The status of a step of a running build that has not begun."""

_PREFIX = "build-"


class Telling:
    """What one build tells of itself; nothing here can make the build fail."""

    def __init__(self, store: Store, identity: str) -> None:
        folder = store.private / FOLDER
        self._file: TemporaryFile | None = None
        with suppress(OSError, MbuildError):
            make_directories(folder)
            remove_stale(folder, _PREFIX)
            self._file = TemporaryFile(folder, f"{_PREFIX}{identity}-")
            inherit(self._file.fd, folder)

    def tell(self, record: BuildRecord) -> None:
        """The whole build as it is now."""
        self._write({"build": record.to_json()})

    def tell_step(self, place: int, step: StepRecord) -> None:
        """What became of the step at a place of the record."""
        self._write({"place": place, "step": step.to_json()})

    def _write(self, value: Mapping[str, Any]) -> None:
        if self._file is not None:
            line = json.dumps(value, separators=(",", ":")) + "\n"
            with suppress(OSError):
                os.write(self._file.fd, line.encode())

    def end(self) -> None:
        """The build is over."""
        if self._file is not None:
            self._file.discard()


def builds_underway(store: Store) -> list[BuildRecord]:
    """The records of all builds that run in a store now, the last that began first."""
    found = [record for path in _files(store) if (record := _read(path)) is not None]
    return sorted(found, key=lambda record: (-record.time, record.id))


def build_underway(store: Store, identity: str) -> BuildRecord | None:
    """The record so far of the build with that id; None where it does not run, or has not told."""
    for path in _files(store, f"{_PREFIX}{identity}-"):
        return _read(path)
    return None


def _files(store: Store, start: str = _PREFIX) -> Iterator[Path]:
    """The files of builds whose makers live."""
    with suppress(OSError):
        for name in sorted(os.listdir(store.private / FOLDER)):
            path = store.private / FOLDER / name
            if name.startswith(start) and is_held(path):
                yield path


def _read(path: Path) -> BuildRecord | None:
    """A file's record with all that its later lines say; None for one that cannot be read."""
    try:
        fd, _ = open_regular(path)
        with open(fd, "rb") as file:
            lines = file.read(MAX_BYTES).split(b"\n")
    except OSError:  # it has ended
        return None
    record: BuildRecord | None = None
    steps: list[StepRecord] = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, AttributeError, IndexError, MbuildError):
            value = json.loads(line)
            if "build" in value:
                record = BuildRecord.from_json(value["build"])
                steps = list(record.steps)
            else:
                steps[value["place"]] = StepRecord.from_json(value["step"])
    return None if record is None else record._replace(steps=tuple(steps))
