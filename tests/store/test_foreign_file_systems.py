"""File systems without chmod, locks or links, and stores of other users and of groups."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from filesystems import OTHER, as_user, build_faults, caller, without_root
from gguf_files import tiny_gguf
from inprocess import in_process
from stores import check_promise

from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.store.locks import FileLock, NoLocksError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
MANIFEST = "store/manifests/registry.ollama.ai/library/a/latest"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Modelfile FROM a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    return tmp_path


@pytest.fixture
def built(project: Path, mbuild: Run) -> Path:
    """The folder of a project whose model ``a`` is in the store."""
    assert mbuild("-t", "a").returncode == 0
    return project


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes calls fail."""
    return build_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A project in a folder that other users reach; those of pytest are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="mbuild-"))
    folder.chmod(0o777)
    tiny_gguf(folder / "model.gguf")
    (folder / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    yield folder
    shutil.rmtree(folder)


def blob_of(project: Path, media: str) -> Path:
    """The file of one of the model's blobs."""
    store = Store(project / "store")
    manifest = store.manifests.read(ModelName.parse("a")).manifest
    return store.blobs.path(next(b.digest for b in manifest.blobs() if b.kind == media))


# File systems that lack something.


@pytest.mark.parametrize(
    "lacking",
    [
        f"chmod={errno.EPERM}",
        f"chmod={errno.ENOTSUP}",
        f"chown={errno.EPERM}",
        f"fsync={errno.EINVAL}",
        f"fsync={errno.ENOTSUP}",
        f"link={errno.EPERM}",
        f"link={errno.ENOTSUP}",
        f"setfl={errno.EINVAL}",
        f"chmod={errno.EPERM},chown={errno.EPERM},fsync={errno.EINVAL},link={errno.EPERM}",
    ],
)
def test_a_drive_that_refuses_a_call_holds_a_store(
    project: Path, faults: Path, lacking: str
) -> None:
    """Rights, owners, fsync and hard links are wanted, not needed: exFAT, SMB, WSL, FUSE."""
    call = caller(project, LD_PRELOAD=str(faults), FAULTS=lacking)
    for arguments in (
        ("-t", "a"),
        ("-t", "b", "--link"),
        ("cp", "a", "c"),
        ("verify",),
        ("rm", "a", "b"),
        ("prune",),
        ("show", "c"),
    ):
        done = call(*arguments)
        assert (done.returncode, "warning" in done.stderr) == (0, False), (arguments, done.stderr)
    assert check_promise(project / "store") == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_without_flock_builds_go_on_and_nothing_is_removed(
    project: Path, faults: Path, number: int
) -> None:
    """Nobody can be alone in such a store: prune asks for a word, rm leaves the blobs to it."""
    call = caller(project, LD_PRELOAD=str(faults), FAULTS=f"flock={number}")
    done = call("-t", "a")
    assert done.returncode == 0
    assert done.stderr.count("has no locks") == 1
    assert call("rm", "a").returncode == 0
    assert len(list((project / "store/blobs").iterdir())) == 3
    refused = call("prune")
    assert refused.returncode == 1
    assert "no locks" in refused.stderr and "prune --older 0s" in refused.stderr
    assert call("prune", "--older", "0s").returncode == 0
    assert list((project / "store/blobs").iterdir()) == []


def test_without_flock_old_temporary_files_go(project: Path, faults: Path) -> None:
    """No lock tells whether their makers live; a day without a change does."""
    folder = project / "store/.mbuild/tmp"
    folder.mkdir(parents=True)
    for name, age in (("tmp-1-old", 2 * 86400), ("tmp-2-new", 60)):
        (folder / name).write_text("x")
        os.utime(folder / name, (time.time() - age,) * 2)
    call = caller(project, LD_PRELOAD=str(faults), FAULTS=f"flock={errno.ENOLCK}")
    assert call("-t", "a").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["tmp-2-new"]


def test_a_lock_that_cannot_be_had_alone_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together with others a lock can be done without, and says so."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire(exclusive=False)
    assert lock.missing
    with pytest.raises(NoLocksError, match="no locks"):
        FileLock(tmp_path / "lock").acquire(exclusive=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EPERM, errno.ENOTSUP])
def test_a_cache_that_cannot_be_locked_is_done_without_at_once(
    project: Path, faults: Path, number: int
) -> None:
    """One warning a command, no waiting, and the model is the same."""
    expected = caller(project)("-t", "a", "--quiet", "--store", "other").stdout
    call = caller(project, LD_PRELOAD=str(faults), FAULTS=f"setlk={number}")
    for arguments in (("-t", "a", "--quiet"), ("-t", "a", "--quiet"), ("rm", "a")):
        started = time.monotonic()
        done = call(*arguments)
        assert done.returncode == 0
        assert done.stderr.count("warning") == 1 and "without the build cache" in done.stderr
        assert time.monotonic() - started < 15
        assert done.stdout in (expected, done.stdout if arguments[0] == "rm" else expected)


@POSIX
def test_a_cache_that_somebody_holds_is_waited_for_shortly(project: Path) -> None:
    """A few seconds, and then the command goes on without it; SIGTERM ends the wait at once."""
    call = caller(project)
    assert call("-t", "a").returncode == 0
    holder = sqlite3.connect(project / "store/.mbuild/cache.db", isolation_level=None)
    with contextlib.closing(holder):
        holder.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        done = call("-t", "a")
        assert done.returncode == 0
        assert "another process has locked it" in done.stderr
        assert time.monotonic() - started < 30
        environment = {**os.environ, "OLLAMA_MODELS": str(project / "store")}
        command = [sys.executable, "-m", "mbuild", "-t", "a"]
        waiting = subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(2)
        waiting.send_signal(signal.SIGTERM)
        started = time.monotonic()
        waiting.wait(30)
        assert time.monotonic() - started < 4


# Rights and owners.


@POSIX
@pytest.mark.parametrize("umask", [0o077, 0o022, 0o027, 0o002])
def test_files_follow_the_umask(project: Path, umask: int) -> None:
    """Blobs, manifests and folders are as private as the user wants new files to be."""
    before = os.umask(umask)
    try:
        assert caller(project)("-t", "a").returncode == 0
    finally:
        os.umask(before)
    for path in (project / "store").rglob("*"):
        if path.suffix != ".db":  # SQLite never gives more than 0644
            wanted = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.stat().st_mode) == wanted & ~umask, path


@POSIX
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_root_leaves_to_the_owner_what_it_builds(shared: Path, umask: int) -> None:
    """In the store of Ollama's service its user can change and remove whatever root built."""
    owner = as_user()
    store = shared / "store"
    store.mkdir(mode=0o755)
    os.chown(store, OTHER, OTHER)
    before = os.umask(umask)
    try:
        assert caller(shared)("-t", "team/new").returncode == 0
        assert caller(shared)("cp", "team/new", "b").returncode == 0
    finally:
        os.umask(before)
    assert {path.lstat().st_uid for path in store.rglob("*")} == {OTHER}
    theirs = caller(shared, owner)
    assert theirs("-t", "a").returncode == 0
    done = theirs("rm", "a", "b", "team/new")
    assert (done.returncode, done.stderr) == (0, "")
    assert theirs("prune").returncode == 0
    assert list((store / "blobs").iterdir()) == []


@POSIX
def test_a_group_shares_a_store(shared: Path) -> None:
    """In a folder with the setgid bit all its members can build, replace and remove."""
    group = 54000
    store = shared / "store"
    store.mkdir()
    os.chown(store, OTHER, group) if os.geteuid() == 0 else None
    store.chmod(0o2775)
    members = [caller(shared, as_user(OTHER + number, group)) for number in (1, 2)]
    before = os.umask(0o077)
    try:
        assert members[0]("-t", "a").returncode == 0
        (shared / "Modelfile").write_text("FROM a\nSYSTEM other\n")
        for member in reversed(members):
            done = member("-t", "a", "--quiet")
            assert done.returncode == 0, done.stderr
        assert members[1]("rm", "a").returncode == 0
    finally:
        os.umask(before)
    assert check_promise(store) == 0


@POSIX
def test_a_sticky_folder_hands_nothing_on(tmp_path: Path) -> None:
    """A store below a folder such as /tmp is not open to everybody for that."""
    as_user()
    tmp_path.chmod(0o1777)
    os.chown(tmp_path, OTHER, OTHER)
    before = os.umask(0o022)
    try:
        Store(tmp_path / "store").prepare()
    finally:
        os.umask(before)
    info = (tmp_path / "store").stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (os.geteuid(), 0o755)


@POSIX
@pytest.mark.parametrize(
    ("denied", "commands"),
    [
        ("blob", ["show a", "verify"]),
        ("store/blobs", ["show a", "verify", "du", "prune", "-t b"]),
        (MANIFEST, ["show a", "verify", "list", "prune", "-t b"]),
        ("store/manifests/registry.ollama.ai", ["show a", "verify", "list", "du", "-t b"]),
        ("store", ["show a", "verify", "list", "du", "prune", "-t b"]),
    ],
)
def test_what_may_not_be_read_is_a_matter_of_rights(
    built: Path, denied: str, commands: list[str]
) -> None:
    """The message names the right that is missing; nobody is sent to build or pull again."""
    path = blob_of(built, "config") if denied == "blob" else built / denied
    (built / "Modelfile").write_text("FROM a\nSYSTEM other\n")
    call = caller(built, without_root())
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        for command in commands:
            done = call(*command.split())
            said = done.stdout + done.stderr
            assert done.returncode == (0 if command == "list" and denied != "store" else 1), said
            assert "Permission denied" in said
            assert "it belongs to" in said or "make it readable" in said
            assert "pull" not in said.replace("to repair: it belongs", "")
    finally:
        path.chmod(mode)


@POSIX
def test_blobs_of_models_that_cannot_be_listed_stay(built: Path, mbuild: Run) -> None:
    """A folder of manifests that may not be listed can name any blob: no garbage is collected."""
    assert mbuild("cp", "a", "team/b").returncode == 0
    hidden = built / "store/manifests/registry.ollama.ai/team"
    call = caller(built, without_root())
    hidden.chmod(0)
    try:
        call("rm", "a")
    finally:
        hidden.chmod(0o755)
    assert mbuild("verify").returncode == 0
    assert check_promise(built / "store") == 1
