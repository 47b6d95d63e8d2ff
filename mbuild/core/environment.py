"""The environment variables that say where models lie and how much the cache may keep."""

from __future__ import annotations

import os
from pathlib import Path

from mbuild.core.errors import UsageError

STORE_VARIABLE = "OLLAMA_MODELS"
"""The store: Ollama's own variable."""

HOME_VARIABLE = "MBUILD_HOME"
"""The folder of what is worth keeping between jobs: ``models``, ``kernels``, and tables."""

KEEP_VARIABLE = "MBUILD_KEEP"
"""How much the cache may keep beyond what models name: ``50GB``, ``0`` for nothing."""

CACHE_VARIABLE = "MBUILD_CACHE"
"""A shared cache that builds take from: a folder or a URL."""

CACHE_WRITE_VARIABLE = "MBUILD_CACHE_WRITE"
"""``1`` where builds also fill that cache."""

CACHE_KEY_VARIABLE = "MBUILD_CACHE_KEY"
"""A file with the ed25519 key that signs the records a build puts into a shared cache."""

CACHE_TOKEN_VARIABLE = "MBUILD_CACHE_TOKEN"
"""What a shared cache over HTTP is shown: the token of ``mbuild serve``."""


def default_store() -> Path:
    """Where models are: ``$OLLAMA_MODELS``, else ``$MBUILD_HOME/models``, else Ollama's place.

    That is ``~/.ollama/models``. ``~`` is the home directory, as in a shell; Ollama makes
    a folder of that name. Raises :class:`UsageError` where nobody knows the home directory.
    """
    configured = os.environ.get(STORE_VARIABLE, "").strip().strip("\"'")
    home = home_folder()
    if home is not None and not configured:
        return home / "models"
    return _expanded(configured or "~/.ollama/models")


def home_folder() -> Path | None:
    """The folder that ``$MBUILD_HOME`` names, if it is set."""
    named = os.environ.get(HOME_VARIABLE, "").strip()
    return _expanded(named) if named else None


def keep_budget() -> int | None:
    """Bytes that the cache may keep, if ``$MBUILD_KEEP`` says so; raises :class:`UsageError`."""
    asked = os.environ.get(KEEP_VARIABLE, "").strip()
    if not asked:
        return None
    from mbuild.core.units import parse_size

    try:
        return parse_size(asked)
    except ValueError:
        raise UsageError(
            f"{KEEP_VARIABLE}={asked!r} is not a size",
            hint=f"write for example {KEEP_VARIABLE}=50GB",
        ) from None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(
            "there is no home directory to keep a store in", hint="name one with --store DIR"
        ) from None
