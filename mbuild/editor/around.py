"""What lies around a Modelfile: files beside it, models in the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from mbuild.core.values import NamedTuple

MOST = 1000
"""Entries of a folder that are looked at, and models that are offered."""

WEIGHTS = (".gguf", ".safetensors")


class Around(NamedTuple):
    """The folder that paths start from, None where there is none, and the stored models' names."""

    folder: Path | None
    models: Callable[[], Iterable[str]]

    def path(self, value: str) -> Path | None:
        """Where a value leads, whether something is there or not."""
        if self.folder is None or not value or "\0" in value:
            return None
        return self.folder / os.path.expanduser(value)

    def entries(self, begun: str, endings: tuple[str, ...] = ()) -> list[str]:
        """Paths that go on from what is written, folders with ``/`` at their end.

        Only files with one of the endings count, where there are any. Hidden files are offered
        once their dot is written.
        """
        head, slash, tail = begun.rpartition("/")
        folder = self.path(head + slash or ".")
        found = []
        try:
            every = [*islice(os.scandir(folder), MOST)] if folder else []
            for entry in sorted(every, key=lambda each: each.name):
                is_folder = entry.is_dir()
                fits = not endings or entry.name.lower().endswith(endings)
                if entry.name.startswith(".") and not tail.startswith("."):
                    continue
                if is_folder or fits:
                    found.append(f"{head}{slash}{entry.name}{'/' if is_folder else ''}")
        except (OSError, ValueError):
            return []
        return found
