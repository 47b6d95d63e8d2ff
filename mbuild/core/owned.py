"""Folders that keep, for one user, what is made on this machine and used again, sometimes as code.

What lies there is trusted, so that a folder or file counts only where nobody else can have
written it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mbuild.core.environment import home_folder


def kept_folder(name: str) -> Path:
    """Where such a folder lies: ``$MBUILD_HOME/<name>``, else ``$XDG_CACHE_HOME/mbuild/<name>``.

    ``$XDG_CACHE_HOME`` is ``~/.cache`` where it is not set. Raises RuntimeError where nobody
    knows the home directory.
    """
    ours = home_folder()
    if ours is not None:
        return ours.absolute() / name
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "mbuild" / name


def open_folder(folder: Path) -> int:
    """A descriptor of a folder that is the user's own, for nobody else to write.

    It is no link, and not led to by a link that somebody else made. Raises OSError, which is
    a PermissionError that says why where somebody else can write, or where nobody can tell.
    """
    if not hasattr(os, "getuid"):  # Windows
        raise PermissionError(errno.EACCES, "files have no owners here", str(folder))
    for place in (folder, *folder.parents):
        info = os.lstat(place)
        if stat.S_ISLNK(info.st_mode) and (place == folder or info.st_uid not in (0, os.getuid())):
            whose = "a link" if place == folder else "a link of another user"
            raise PermissionError(errno.EACCES, f"{place} is {whose}", str(folder))
    return open_own("the folder", folder, os.O_DIRECTORY)


def open_own(what: str, path: str | Path, flags: int = 0, folder: int | None = None) -> int:
    """Open for reading what only this user can have written; raises OSError, also for a link."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, dir_fd=folder)
    info = os.fstat(fd)
    if info.st_uid != os.getuid():
        trouble = "belongs to another user"
    elif info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        trouble = "can be written by others"
    else:
        return fd
    os.close(fd)
    raise PermissionError(errno.EACCES, f"{what} {trouble}", str(path))


def read_own(folder: Path, name: str) -> bytes | None:
    """A file of such a folder; None where there is none, or not surely the user's own."""
    try:
        place = open_folder(folder)
        try:
            entry = open_own("the file", name, folder=place)
        finally:
            os.close(place)
        with open(entry, "rb") as file:
            return file.read()
    except OSError:
        return None


def write_own(folder: Path, name: str, content: bytes) -> None:
    """Keep a file there, complete or not at all; nothing where that cannot be done."""
    import tempfile
    from contextlib import suppress

    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(open_folder(folder))
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
