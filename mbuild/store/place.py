"""Where a store lies: whether it can be one there, and what to say when it has no models."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import StoreError
from mbuild.store.files import (
    is_dangling,
    kind_of,
    leads_nowhere,
    make_directories,
    may_not_read,
    remedy,
)

if TYPE_CHECKING:
    pass

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama keeps its models when its installer made it a service of Linux."""


def check_place(root: Path) -> None:
    """Raise :class:`StoreError` for a place that cannot be a store.

    That is a link, or what lies below a link, to a drive that is not there, a file, and a
    folder that this user may not look into. What is not there yet can be made.
    """
    for folder in (root, root / "blobs", root / "manifests"):
        try:
            mode = os.stat(folder).st_mode
        except FileNotFoundError:
            _check_links(folder)
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise StoreError(
                f"the store {root} cannot be accessed: {error.strerror}",
                hint=may_not_read(folder if folder == root else root) if denied else remedy(error),
            ) from error
        else:
            if not stat.S_ISDIR(mode):
                raise StoreError(
                    f"{folder} is {kind_of(mode) or 'a file'}, but a store is a folder",
                    hint="choose another store with --store or OLLAMA_MODELS",
                )


def _check_links(folder: Path) -> None:
    """Raise :class:`StoreError` if a folder is not there because of a link that leads nowhere."""
    for place in (folder, *folder.parents):
        if is_dangling(place):
            error = leads_nowhere(place)
            if place == folder:
                raise error
            raise StoreError(f"there is no store {folder}: {error.message}", hint=error.hint)


def make_store(root: Path, folders: tuple[Path, ...]) -> None:
    """Make a store and folders in it; raises :class:`StoreError` naming what cannot be made."""
    check_place(root)
    folder = root
    try:
        for folder in (root, *folders):
            make_directories(folder)
    except OSError as error:
        what = f"the store {root}" if folder == root else str(folder)
        raise StoreError(
            f"cannot create {what}: {error.strerror or error}", hint=remedy(error)
        ) from error


def about_empty(root: Path) -> str:
    """A hint for somebody who looks for a model in a store that has none."""
    text = f"the store {root} " + ("has no models yet" if root.is_dir() else "is not there yet")
    with suppress(OSError):
        if SERVICE_STORE.is_dir() and not (root.is_dir() and root.samefile(SERVICE_STORE)):
            text += f"; Ollama's service has a store of its own: --store {SERVICE_STORE}"
    return text
