"""Whether a server of mbuild's serves a store, and where: a small file that it holds locked."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = "serving.json"
_MAX_BYTES = 4096


class Serving:
    """A server's announcement; the lock is gone with the process, however that ends."""

    def __init__(self, private: Path) -> None:
        """``private``: the store's folder of mbuild's own files."""
        self._path = private / _NAME
        self._fd = -1

    def announce(self, url: str, *, runs: bool = True) -> None:
        """Say that this process serves the store at a URL; of several servers the first does.

        ``runs``: it runs models, too.
        """
        if fcntl is None:
            return
        with suppress(OSError):
            # A folder that was empty, or that only Ollama has written to, has none of mbuild's.
            self._path.parent.mkdir(exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                found = {"url": url, "pid": os.getpid(), "runs": runs}
                os.write(fd, json.dumps(found).encode())
                self._fd, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)

    def end(self) -> None:
        """Take the announcement back."""
        if self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


class Served(NamedTuple):
    """Where a store is served, "" where it is not, and whether models run there."""

    url: str = ""
    runs: bool = False


def served_at(private: Path) -> Served:
    """The server that serves a store now."""
    if fcntl is None:
        return Served()
    with suppress(OSError, ValueError, KeyError, TypeError):
        fd = os.open(private / _NAME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # held by a server that is alive
            found = json.loads(os.read(fd, _MAX_BYTES))
            return Served(str(found["url"]), found.get("runs") is not False)
        finally:
            os.close(fd)
    return Served()
