"""Folders that engines listen in: whose owner is gone they are removed, and no others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbuild.runtime.abandoned import PREFIX, OwnFolder, remove_abandoned

pytest.importorskip("fcntl", reason="folders are told apart by locks")

MAKER = """
import sys, time
from mbuild.runtime.abandoned import OwnFolder
folder = OwnFolder()
(folder.path / "link").symlink_to(sys.argv[1])
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of the test's own; its path is short, as that of a socket has to be.

    pytest has chosen its own by now, where ``tmp_path`` is.
    """
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def test_a_folder_is_there_as_long_as_it_is_used() -> None:
    """Others may not enter it; another start does not remove it, its end does."""
    with OwnFolder() as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        remove_abandoned()
        assert folder.path.is_dir()
    assert not folder.path.exists()
    folder.remove()


def test_a_folder_whose_owner_was_killed_is_removed(tmp_path: Path) -> None:
    """With what is in it, and nothing that links in it lead to."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "x.gguf").write_bytes(b"kept")
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(weights)], stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    folder = Path(maker.stdout.readline().strip())
    remove_abandoned()
    assert (folder / "link").is_dir()
    maker.kill()
    maker.wait()
    maker.stdout.close()
    remove_abandoned()
    assert not folder.exists()
    assert (weights / "x.gguf").read_bytes() == b"kept"


def test_whoever_needs_a_folder_removes_what_was_left(temporary: Path, tmp_path: Path) -> None:
    """So texts and links of killed builds and measurements do not pile up."""
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None and maker.stdout.readline()
    maker.kill()
    maker.wait()
    maker.stdout.close()
    assert len(list(temporary.iterdir())) == 1
    with OwnFolder() as folder:
        assert list(temporary.iterdir()) == [folder.path]
    assert not list(temporary.iterdir())


def test_what_may_be_somebody_elses_stays(temporary: Path) -> None:
    """A folder that is just being made, a link, a file, and other names."""
    made, other = temporary / f"{PREFIX}made", temporary / "other"
    for folder in (made, other):
        folder.mkdir()
        (folder / "held.new").touch()
    (other / "held").touch()
    (temporary / f"{PREFIX}link").symlink_to(other)
    (temporary / f"{PREFIX}file").touch()
    remove_abandoned()
    names = {f"{PREFIX}made", f"{PREFIX}link", f"{PREFIX}file", "other"}
    assert {path.name for path in temporary.iterdir()} == names
    assert (other / "held").exists()
