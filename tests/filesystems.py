"""File systems and users other than the usual: calls that fail, and processes without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import need

SOURCE = Path(__file__).parent / "data" / "faults.c"
OTHER = 54321
"""A user that nothing here belongs to."""

Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


def build_faults(folder: Path) -> Path:
    """The library that makes calls fail; skips where there is no compiler."""
    library = folder / "faults.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("making calls fail needs Linux and a C compiler")
    if not library.exists():
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
    return library


@contextmanager
def small_file_system(place: Path) -> Iterator[Path]:
    """A file system of one MiB in a new folder; skips where none can be mounted."""
    need("mount", "umount")
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def as_user(user: int = OTHER, *groups: int) -> list[str]:
    """What starts a command as another user; skips where that cannot be done."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("being another user needs root and setpriv")
    prefix = _switch(user, groups)
    ask = [*prefix, sys.executable, "-m", "mbuild", "--version"]
    if subprocess.run(ask, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("other users may not read this checkout")
    return prefix


def _switch(user: int, groups: Sequence[int]) -> list[str]:
    others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return ["setpriv", f"--reuid={user}", f"--regid={user}", others]


def without_root() -> list[str]:
    """What starts a command without root's powers over permissions, if this is root."""
    if sys.platform == "win32":
        pytest.skip("permissions are POSIX")
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root without its powers needs setpriv")
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def caller(folder: Path, prefix: Sequence[str] = (), **environment: str) -> Call:
    """Run the command line in a process of its own, on the store ``store`` in ``folder``."""
    base = {**os.environ, "OLLAMA_MODELS": str(folder / "store"), "HOME": str(folder)}
    base |= {"NO_COLOR": "1", **environment}

    def call(*arguments: str | Path) -> Done:
        command = [*prefix, sys.executable, "-m", "mbuild", *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=base, capture_output=True, text=True, timeout=60, check=False
        )

    return call
