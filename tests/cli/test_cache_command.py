"""``mbuild cache``: what lies in a shared cache, and what goes by its age."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from inprocess import in_process

from mbuild.cli.cache import cache_command
from mbuild.core.digest import Digest
from mbuild.shared.folder import FolderStorage
from mbuild.shared.naming import blob_name, record_name
from mbuild.store.records import STEP

DATA = b"x" * 1000
OLD, NEW = record_name(STEP, "1" * 64), record_name(STEP, "2" * 64)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with two records and a blob, of which one record and the blob are old."""
    folder = tmp_path / "shared"
    storage = FolderStorage(folder, str(folder), writes=True)
    blob = blob_name(Digest.of(DATA))
    storage.write_many({OLD: b"{}", NEW: b"{}", blob: DATA})
    late = time.time() - 40 * 86_400
    for name in (OLD, blob):
        os.utime(storage.path(name), (late, late))
    (folder / "v1" / "notes.txt").write_text("not the cache's")
    return folder


def test_du_counts(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, blobs and leases, as lines and as JSON; other files are none of its business."""
    run = in_process(tmp_path, monkeypatch)
    assert "layers and pieces    1 objects    1.0 KB" in run("cache", "du", str(shared)).stdout
    found = json.loads(run("cache", "du", str(shared), "--format", "json").stdout)
    assert found["records"] == {"objects": 2, "size": 4}
    assert found["leases"]["objects"] == 0


def test_prune_removes_what_is_old(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says before what it would remove, if asked."""
    run = in_process(tmp_path, monkeypatch)
    prune = ("cache", "prune", str(shared), "--older", "30d")
    assert run(*prune, "--dry-run").stdout == "would remove 2 of 3 objects, 1.0 KB\n"
    done = json.loads(run(*prune, "--format", "json").stdout)
    assert done["removed"] == {"objects": 2, "size": 1002} and done["dry_run"] is False
    assert run(*prune).stdout == "removed 0 of 1 objects, 0 B\n"
    left = sorted(path.name for path in shared.rglob("*") if path.is_file())
    assert left == sorted([NEW.rpartition("/")[2], "notes.txt"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prune", "shared"), "--older 30d"),
        (("du", "shared", "--older", "1d"), "are for prune"),
        (("du", "none"), "there is no folder none"),
        (("du", "oci+http://127.0.0.1:1/a/b"), "does not answer"),
        (("du", "https://a:b@c/d"), "has no place in a URL"),
    ],
)
def test_what_cannot_be_done_has_a_remedy(
    arguments: tuple[str, ...],
    words: str,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong usage, and storages that cannot be asked."""
    monkeypatch.chdir(tmp_path)
    done = in_process(tmp_path, monkeypatch)("cache", *arguments)
    assert done.returncode in (1, 2) and words in done.stderr
    assert cache_command.help
