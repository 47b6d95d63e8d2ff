"""What lies where a blob should be and is none, or cannot be read, and what to do about it."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from mbuild.store.files import is_dangling, leads_nowhere, may_not_read


def is_removable(path: Path) -> bool:
    """Whether nothing is lost with what has a blob's name: not so a folder with files in it."""
    with suppress(OSError):
        return path.is_symlink() or not path.is_dir() or not os.listdir(path)
    return False


def unreadable(path: Path, error: Exception) -> tuple[str, str]:
    """Why a blob cannot be read, and what to do where that is not to make it again."""
    if isinstance(error.__cause__ or error, PermissionError):
        return str(error), may_not_read(path)
    if is_dangling(path):
        lost = leads_nowhere(path)
        return lost.message, f"{lost.hint}, and build or pull the models that use it again"
    return str(error), "" if is_removable(path) else set_apart(path)


def set_apart(path: Path) -> str:
    """What to do with a folder in a blob's place that has files in it."""
    return f"look at what is in {path}, and move it away"


def rename(path: Path, target: Path) -> None:
    """Move a file, also to another disk."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(path, target)  # blobs/ is a link to another disk
        path.unlink()


def free_name(folder: Path, name: str) -> Path:
    """A place in a folder that nothing has: the name and a number."""
    number = 1
    while (folder / f"{name}.{number}").exists():
        number += 1
    return folder / f"{name}.{number}"
