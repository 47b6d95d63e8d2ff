"""Kernels that came with mbuild: compiled when its wheel was made, for levels of x86-64.

Where they are, no kernel is compiled and numba is not needed. ``objects/index.json`` says what
made them, which texts of mbuild they are made of, and the SHA-256 of each object file; a file is
``objects/LEVEL/NAME.o.z``, compressed by zlib. What does not agree with the index, or with mbuild's
own texts, is not loaded. ``release/kernels.py`` writes the folder; a checkout has none.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache as once
from pathlib import Path
from typing import Any

from mbuild.quant.compiled import cache
from mbuild.quant.kernels import target

FOLDER = Path(__file__).with_name("objects")
INDEX = "index.json"


@once
def _index() -> dict[str, Any] | None:
    """What the folder holds; None where there is no index, {} where it cannot be read."""
    try:
        text = (FOLDER / INDEX).read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    try:
        found = json.loads(text)
        return found if isinstance(found["levels"], dict) and found["sources"] else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _own() -> bool:
    """Whether the kernels in the folder are made of the texts of this mbuild."""
    index = _index()
    return bool(index and index["sources"] == cache.sources_digest().hex())


def level() -> str:
    """The level whose kernels this process runs; "" where there are none that it can run."""
    index, own = _index(), target.level()
    return own if index and own in index["levels"] and _own() else ""


def lanes() -> int | None:
    """The lanes of the kernels that came with mbuild; None where there are none to run."""
    found = level()
    return target.lanes_of(target.features_of(found)) if found else None


def read(name: str) -> bytes | None:
    """The object file of a kernel, or None if none came, for this processor and sound.

    Nobody's rights are asked for, unlike in :mod:`mbuild.quant.compiled.cache`: whoever can write
    here can write mbuild's own modules too.
    """
    index, found = _index(), level()
    if not index or not found or name not in index["levels"][found]:
        return None
    try:
        code = zlib.decompress((FOLDER / found / f"{name}.o.z").read_bytes())
    except (OSError, zlib.error):
        return None
    return code if hashlib.sha256(code).hexdigest() == index["levels"][found][name] else None


def lack(name: str = "") -> str:
    """Why no kernels that came with mbuild can be used, or not this one, in words.

    "" where none came, and without a name where they can be used.
    """
    if _index() is None:
        return ""
    if not _own():
        return f"the kernels in {FOLDER} are damaged or belong to another version"
    if not level():
        lowest = next(iter(target.LEVELS))
        return f"mbuild came with kernels for {lowest} and newer, which this processor is not"
    return f"the kernel {name} in {FOLDER} is damaged or missing" if name else ""
