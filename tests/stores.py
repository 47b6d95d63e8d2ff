"""Stores to start tests from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conformance import STORE


def copy_tiny_store(target: Path) -> Path:
    """A writable copy of the store with the base model ``tiny``."""
    shutil.copytree(STORE, target, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)
    return target
