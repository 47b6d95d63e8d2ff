"""The operating system: what to do about its errors, by their number, and its limits."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from mbuild.core.errors import SourceError

_REMEDIES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space in your quota",
    errno.EROFS: "choose a writable place",
    errno.EACCES: "ask its owner for access, or choose another place",
    errno.EPERM: "ask its owner for access, or choose another place",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: stop what holds them open",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f); FAT32 holds no file of 4 GiB, exFAT"
    " does",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links form a loop: remove one of them",
    errno.EIO: "the disk may be failing: copy what is on it to another one",
    errno.ESTALE: "the network drive lost the file: mount the drive again",
}
"""What can be done about it, wherever it comes up. A store knows better where it is a store's
(:func:`mbuild.store.files.remedy`)."""


def remedy(error: OSError) -> str:
    """What to do about an error of the system, "" where there is no telling."""
    return _REMEDIES.get(error.errno or 0, "")


def unreadable(name: str, error: OSError) -> SourceError:
    """The error about a source that the system does not let us read."""
    return SourceError(f"{name} cannot be read: {error.strerror or error}", hint=remedy(error))


_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02 | _KEEP_SIZE
"""``fallocate``'s modes: room for bytes to come, and a hole, in a file that keeps its length
(linux/falloc.h)."""


def reserve(fd: int, start: int, end: int) -> bool:
    """Take the room on the disk that a file's bytes will need; what is written stays as it is.

    The system has less to do for each write then. False where the system, the file system, or
    a full disk does not do it: then all stays as it is.
    """
    return _fallocate(fd, _KEEP_SIZE, start, end)


def make_hole(fd: int, start: int, end: int) -> bool:
    """Give back the room that a file's bytes take; they are zeros then.

    False where the system or the file system cannot: then all stays as it is.
    """
    return _fallocate(fd, _PUNCH_HOLE, start, end)


def _fallocate(fd: int, mode: int, start: int, end: int) -> bool:
    import ctypes

    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError, TypeError):  # only Linux has it
        return False
    offset = ctypes.c_longlong
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, offset, offset]
    return bool(fallocate(fd, mode, start, end - start) == 0)


_FEW_FILES = 64  # for which there is always room
_OTHER_FILES = 256  # what a process may open beside


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files for so many more, as far as it may.

    Where that is not far enough, opening a file fails, and :func:`remedy` says what to do.
    """
    if count <= _FEW_FILES:
        return
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    there = 0
    with suppress(OSError):
        there = len(os.listdir("/dev/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = there + count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
