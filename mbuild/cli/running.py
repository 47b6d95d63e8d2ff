"""Which engine runs models, for the commands that run them."""

from __future__ import annotations

import os
import shutil

from mbuild.core.errors import UsageError


def engine_of(path: str | None, *, off: bool = False) -> str | None:
    """A ``llama-server`` to use, "" for the installed package, None for no engine.

    Raises :class:`UsageError` for a path that is no program.
    """
    from mbuild.runtime.process import has_engine

    if off:
        return None
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise UsageError(
                f"--llama-server {path} is not a program", hint="give the path of a llama-server"
            )
        return os.path.abspath(found)
    return "" if has_engine() else None
