"""Folders of a process's own among the system's temporary files.

Whoever is killed leaves its folder behind. So each has a file that its owner holds locked as
long as he lives, and who makes a folder removes those whose file nobody holds.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = "mbuild-run-"
_HELD = "held"
_LONGEST = 60
"""Characters of a folder for temporary files. The path of a socket in it has at most 107."""


class OwnFolder:
    """A new folder that nobody else may enter (mode 0700); :meth:`remove` ends it."""

    def __init__(self) -> None:
        """Raises :class:`OSError` where none can be made."""
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base_folder()))
        self._fd = -1
        if fcntl is not None:
            # It gets its name when it is locked: nobody finds it there and not held.
            unnamed = self.path / f"{_HELD}.new"
            self._fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # a file system without locks: the folder is just kept
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unnamed.rename(self.path / _HELD)

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        """Begin with the removal of what others have left."""
        remove_abandoned()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def base_folder() -> str:
    """Where such folders are."""
    found = tempfile.gettempdir()
    return found if len(found) < _LONGEST else "/tmp"


def remove_abandoned() -> None:
    """Remove this user's folders whose owners are gone; nothing that happens here is an error."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(base_folder()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    fd = os.open(folder / _HELD, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where the owner is alive
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)
