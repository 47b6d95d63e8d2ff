"""Fixtures that the test modules share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from stores import copy_tiny_store

from mbuild.store import Store

# By the clock an example takes as long as the machine is busy, and the first one loads what
# the others find loaded. Tests of speed measure the processor's time.
settings.register_profile("mbuild", deadline=None)
settings.load_profile("mbuild")

# As mbuild's own program does it: with Python's thresholds a tenth of the time goes into looking
# for garbage among the tests and the libraries.
gc.set_threshold(100_000, 50, 50)

# By default the cache gives way as the disk fills up, so what a build finds again would depend on
# how full the disk of the tests is. Tests of the default take it away.
os.environ.setdefault("MBUILD_KEEP", "50GB")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish() -> None:
    """Leave the tests themselves out of the search for garbage."""
    gc.freeze()


@pytest.fixture
def tiny_store(tmp_path: Path) -> Store:
    """A store that holds the base model ``tiny``, as Ollama wrote it."""
    return Store(copy_tiny_store(tmp_path / "store"))


@pytest.fixture
def mbuild(tmp_path: Path) -> Run:
    """Run the command line in a process of its own, in ``tmp_path``, on a store of its own."""
    environment = {**os.environ, "OLLAMA_MODELS": str(tmp_path / "store"), "NO_COLOR": "1"}

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        options = {"cwd": tmp_path, "env": environment, "timeout": 60, **options}
        return subprocess.run(
            [sys.executable, "-m", "mbuild", *map(str, arguments)],
            capture_output=True,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    return run
