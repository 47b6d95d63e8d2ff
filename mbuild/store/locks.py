"""Who may remove blobs: builders hold a lock together, a collector holds it alone.

``flock`` and not age or process ids decides, so a lock is free the moment its
holder dies. Windows has no shared file locks in Python; there every holder is
alone for as long as it holds (builds of one store run one after another).

On a file system without locks builders go on without one; nobody is alone there, so
nothing is removed unless the user says that nothing runs.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.errors import StoreError
from mbuild.store.files import NO_LOCKS, inherit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_POLL_SECONDS = 0.02
_NOTICE_SECONDS = 1.0


def use(path: str) -> None:
    """Say until the end of this process that it reads a blob: a prune passes over it.

    Without effect where the file system has no locks.
    """
    if fcntl is not None:
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_used(path: Path) -> bool:
    """Whether a process that lives said so of a blob; False where nobody can tell."""
    if fcntl is None:
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
    finally:
        os.close(fd)
    return False


def try_hold(path: Path, fd: int) -> bool:
    """Take the lock of an open file for as long as it is open; False while another one has it.

    False, too, where the file has lost its name, which is ``path``: who had it before is done
    with it. Where the file system has no locks nobody is kept away.
    """
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS or isinstance(error, BlockingIOError):
                return False
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


class NoLocksError(StoreError):
    """The file system has no locks, so nobody can be alone in the store."""


class FileLock:
    """An advisory lock on one file, shared or exclusive, released by ``release`` or death."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.missing = False
        """Whether the file system has no locks, as far as was tried."""

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self._fd >= 0

    def acquire(
        self,
        *,
        exclusive: bool,
        timeout: float | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> bool:
        """Take the lock, waiting up to ``timeout`` seconds (None: as long as it takes).

        ``on_wait`` is called once when the wait has lasted a second. Returns
        False when the time ran out. Where the file system has no locks a builder
        gets none (see ``missing``); for being alone :class:`NoLocksError` is raised.
        """
        fd = self._open()
        start = time.monotonic()
        try:
            while not self._try_lock(fd, exclusive=exclusive):
                waited = time.monotonic() - start
                if timeout is not None and waited >= timeout:
                    return False
                if on_wait is not None and waited >= _NOTICE_SECONDS:
                    on_wait()
                    on_wait = None
                time.sleep(_POLL_SECONDS)
            self._fd, fd = fd, -1
            return True
        finally:
            if fd >= 0:
                os.close(fd)

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if self._fd >= 0:
            if fcntl is None:
                msvcrt.locking(self._fd, msvcrt.LK_UNLCK, 1)
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # made by another user; to read it is enough for a lock
            return os.open(self._path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        inherit(fd, self._path.parent)
        return fd

    def _try_lock(self, fd: int, *, exclusive: bool) -> bool:
        try:
            if fcntl is None:
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
                return False
            if error.errno not in NO_LOCKS:
                raise StoreError(f"cannot lock the store: {error.strerror}") from error
            self.missing = True
            if exclusive:
                raise NoLocksError(
                    "the store's file system has no locks, so nobody can tell whether a build"
                    " is running",
                    hint="if none is running: mbuild prune --older 0s",
                ) from error
        return True
