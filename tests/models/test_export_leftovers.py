"""What exports that were killed leave beside their output, and that the next one removes it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.models.artifacts.sharing import clear_leftovers
from mbuild.store.files import TemporaryFile

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill, links and locks of Linux")

KILLED = """
import os, signal, sys
from pathlib import Path
from mbuild.cli.main import run

def end(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if "--link" in sys.argv:
    Path.replace = end
else:
    import mbuild.store.files
    mbuild.store.files.sync = end
run(sys.argv[1:])
"""
"""The command line in a process that is killed when a file is written and not yet named."""


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, on a store with the model ``mario``."""
    call = in_process(tmp_path, monkeypatch)
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    assert call("-t", "mario").returncode == 0
    return call


def names(folder: Path) -> list[str]:
    """What lies in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ("out/a.gguf", ()),
        ("out/a.gguf", ("--link",)),
        ("out/a.tar", ()),
        (f"out/{'ä' * 100}.gguf", ()),
    ],
    ids=["file", "link", "archive", "long name"],
)
def test_a_killed_export_is_cleaned_up_by_the_next(
    mbuild: Run, tmp_path: Path, output: str, options: tuple[str, ...]
) -> None:
    """The file under construction says whose it is; another output's export leaves it."""
    target = tmp_path / output
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "export", "mario", "-o", output, *options], check=False
    )
    assert done.returncode == -9
    (left,) = names(target.parent)
    assert left.startswith(f".{target.name[:99]}") and ".mbuild-tmp-" in left
    assert mbuild("export", "mario", "-o", "out/b.gguf").returncode == 0
    assert names(target.parent) == sorted([left, "b.gguf"])
    assert mbuild("export", "mario", "-o", output, *options).returncode == 0
    assert names(target.parent) == sorted([target.name, "b.gguf"])


def test_a_running_export_keeps_its_file(mbuild: Run, tmp_path: Path) -> None:
    """Its lock tells, whatever the file's age."""
    prefix = clear_leftovers(tmp_path / "a.gguf")
    with TemporaryFile(tmp_path, prefix) as running:
        os.utime(running.path, (0, 0))
        assert mbuild("export", "mario", "-o", "a.gguf").returncode == 0
        assert running.path.exists()
    assert (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("options", [(), ("--link",)])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ENOLCK])
def test_a_lock_that_fails_leaves_nothing(
    mbuild: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    options: tuple[str, ...],
) -> None:
    """Where a file system has no locks the export goes on; another failure is told in a line."""
    before, real = names(tmp_path), fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if "mbuild-tmp" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    done = mbuild("export", "mario", "-o", "a.gguf", *options)
    if number == errno.ENOLCK:
        assert done.returncode == 0, done.stderr
        assert names(tmp_path) == sorted([*before, "a.gguf"])
    else:
        assert done.returncode == 1
        assert os.strerror(number) in done.stderr and "a.gguf" in done.stderr
        assert names(tmp_path) == before
