"""Compiled kernels kept on disk, so that a kernel is compiled once per machine.

An entry is an object file (:mod:`mbuild.quant.compiler`) behind a digest. Its name holds
a digest of all that decides the code: the sources that kernels are made of, the versions
of Python, numba and LLVM, the CPU with its features, and the kernel's own name, which
tells the type and the number of lanes. Entries are written under a temporary name and
renamed; what cannot be read or written is compiled again, silently.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path

from mbuild.quant.target import description
from mbuild.store.environment import home_folder

PACKAGE = Path(__file__).parent.parent
SOURCES = (
    "gguf/types",
    "quant/compiler",
    "quant/emit",
    "quant/fits",
    "quant/forms",
    "quant/grids",
    "quant/kernels",
    "quant/lane_arrays",
    "quant/lane_bytes",
    "quant/lane_lists",
    "quant/lane_picks",
    "quant/lane_runs",
    "quant/lanes",
    "quant/ops",
    "quant/point_emit",
    "quant/point_kernels",
    "quant/points",
    "quant/search",
    "quant/simple",
    "quant/simple_kernels",
    "quant/specs",
    "quant/target",
    "quant/ternary",
)
"""Modules whose text can change a kernel's code: the compiler and all that it imports."""

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


@cache
def _sources() -> bytes:
    """A digest of the texts of :data:`SOURCES`."""
    state = hashlib.sha256()
    for name in SOURCES:
        text = (PACKAGE / f"{name}.py").read_bytes()
        state.update(name.encode() + b"\0" + text + b"\0")
    return state.digest()


def key(name: str) -> bytes:
    """A digest of all that decides the code of the kernel of this name."""
    return hashlib.sha256(_sources() + repr((name, description())).encode()).digest()


def _path(name: str, key_: bytes) -> Path:
    return directory() / f"{name}-{key_.hex()[:32]}.o"


def read(name: str) -> bytes | None:
    """The object file of a kernel, or None if there is none that is sound and the user's own."""
    key_ = key(name)
    try:
        with _path(name, key_).open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            content = file.read()
    except OSError:
        return None
    code = content[_DIGEST:]
    return code if hashlib.sha256(key_ + code).digest() == content[:_DIGEST] else None


def write(name: str, code: bytes) -> None:
    """Keep the object file of a kernel, if the directory can be written."""
    import tempfile

    key_ = key(name)
    path = _path(name, key_)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(key_ + code).digest() + code)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
