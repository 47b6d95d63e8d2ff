"""Which engine runs models, for the commands that run them."""

from __future__ import annotations

import os
import shutil

from mbuild.core.errors import UsageError


def engine_of(path: str | None, *, off: bool = False) -> str | None:
    """A ``llama-server`` to use, "" for the installed package, None for no engine.

    ``path`` is what the option says; without it the variable counts, then the package, then a
    ``llama-server`` where the system looks for programs. Raises :class:`UsageError` for a path
    that is no program.
    """
    from mbuild.runtime.process import LLAMA_SERVER_VARIABLE, has_engine

    if off:
        return None
    said = f"--llama-server {path}"
    if path is None and (path := os.environ.get(LLAMA_SERVER_VARIABLE, "").strip() or None):
        said = f"{LLAMA_SERVER_VARIABLE}={path}"
    if path is not None:
        found = _program(path)
        if found is None:
            raise UsageError(f"{said} is not a program", hint="give the path of a llama-server")
        return found
    return "" if has_engine() else _program("llama-server")


def _program(name: str) -> str | None:
    """The absolute path of a program, by its path or by its name on the search path."""
    found = shutil.which(os.path.expanduser(name))
    return None if found is None else os.path.abspath(found)
