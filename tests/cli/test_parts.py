"""``--part i/n``: shares of the work in a shared cache, from which an ordinary build assembles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from adapters import factors, write_peft
from checkpoints import FAMILIES, write_family
from conftest import Run
from example_models import settle, write_chat
from inprocess import in_process
from quant_data import imatrix_bytes

import mbuild as api
from mbuild.build.parts import BuildPart
from mbuild.build.steps.ranges import Range, ranges_of
from mbuild.core.errors import UsageError
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType
from mbuild.shared.cache import TeamCache


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint, an adapter for it, an importance matrix, a Modelfile."""
    folder = write_chat(tmp_path / "chat")
    shapes = {f"model.layers.{n}.self_attn.q_proj": (256, 256) for n in range(2)}
    write_peft(tmp_path / "lora", factors(shapes, 4, 1), rank=4, alpha=8)
    write_importances(tmp_path / "imatrix.gguf", folder)
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    settle()
    return folder


def write_importances(path: Path, checkpoint: Path) -> None:
    """An importance matrix with values for every matrix of every tensor."""
    random = np.random.default_rng(1)
    values = {}
    for each in api.inspect(checkpoint).tensors:
        if len(each.shape) > 1:
            matrices = each.shape[2] if len(each.shape) > 2 else 1
            values[each.name] = (random.random((matrices, each.shape[0])) + 0.1, np.ones(matrices))
    path.write_bytes(imatrix_bytes(values))


def in_parts(mbuild: Run, *options: str, parts: int = 2) -> list[str]:
    """Make all parts and build from them, each with a store of its own; the lines of the build."""
    for number in range(1, parts + 1):
        part = ("--part", f"{number}/{parts}", "--cache-to", "cache", "--store", f"part{number}")
        done = mbuild(*options, *part, "--progress", "plain")
        assert done.returncode == 0, done.stderr
    done = mbuild(*options, "-t", "m", "--cache-from", "cache", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def same_as_plain(mbuild: Run, *options: str) -> None:
    """The model of the store is that of a build that knows no cache."""
    again = mbuild(*options, "-t", "m", "--store", "plain", "--quiet").stdout.strip()
    shown = mbuild("show", "m", "--format", "json")
    found = json.loads(mbuild("list", "--format", "json").stdout)[0]["id"]
    assert shown.returncode == 0
    assert again == f"sha256:{found}"


def test_two_parts_and_a_build_make_the_plain_model(
    chat: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q4_K_M with an importance matrix; the build finds every tensor made, where that pays."""
    monkeypatch.setattr(TeamCache, "piece_pays", lambda self, size, seconds: True)
    options = ("-q", "q4_K_M", "--imatrix", "imatrix.gguf")
    said = in_parts(mbuild, *options)
    (reused,) = [line for line in said if line.startswith("reused")]
    words = reused.split()
    assert words[1] == words[3] != "0"
    same_as_plain(mbuild, *options)


def test_experts_in_parts(tmp_path: Path, mbuild: Run) -> None:
    """Each expert with its own importances."""
    write_family(tmp_path / "moe", FAMILIES["8 experts"])
    write_importances(tmp_path / "i.gguf", tmp_path / "moe")
    (tmp_path / "Modelfile").write_text("FROM ./moe\n")
    settle()
    options = ("-q", "q4_K_M", "--imatrix", "i.gguf")
    assert any(line.startswith("reused") for line in in_parts(mbuild, *options, parts=3))
    same_as_plain(mbuild, *options)


def test_a_merge_in_parts(chat: Path, tmp_path: Path, mbuild: Run) -> None:
    """MERGE and QUANTIZE, of a Modelfile with stages, two types in one pass."""
    text = "# syntax=mbuild/1\nFROM ./chat\nMERGE ./lora WEIGHT 0.5\nQUANTIZE q6_K\n"
    (tmp_path / "Modelfile").write_text(text)
    assert any(line.startswith("reused") for line in in_parts(mbuild))
    same_as_plain(mbuild)


def test_a_conversion_has_no_parts(chat: Path, mbuild: Run) -> None:
    """Nothing is quantized: parts make nothing and the build makes the model."""
    in_parts(mbuild)
    same_as_plain(mbuild)
    done = mbuild("--part", "1/2", "--cache-to", "cache", "--progress", "plain", "--store", "p")
    assert "part 1 of 2 in" in done.stderr
    assert ": 0 pieces made" in done.stderr


def test_what_is_there_is_not_made_again(chat: Path, mbuild: Run) -> None:
    """A part that is started again finds its pieces, in any store; no model is named."""
    options = ("-q", "q4_K_M", "--part", "1/1", "--cache-to", "cache", "--progress", "json")
    ends = []
    for store in ("a", "b", "a"):
        done = mbuild(*options, "--store", store)
        assert done.returncode == 0, done.stderr
        ends.append(json.loads(done.stdout.splitlines()[-1]))
        assert json.loads(mbuild("list", "--store", store, "--format", "json").stdout) == []
    first, *others = ends
    assert first["event"] == "PartFinished"
    assert first["made"] > 0 == first["there"]
    assert [(end["made"], end["there"]) for end in others] == [(0, first["made"])] * 2


def test_a_part_that_nobody_made_is_made_by_the_build(chat: Path, mbuild: Run) -> None:
    """One of three parts is there."""
    options = ("-q", "q4_K_M")
    mbuild(*options, "--part", "2/3", "--cache-to", "cache", "--store", "part")
    done = mbuild(*options, "-t", "m", "--cache-from", "cache", "--progress", "plain")
    (reused,) = [line.split() for line in done.stderr.splitlines() if line.startswith("reused")]
    assert 0 < int(reused[1]) < int(reused[3])
    same_as_plain(mbuild, *options)


def test_parts_that_are_killed_leave_what_they_sent(
    chat: Path, tmp_path: Path, mbuild: Run
) -> None:
    """kill -9 of each of two parts at three moments; what is missing is made then."""
    for part in ("1/2", "2/2"):
        for moment in (0, 2, 7):
            kill_after(moment, tmp_path, "--part", part)
    in_parts(mbuild, "-q", "q4_K_M")
    same_as_plain(mbuild, "-q", "q4_K_M")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")]
    assert all(path.is_dir() or path.stat().st_size for path in left)


def kill_after(moment: int, folder: Path, *options: str) -> None:
    """Run a part in a process of its own, and end it after so many events of progress."""
    command = [sys.executable, "-m", "mbuild", "-q", "q4_K_M", *options, "--cache-to", "cache"]
    process = subprocess.Popen(
        [*command, "--progress", "json", "--threads", "1"],
        cwd=folder,
        env={**os.environ, "OLLAMA_MODELS": str(folder / "killed")},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += b'"StepProgress"' in line
        if seen >= moment:
            break
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_part_needs_a_place_to_put_what_it_makes(chat: Path, mbuild: Run) -> None:
    """Without a cache that is written it refuses, with the option."""
    for options in ((), ("--cache-from", "cache")):
        done = mbuild("-q", "q4_0", "--part", "1/2", *options)
        assert done.returncode == 2
        assert "--part has nowhere to put what it makes" in done.stderr
        assert "--cache-to URL" in done.stderr


def test_a_part_computes_where_it_is(chat: Path, mbuild: Run) -> None:
    """It has no workers of its own."""
    done = mbuild("-q", "q4_0", "--part", "1/2", "--cache-to", "c", "--on", "local:2")
    assert done.returncode == 2
    assert "--part and --on cannot be combined" in done.stderr


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1/99999"])
def test_what_is_no_part_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(UsageError, match="is not a part"):
        BuildPart.parse(text)


def ranges() -> Iterator[Range]:
    """Ranges of several sizes."""
    for number, rows in enumerate((1, 700, 3, 90, 90, 4096)):
        tensor = Tensor(f"t{number}", (256, rows), GGMLType.F32, lambda: b"")
        yield from ranges_of(number, tensor)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 100])
def test_every_range_is_in_one_part(parts: int) -> None:
    """In their order, whatever the number of parts; of two parts none has all."""
    every = list(ranges())
    shares = [list(BuildPart(number, parts).share(every)) for number in range(1, parts + 1)]
    assert [part for share in shares for part in share] == every
    assert list(BuildPart(1, 1).share([])) == []


def test_a_build_with_a_cache_from_python(chat: Path, tmp_path: Path) -> None:
    """``cache_to`` and ``cache_from`` are the options of these names."""
    asked = {"folder": tmp_path, "name": "m", "quantize": "q4_0"}
    first = api.build(store=tmp_path / "a", cache_to=str(tmp_path / "c"), **asked)  # type: ignore[arg-type]
    second = api.build(store=tmp_path / "b", cache_from=str(tmp_path / "c"), **asked)  # type: ignore[arg-type]
    assert first.id == second.id
    assert second.ran < first.ran


def test_of_two_jobs_of_one_part_only_one_works(chat: Path, tmp_path: Path) -> None:
    """An array job that was started twice: no piece is made twice, on a folder and a registry."""
    from shared_storages import clean_environment, storage

    for kind in ("folder", "registry"):
        with storage(kind, tmp_path / kind) as (url, environment):
            command = [sys.executable, "-m", "mbuild", "-q", "q4_K_M", "--part", "1/2"]
            jobs = [
                subprocess.Popen(
                    [*command, "--cache-to", url, "--progress", "json", "--store", f"{kind}{job}"],
                    cwd=tmp_path,
                    env=clean_environment(environment),
                    stdout=subprocess.PIPE,
                )
                for job in range(2)
            ]
            ends = [json.loads(job.communicate(timeout=100)[0].splitlines()[-1]) for job in jobs]
        first, second = sorted(ends, key=lambda end: -int(end["made"]))
        assert (second["made"], second["there"]) == (0, first["made"])
        assert first["made"] > 0 == first["there"]


def test_a_part_reads_no_more_than_its_share(chat: Path, tmp_path: Path, mbuild: Run) -> None:
    """No digest of a whole file: of a thousand machines each would read everything."""
    done = mbuild("-q", "q4_K_M", "--part", "1/4", "--cache-to", "cache", "--store", "part")
    assert done.returncode == 0, done.stderr
    from mbuild.store import Store

    store = Store(tmp_path / "part")
    assert all(store.database.file_digest(path.stat()) is None for path in chat.iterdir())
