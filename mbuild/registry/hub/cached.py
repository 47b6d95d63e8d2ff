"""The Hub's cache on this disk, as huggingface_hub and other programs fill it; only read here."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mbuild.core.patterns import regex

_COMMIT = regex(r"[0-9a-f]{40}")


def cache_folder() -> Path:
    """``$HF_HUB_CACHE``, else ``$HF_HOME/hub``, else ``~/.cache/huggingface/hub``.

    As huggingface_hub reads them (its ``constants.py``); ``$XDG_CACHE_HOME`` stands for
    ``~/.cache``.
    """
    named = os.environ.get("HF_HUB_CACHE", "") or os.environ.get("HUGGINGFACE_HUB_CACHE", "")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME", "")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME", "") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def _repository(repository: str) -> Path:
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def cached_commit(repository: str, revision: str) -> str | None:
    """The commit that a branch or tag had when the cache last heard of it."""
    if _COMMIT.fullmatch(revision):
        return revision
    with suppress(OSError, UnicodeDecodeError):
        file = _repository(repository) / "refs" / revision
        found = file.read_text(encoding="ascii").strip()
        return found if _COMMIT.fullmatch(found) else None
    return None


def snapshot(repository: str, commit: str) -> Path | None:
    """The folder of a commit's files, as far as they were fetched; None where there is none."""
    folder = _repository(repository) / "snapshots" / commit
    return folder if folder.is_dir() else None
