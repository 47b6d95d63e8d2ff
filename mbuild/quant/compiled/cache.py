"""Compiled kernels kept on disk, so that a kernel is compiled once per machine.

An entry is an object file (:mod:`mbuild.quant.compiled.compiler`) behind a digest. Its name holds
a digest of all that decides the code: the sources that kernels are made of, the versions
of Python, numba and LLVM, the CPU with its features, and the kernel's own name, which
tells the type and the number of lanes. Entries are written under a temporary name and
renamed; what cannot be read or written is compiled again (:func:`problem` says why).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from functools import cache
from pathlib import Path

from mbuild.core.environment import HOME_VARIABLE, home_folder
from mbuild.quant.kernels import target

PACKAGE = Path(__file__).parents[2]
SOURCES = ("gguf/types", "quant/compiled/compiler", "quant/table")
FOLDERS = ("quant/search", "quant/layouts", "quant/kernels")
"""Modules whose text can change a kernel's code, and folders of nothing but such modules: the
compiler and all that it imports."""

_DIGEST = hashlib.sha256().digest_size


def directory() -> Path:
    """Where entries lie: ``$MBUILD_HOME/kernels``, else ``$XDG_CACHE_HOME/mbuild/kernels``.

    ``$XDG_CACHE_HOME`` is ``~/.cache`` where it is not set.
    """
    ours = home_folder()
    if ours is not None:
        return ours.absolute() / "kernels"
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "mbuild" / "kernels"


def is_writable() -> bool:
    """Whether entries can be kept: the folder, or what it will lie in, can be written."""
    with contextlib.suppress(OSError):
        for place in (directory(), *directory().parents):
            if os.path.lexists(place):
                return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False


def problem() -> str:
    """Why entries are not kept or not used, in words and with a remedy; "" if they are."""
    again = "each build compiles them again"
    other = f"set {'XDG_CACHE_HOME' if home_folder() is None else HOME_VARIABLE} to"
    if not is_writable():
        return (
            f"compiled quantizers cannot be kept in {directory()}: {again};"
            f" {other} a writable folder"
        )
    try:
        os.close(_open_folder())
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (
            f"compiled quantizers in {directory()} are not used, because {error.strerror}: "
            f"{again}; let nobody else write there (chmod 700), or {other} another folder"
        )
    return ""


def _open_folder() -> int:
    """A descriptor of the folder of entries.

    What lies there is run, so the folder has to be the user's own, for nobody else to write,
    no link, and not led to by a link that somebody else made. Raises OSError.
    """
    folder = directory()
    for place in (folder, *folder.parents):
        info = os.lstat(place)
        if stat.S_ISLNK(info.st_mode) and (place == folder or info.st_uid not in (0, os.getuid())):
            whose = "a link" if place == folder else "a link of another user"
            raise PermissionError(errno.EACCES, f"{place} is {whose}", str(folder))
    return _open_own("the folder", folder, os.O_DIRECTORY)


def _open_own(what: str, path: str | Path, flags: int, folder: int | None = None) -> int:
    """Open what only this user can have written; raises OSError, also for a link."""
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


def sources() -> list[str]:
    """The modules whose text is part of every key, by their paths below the package."""
    found = [
        f"{folder}/{name.removesuffix('.py')}"
        for folder in FOLDERS
        for name in os.listdir(PACKAGE / folder)
        if name.endswith(".py") and not name.startswith("__")
    ]
    return sorted((*SOURCES, *found))


@cache
def sources_digest() -> bytes:
    """A digest of the texts of :func:`sources`."""
    state = hashlib.sha256()
    for name in sources():
        text = (PACKAGE / f"{name}.py").read_bytes()
        state.update(name.encode() + b"\0" + text + b"\0")
    return state.digest()


def key(name: str) -> bytes:
    """A digest of all that decides the code of the kernel of this name."""
    return hashlib.sha256(sources_digest() + repr((name, target.description())).encode()).digest()


def _path(name: str, key_: bytes) -> Path:
    return directory() / f"{name}-{key_.hex()[:32]}.o"


def read(name: str) -> bytes | None:
    """The object file of a kernel, or None if there is none that is sound and the user's own.

    Whoever can write an entry can have any code run: the digest in it is no secret. So it
    counts only where nobody else can have put it there (see :func:`problem`).
    """
    key_ = key(name)
    try:
        folder = _open_folder()
        try:
            entry = _open_own("the file", _path(name, key_).name, 0, folder)
        finally:
            os.close(folder)
        with open(entry, "rb") as file:
            content = file.read()
    except OSError:
        return None
    code = content[_DIGEST:]
    return code if hashlib.sha256(key_ + code).digest() == content[:_DIGEST] else None


def write(name: str, code: bytes) -> None:
    """Keep the object file of a kernel, if the directory can be written and is the user's own."""
    import tempfile

    key_ = key(name)
    path = _path(name, key_)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(_open_folder())
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(key_ + code).digest() + code)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
