"""Programs beside Python that tests start; one that is missing skips the test, by its name."""

from __future__ import annotations

import re
import shutil

import pytest


def need(*programs: str) -> None:
    """Skip the running test unless all of these programs are on the path."""
    if absent := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {', '.join(absent)}")


def missing(line: str) -> str:
    """The first program of a shell line's pipes that this machine lacks, or an empty string."""
    programs = [part.split()[0] for part in re.split(r"[|;]|&&", line) if part.strip()]
    absent = (name for name in programs if name != "mbuild" and "=" not in name)
    return next((name for name in absent if shutil.which(name) is None), "")
