"""What parts say of what they have read: believed where it makes up the very files, else not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import settle, write_chat
from inprocess import in_process

from mbuild.build.sources.spans import Spans
from mbuild.build.steps import by_parts
from mbuild.build.steps.by_parts import Share
from mbuild.build.steps.making import LoadedRange
from mbuild.core.digest import BLAKE3, Digest
from mbuild.quant.compiled.chunks import why_unavailable
from mbuild.shared.envelope import UNSIGNED


def test_what_several_have_read_makes_up_a_digest() -> None:
    """In any shares, with ends anywhere, through JSON; a byte that differs shows."""
    assert why_unavailable() is None  # loads the kernel
    rng = random.Random(5)
    for size in (1025, 5000, 70_000, 1 << 20):
        data = rng.randbytes(size)
        for flipped in (False, True):
            read = bytearray(data)
            read[rng.randrange(size)] ^= flipped
            readers = [Spans(size) for _ in range(3)]
            cuts = sorted({0, size, *(rng.randrange(size) for _ in range(20))})
            for start, stop in pairwise(cuts):
                rng.choice(readers).add(start, memoryview(read)[start:stop])
            whole = Spans(size)
            for reader in readers:
                share = Share(3, {"x": list(reader.parts())}, {}, {})
                again = Share.from_json(json.loads(json.dumps(share.to_json())))
                for part in again.spans["x"]:
                    whole.absorb(part)
            for start, stop in list(whole.missing()):
                whole.add(start, memoryview(read)[start:stop])
            assert (whole.digest() == Digest.of(data, BLAKE3)) is not flipped


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A checkpoint, what two parts left in a cache, and the plain build's id."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_parts, "LARGE", 1 << 20)
        run = in_process(folder, patch)
        write_chat(folder / "chat")
        (folder / "Modelfile").write_text("FROM ./chat\n")
        settle()
        for number in (1, 2):
            part = ("--part", f"{number}/2", "--cache-to", "cache", "--store", f"part{number}")
            assert run("-q", "q4_K_M", *part).returncode == 0
        yield folder, run("-q", "q4_K_M", "-t", "m", "--quiet").stdout


@pytest.fixture
def mbuild(made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, on copies; small files count as large ones."""
    monkeypatch.setattr(by_parts, "LARGE", 1 << 20)
    for name in ("chat", "cache"):
        shutil.copytree(made[0] / name, tmp_path / name)
    shutil.copy(made[0] / "Modelfile", tmp_path)
    settle()
    return in_process(tmp_path, monkeypatch)


def assembled(mbuild: Run, monkeypatch: pytest.MonkeyPatch, plain: str) -> int:
    """Build from the cache; bytes that were read to find ranges. The model is the plain one."""
    read = 0
    load = LoadedRange.load

    def counted(self: LoadedRange) -> Any:
        nonlocal read
        data = load(self)
        read += data.nbytes
        return data

    with monkeypatch.context() as patch:
        patch.setattr(LoadedRange, "load", counted)
        done = mbuild("-q", "q4_K_M", "-t", "m", "--cache-from", "cache", "--quiet")
    assert done.returncode == 0, done.stderr
    plain = plain or mbuild("-q", "q4_K_M", "-t", "m", "--store", "plain", "--quiet").stdout
    assert plain == done.stdout
    return read


def test_the_build_reads_no_range_to_find_it(
    made: tuple[Path, str], mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the files are digested nothing is read of them but what stays as it is."""
    weights = (tmp_path / "chat" / "model.safetensors").stat().st_size
    assert assembled(mbuild, monkeypatch, made[1]) < weights / 50


def shares(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the parts said, with a check that is right."""
    for path in (folder / "cache/v1/record/part-read").iterdir():
        record = json.loads(path.read_bytes())
        value = json.loads(record["value"])
        change(value)
        path.write_bytes(UNSIGNED.close(record["kind"], record["key"], json.dumps(value)))


def _flipped(value: dict[str, Any]) -> None:
    for part in value["spans"]["model.safetensors"]:
        for node in part[2]:
            node[2] = "00" * 32


def _moved(value: dict[str, Any]) -> None:
    for part in value["spans"]["model.safetensors"]:
        part[0] = part[1] = -5


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "other values": _flipped,
    "other places": _moved,
    "nothing": lambda value: value["spans"]["model.safetensors"].clear(),
    "another small file": lambda value: value["files"].update({"config.json": "0" * 64}),
    "no small file": lambda value: value["files"].clear(),
    "more parts": lambda value: value.update(parts=3),
    "no number of parts": lambda value: value.update(parts="x"),
    "texts for spans": lambda value: value.update(spans={"model.safetensors": "x"}),
    "no ranges": lambda value: value.update(ranges=[]),
    "numbers for digests": lambda value: value.update(ranges={"0 output.weight": 7}),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_make_up_the_files_costs_reading_them(
    lie: str,
    made: tuple[Path, str],
    mbuild: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model is the plain one, whatever a part says."""
    shares(tmp_path, LIES[lie])
    weights = (tmp_path / "chat" / "model.safetensors").stat().st_size
    assert assembled(mbuild, monkeypatch, made[1]) > weights / 2


def test_of_a_file_that_changed_since_nothing_is_believed(
    mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name, size and header, other weights: the parts have read something else."""
    path = tmp_path / "chat" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    settle()
    assert assembled(mbuild, monkeypatch, "") > len(data) / 2


def test_other_options_are_another_source(
    mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that changed: not even the small files are the same."""
    path = tmp_path / "chat" / "config.json"
    path.write_text(path.read_text().replace('"rope_theta"', '"rope_thetx"', 1) + " ")
    settle()
    assert assembled(mbuild, monkeypatch, "") > 1 << 20
