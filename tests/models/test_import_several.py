"""Blobs of an archive are brought in side by side."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from conftest import Run

from mbuild.core.digest import Digest
from mbuild.models.artifacts import importing
from mbuild.store import Store
from mbuild.work import cores


@pytest.fixture
def archive(mbuild: Run, tmp_path: Path) -> Path:
    """An exported model with a few layers."""
    (tmp_path / "Modelfile").write_text("FROM tiny\nSYSTEM You are Mario.\n")
    assert mbuild("-t", "mario").returncode == 0
    assert mbuild("export", "mario", "-o", "mario.tar").returncode == 0
    return tmp_path / "mario.tar"


@pytest.mark.parametrize("again", [False, True])
def test_several_blobs_are_hashed_at_once(
    again: bool, tiny_store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On as many threads as there are cores, those that are new and those that are there."""
    store, meet = Store(tmp_path / "other"), threading.Barrier(2)
    if again:
        importing.import_tar(archive, store)
    hashed = importing.hash_file
    calls = itertools.count()

    def waits(fd: int, size: int, progress: importing.Progress) -> Digest:
        if next(calls) < 2:
            meet.wait(30)  # broken where nobody else comes
        return hashed(fd, size, progress)

    monkeypatch.setattr(importing, "hash_file", waits)
    monkeypatch.setattr(cores, "_asked", 2)
    told: list[tuple[int, int]] = []
    (found,) = importing.import_tar(archive, store, progress=lambda *done: told.append(done))
    assert next(calls) > 2 and str(found.name) == "mario:latest"
    if not again:
        assert told[-1][0] == told[-1][1] > 0
