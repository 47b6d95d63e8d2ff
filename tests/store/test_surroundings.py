"""Odd places and closed doors: special files, links, streams, environments, names for terminals."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.store import Store

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files and streams")


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Modelfile FROM a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM h\u00e9\n", encoding="utf-8")
    return tmp_path


@POSIX
@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["fmt"],
        ["fmt", "-w"],
        ["-t", "m", "-f"],
        ["-t", "m", "-q", "q8_0", "--tensor-type-file"],
        ["-t", "m", "-q", "q8_0", "--imatrix"],
    ],
)
def test_no_command_waits_for_a_special_file(
    mbuild: Run, project: Path, arguments: list[str]
) -> None:
    """A pipe that nobody writes, a device without an end: refused at once, by what they are."""
    os.mkfifo(project / "pipe")
    for name, what in (("pipe", "named pipe"), ("/dev/zero", "device")):
        done = mbuild(*arguments, name)
        assert done.returncode == 1
        assert f"is a {what}, not a regular file" in done.stderr


@POSIX
def test_a_lock_that_is_a_pipe_is_refused(mbuild: Run, project: Path) -> None:
    """Beside the Modelfile lies something that nobody writes to."""
    os.mkfifo(project / "Modelfile.lock")
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 1
    assert "Modelfile.lock is a named pipe" in done.stderr


@POSIX
def test_input_without_an_end_is_refused(project: Path) -> None:
    """Standard input is read up to a limit, by every command that takes it."""
    for arguments in (["check", "-"], ["fmt", "-"], ["-f", "-", "-t", "m"]):
        with Path("/dev/zero").open("rb") as zeros:
            done = subprocess.run(
                [sys.executable, "-m", "mbuild", "--store", str(project / "store"), *arguments],
                stdin=zeros,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 1
        assert "standard input is larger than 16 MiB" in done.stderr


@POSIX
def test_links_that_lead_nowhere_say_so(mbuild: Run, project: Path) -> None:
    """A link in a circle and one whose target is gone are there, unlike a missing file."""
    (project / "circle").symlink_to("circle")
    (project / "gone").symlink_to("elsewhere.gguf")
    for instruction in ("FROM", "FROM ./model.gguf\nADAPTER"):
        word = instruction.split()[-1] if "\n" in instruction else "FROM"
        (project / "Modelfile").write_text(f"{instruction} ./circle\n")
        assert f"{word} ./circle: too many levels of symbolic links" in mbuild("-t", "m").stderr
        (project / "Modelfile").write_text(f"{instruction} ./gone\n")
        message = f"{word} ./gone: a link to elsewhere.gguf, which does not exist"
        assert message in mbuild("-t", "m").stderr


@POSIX
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_nothing(project: Path, closed: str) -> None:
    """A build whose streams were closed works, and nothing that is printed gets into a blob."""
    store = project / "store"
    command = f'exec "{sys.executable}" -m mbuild --store "{store}" -t m --progress json {closed}'
    done = subprocess.run(["sh", "-c", command], cwd=project, timeout=60, check=False)
    assert done.returncode == 0
    for path in (store / "blobs").iterdir():
        assert Digest.of(path.read_bytes()).filename == path.name


def test_closed_standard_input_is_an_empty_modelfile(project: Path) -> None:
    """``-f -`` with nothing to read is a Modelfile without FROM."""
    command = f'exec "{sys.executable}" -m mbuild --store store -f - -t m <&-'
    done = subprocess.run(
        ["sh", "-c", command], cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no FROM line" in done.stderr


def test_texts_come_out_as_utf_8_whatever_the_locale(project: Path) -> None:
    """A printed Modelfile is a file's content, which no terminal's encoding may change."""
    environment = {
        **os.environ,
        "OLLAMA_MODELS": str(project / "store"),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
    }

    def run(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "mbuild", *arguments]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, check=True, timeout=60
        )
        return done.stdout

    run("-t", "m", "--quiet")
    assert b"SYSTEM h\xc3\xa9\n" in run("show", "m", "--modelfile")
    assert run("fmt") == (project / "Modelfile").read_bytes()


def test_names_of_files_cannot_speak_to_the_terminal(mbuild: Run, project: Path) -> None:
    """Escape sequences in a file's name are shown and not sent."""
    (project / "Modelfile").write_text("FROM ./modek\n")
    evil = "mode\x1b[2Jk"
    (project / evil).write_text("")
    done = mbuild("-t", "m")
    assert "did you mean mode\\x1b[2Jk?" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_tilde_in_the_environment_is_the_home_directory(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no shell expanded it (a service's file, an .env file): no folder called ~ is made."""
    monkeypatch.setenv("HOME", str(project / "home"))
    for written in ("~/models", "'~/models'", ' "~/models" '):
        monkeypatch.setenv("OLLAMA_MODELS", written)
        assert mbuild("-t", "m").returncode == 0
    assert (project / "home/models/blobs").is_dir()
    assert not (project / "~").exists()


@pytest.mark.parametrize("folds_case", [False, True])
def test_a_name_has_the_spelling_of_the_store(tiny_store: Store, folds_case: bool) -> None:
    """On every file system the same: a model's name, and so its id, is not the system's matter."""
    resolve = tiny_store.manifests.resolve
    tiny = ModelName.parse("tiny")
    for spelling in ("tiny", "TINY", "Library/Tiny:LATEST", "REGISTRY.ollama.ai/library/tiny"):
        assert resolve(ModelName.parse(spelling), folds_case=folds_case) == tiny
    absent = ModelName.parse("Other:V1")
    assert resolve(absent, folds_case=folds_case) == absent


def test_a_folder_that_is_gone_is_told(project: Path) -> None:
    """The current folder was removed under the program's feet."""
    (project / "here").mkdir()
    command = (
        f'cd here && rmdir ../here && exec "{sys.executable}" -m mbuild --store "{project}/store"'
        ' -f "$0" -t m'
    )
    modelfile = project / "Modelfile"
    done = subprocess.run(
        ["sh", "-c", command, modelfile], cwd=project, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "the current folder no longer exists" in done.stderr


@pytest.mark.parametrize("value", ["", '""', '""""""', '" "'])
def test_an_empty_value_is_no_folder(mbuild: Run, project: Path, value: str) -> None:
    """It would be the Modelfile's own folder, with whatever GGUF file lies there."""
    for lines, word in (("FROM", "FROM"), ("FROM ./model.gguf\nADAPTER", "ADAPTER")):
        (project / "Modelfile").write_text(f"{lines} {value}\n")
        done = mbuild("-t", "m")
        assert done.returncode == 1
        assert f"{word} names nothing" in done.stderr
    (project / "Modelfile").write_text("FROM .\n")
    assert mbuild("-t", "m").returncode == 0


def test_a_name_for_variants_needs_a_variant(mbuild: Run, project: Path) -> None:
    """``{quant}`` without --quantize is wrong usage, not an empty name."""
    done = mbuild("-t", "m:{quant}")
    assert done.returncode == 2
    assert "there is no --quantize" in done.stderr


def test_a_message_is_not_as_long_as_the_value(mbuild: Run, project: Path) -> None:
    """A megabyte where a name should be is quoted in part."""
    for value in ("x" * (1 << 20), "x:" * (1 << 19)):
        (project / "Modelfile").write_text(f"FROM {value}\n")
        done = mbuild("-t", "m")
        assert done.returncode == 1
        assert len(done.stderr) < 3000


def test_a_flipped_digest_of_a_file_is_not_believed(mbuild: Run, project: Path) -> None:
    """A remembered digest carries a check; a damaged one is a file that was never read."""
    time.sleep(0.03)
    assert mbuild("-t", "m").returncode == 0
    info = (project / "model.gguf").stat()
    database = Store(project / "store").database
    before = database.file_digest(info)
    assert before is not None
    named = database.alias(before)  # the SHA-256, which locks know GGUF files by
    assert named is not None
    database.close()
    with sqlite3.connect(project / "store/.mbuild/cache.db") as connection:
        (text,) = connection.execute("SELECT digest FROM files").fetchone()
        flipped = text[:20] + ("0" if text[20] != "0" else "1") + text[21:]
        connection.execute("UPDATE files SET digest = ?", (flipped,))
    connection.close()
    assert Store(project / "store").database.file_digest(info) is None
    assert mbuild("lock").returncode == 0
    assert str(named) in (project / "Modelfile.lock").read_text()


def test_a_touched_file_is_hashed_and_nothing_runs(mbuild: Run, project: Path) -> None:
    """A file with the same content but a new name or new times is no change."""
    time.sleep(0.03)
    assert mbuild("-t", "m").returncode == 0
    os.utime(project / "model.gguf", ns=(1, 1))
    done = mbuild("-t", "m", "--progress", "plain")
    assert ": 0 steps run," in done.stderr
