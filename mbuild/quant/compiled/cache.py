"""Compiled kernels kept on disk, so that a kernel is compiled once per machine.

An entry is an object file (:mod:`mbuild.quant.compiled.compiler`) behind a digest. Its name holds
a digest of all that decides the code: the sources that kernels are made of, the versions
of Python, numba and LLVM, the CPU with its features, and the kernel's own name, which
tells the type and the number of lanes. Entries are written under a temporary name and
renamed; what cannot be read or written is compiled again (:func:`problem` says why).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path

from mbuild.core.environment import HOME_VARIABLE, home_folder
from mbuild.core.owned import kept_folder, open_folder, read_own, write_own
from mbuild.quant.kernels import target

PACKAGE = Path(__file__).parents[2]
SOURCES = ("gguf/types", "quant/compiled/compiler", "quant/table")
FOLDERS = ("quant/search", "quant/layouts", "quant/types", "quant/kernels")
"""Modules whose text can change a kernel's code, and folders of nothing but such modules: the
compiler and all that it imports."""

_DIGEST = hashlib.sha256().digest_size


def directory() -> Path:
    """Where entries lie: ``kernels`` among what is kept for this user."""
    return kept_folder("kernels")


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
        os.close(open_folder(directory()))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (
            f"compiled quantizers in {directory()} are not used, because {error.strerror}: "
            f"{again}; let nobody else write there (chmod 700), or {other} another folder"
        )
    return ""


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
    path = _path(name, key_)
    content = read_own(path.parent, path.name)
    if content is None:
        return None
    code = content[_DIGEST:]
    return code if hashlib.sha256(key_ + code).digest() == content[:_DIGEST] else None


def write(name: str, code: bytes) -> None:
    """Keep the object file of a kernel, if the directory can be written and is the user's own."""
    key_ = key(name)
    content = hashlib.sha256(key_ + code).digest() + code
    path = _path(name, key_)
    write_own(path.parent, path.name, content)
