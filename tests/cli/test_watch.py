"""``mbuild watch``: finished checkpoints of a training run become tags, half-written ones wait."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from documents import documented
from example_models import generator, settle
from inprocess import in_process

from mbuild.cli.watch import DEFAULT_MODELFILE
from mbuild.language.parser import parse
from mbuild.models.watching import is_whole, look, stamp_of, unfinished

QUICK = ("--interval", "0.1")


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A finished checkpoint, to be copied from."""
    folder = tmp_path / "trained"
    generator().write_chat(folder)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    (folder / "optimizer.pt").write_bytes(b"state")
    settle()
    return folder


def names(mbuild: Run) -> list[str]:
    rows = json.loads(mbuild("list", "--format", "json").stdout)
    return sorted(row["name"] for row in rows)


def test_each_finished_checkpoint_becomes_a_tag(mbuild: Run, trained: Path, tmp_path: Path) -> None:
    """In the order of their numbers; one that is half written waits, and is named."""
    for step in (1000, 500):
        shutil.copytree(trained, tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "checkpoint-1000" / "config.json").write_text(
        (trained / "config.json").read_text().replace("{", "{ ", 1)
    )
    half = tmp_path / "run" / "checkpoint-1500"
    shutil.copytree(trained, half)
    (half / "trainer_state.json").unlink()
    shutil.copytree(trained, tmp_path / "run" / "tmp-checkpoint-2000")
    done = mbuild("watch", "run", "-t", "mario", "--once", *QUICK)
    assert done.returncode == 0, done.stderr
    assert names(mbuild) == ["mario:checkpoint-1000", "mario:checkpoint-500"]
    told = re.findall(r"building \S+/checkpoint-(\d+)", done.stderr)
    assert told == ["500", "1000"]
    assert "checkpoint-1500: trainer_state.json is not there yet" in done.stderr


def test_only_new_ones_are_built(mbuild: Run, trained: Path, tmp_path: Path) -> None:
    """Not again what has its tag; again what changed since."""
    place = tmp_path / "run" / "checkpoint-1"
    shutil.copytree(trained, place)
    assert "building" in mbuild("watch", "run", "-t", "mario", "--once", *QUICK).stderr
    assert "building" not in mbuild("watch", "run", "-t", "mario", "--once", *QUICK).stderr
    (place / "trainer_state.json").write_text('{"global_step": 2}')
    settle()
    done = mbuild("watch", "run", "-t", "mario", "--once", *QUICK)
    assert "building" in done.stderr
    assert "0 steps run" in done.stderr  # the weights are the same


def test_variants_and_a_modelfile_of_ones_own(mbuild: Run, trained: Path, tmp_path: Path) -> None:
    """-q appends the type to the tag; the Modelfile's paths start from the checkpoint."""
    shutil.copytree(trained, tmp_path / "run" / "checkpoint-1")
    (tmp_path / "run" / "Modelfile").write_text("FROM .\nSYSTEM own\n")
    done = mbuild(
        *("watch", "run", "-t", "org/mario", "-q", "q8_0", "-q", "q4_0", "--once"), *QUICK
    )
    assert done.returncode == 0, done.stderr
    assert names(mbuild) == ["org/mario:checkpoint-1-q4_0", "org/mario:checkpoint-1-q8_0"]
    assert "own" in mbuild("show", "org/mario:checkpoint-1-q8_0", "--system").stdout
    assert mbuild("watch", "run", "--once", *QUICK).returncode == 0  # the folder's name
    assert "run:checkpoint-1" in names(mbuild)


def test_adapters_of_a_run(mbuild: Run, trained: Path, tmp_path: Path) -> None:
    """A LoRA's checkpoints are weights, too: FROM the base, ADAPTER the checkpoint."""
    (tmp_path / "Modelfile").write_text("FROM ./trained\n")
    assert mbuild("-t", "base").returncode == 0
    place = tmp_path / "run" / "checkpoint-7"
    generator().write_lora(place)
    (place / "trainer_state.json").write_text("{}")
    (tmp_path / "lora.Modelfile").write_text("FROM base\nADAPTER .\n")
    settle()
    done = mbuild("watch", "run", "-t", "mario", "-f", "lora.Modelfile", "--once", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "mario:checkpoint-7" in names(mbuild)


def test_what_cannot_be_built_does_not_end_it(mbuild: Run, trained: Path, tmp_path: Path) -> None:
    """The error is said, the next one is built, and the status tells."""
    for step in (1, 2):
        shutil.copytree(trained, tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "checkpoint-1" / "config.json").write_text("{}")
    settle()
    done = mbuild("watch", "run", "-t", "mario", "--once", *QUICK)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert names(mbuild) == ["mario:checkpoint-2"]


def test_the_modelfile_that_goes_without_saying() -> None:
    """It is one instruction: the checkpoint's own weights."""
    assert [each.value for each in parse(DEFAULT_MODELFILE).instructions] == ["."]


def test_wrong_usage(mbuild: Run, tmp_path: Path) -> None:
    """A folder that is not there, a tag in the name, a Modelfile from standard input."""
    (tmp_path / "run").mkdir()
    for arguments, words in (
        (("nowhere",), "is not a folder"),
        (("run", "-t", "mario:v1"), "the tag comes from the checkpoint's name"),
        (("run", "-f", "-"), "more than once"),
        (("run", "-f", "absent"), "absent"),
    ):
        done = mbuild("watch", *arguments, "--once", *QUICK)
        assert done.returncode in (1, 2), arguments
        assert words in done.stderr, done.stderr
    assert mbuild("watch", "run", "--once", *QUICK).returncode == 0


# --- what counts as finished ---------------------------------------------------------------


def checkpoint(folder: Path) -> str:
    """What a folder lacks."""
    (found,) = look(folder.parent, folder.name)
    return unfinished(found)


def test_half_written_files_are_told(trained: Path) -> None:
    """Each file cut at many places, an index without its shards, no weights at all."""
    assert checkpoint(trained) == ""
    weights = trained / "model.safetensors"
    data = weights.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:size])
        assert checkpoint(trained) == "model.safetensors is not whole yet"
        assert not is_whole(weights)
    weights.write_bytes(data + b"x")
    assert not is_whole(weights)
    weights.write_bytes(data)
    assert is_whole(weights)
    state = trained / "trainer_state.json"
    for text in ("", '{"global_step": 1', "[]"):
        state.write_text(text)
        assert checkpoint(trained) == "trainer_state.json is not whole yet"
    state.write_text("{}")
    index = trained / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    assert checkpoint(trained) == "model-1.safetensors is not there yet"
    shutil.copy(weights, trained / "model-1.safetensors")
    assert checkpoint(trained) == "model-2.safetensors is not there yet"
    (trained / "model-2.safetensors").write_bytes(data[:50])
    assert checkpoint(trained) == "model-2.safetensors is not whole yet"
    shutil.copy(weights, trained / "model-2.safetensors")
    assert checkpoint(trained) == ""
    for text in ("{", '{"weight_map": {}}', '{"weight_map": 7}', "{}"):
        index.write_text(text)
        assert checkpoint(trained) == f"{index.name} is not whole yet", text
    index.unlink()
    weights.unlink()
    assert checkpoint(trained) == "there are no weights yet"


def test_other_trainers(trained: Path) -> None:
    """Pickled weights, and a folder without a file that is known to be the last."""
    (trained / "model.safetensors").rename(trained / "pytorch_model.bin")
    assert checkpoint(trained) == ""
    (trained / "trainer_state.json").unlink()
    (found,) = look(trained.parent, trained.name)
    assert unfinished(found, "") == ""
    assert unfinished(found, "DONE") == "DONE is not there yet"
    (trained / "DONE").write_text("")
    assert unfinished(found, "DONE") == ""


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    """Trainers remove old checkpoints while somebody looks."""
    assert stamp_of(tmp_path / "gone") == ()


# --- while training goes on ----------------------------------------------------------------


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def watching(tmp_path: Path, trained: Path) -> Iterator[subprocess.Popen[str]]:
    """``mbuild watch`` in a process of its own."""
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "mbuild", "watch", "run", "-t", "mario", "--interval", "0.2"],
        cwd=tmp_path,
        env={**os.environ, "OLLAMA_MODELS": str(tmp_path / "store")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        yield process
        process.kill()


def test_a_checkpoint_that_is_written_slowly(
    watching: subprocess.Popen[str], trained: Path, tmp_path: Path
) -> None:
    """It is built once, when the trainer has written its last file; Ctrl-C ends the watching."""
    manifest = tmp_path / "store/manifests/registry.ollama.ai/library/mario/checkpoint-5"
    place = tmp_path / "run" / "checkpoint-5"
    place.mkdir()
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(trained / name, place / name)
    data = (trained / "model.safetensors").read_bytes()
    with (place / "model.safetensors").open("wb") as file:
        for start in range(0, len(data), len(data) // 4):
            file.write(data[start : start + len(data) // 4])
            file.flush()
            time.sleep(0.3)
            assert not manifest.exists()
    time.sleep(0.6)
    assert not manifest.exists()
    (place / "trainer_state.json").write_text('{"global_step": 5}')
    wait_for(manifest.exists)
    before = manifest.stat().st_mtime_ns
    time.sleep(0.6)
    assert manifest.stat().st_mtime_ns == before
    watching.send_signal(signal.SIGINT)
    assert watching.wait(20) == 130
    assert watching.stderr is not None
    assert "interrupted" in watching.stderr.read()
    leftovers = os.listdir(tmp_path / "store/.mbuild/tmp")
    assert leftovers == []


def test_the_documented_session(trained: Path, tmp_path: Path) -> None:
    """Each command of docs/watch.md prints what the page shows."""
    for step in (500, 1000):
        shutil.copytree(trained, tmp_path / "work" / "run" / f"checkpoint-{step}")
    documented("watch.md", tmp_path)
