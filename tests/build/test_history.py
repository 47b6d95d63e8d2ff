"""The log of builds, and what is planned from it."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asked import asked
from conftest import Run
from example_models import settle
from gguf_files import tiny_gguf
from inprocess import in_process
from programs import need

from mbuild.build import history
from mbuild.build.history import BuildRecord, History, StepRecord
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Layer, Store


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, beside a Modelfile FROM a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    settle()
    return in_process(tmp_path, monkeypatch)


def records(mbuild: Run) -> list[dict[str, Any]]:
    return [json.loads(x) for x in mbuild("history", "--format", "json").stdout.splitlines()]


def asked_of(name: str, folder: str = "/here", type_: str = "Q8_0") -> BuildRequest:
    """A request of a Modelfile, for one quantized model."""
    target = Target((ModelName.parse(name),), Quantization(file_type(type_)))
    return BuildRequest((target,), Script("Modelfile", Digest.of(b""), folder))


def record(number: int, **fields: Any) -> BuildRecord:
    digest = Digest.of(str(number).encode())
    step = StepRecord(
        "system",
        "system",
        "k" * 64,
        (),
        "ran",
        ("a -> b",),
        0.5,
        1.5,
        10,
        14,
        (Layer("t", digest, 14),),
    )
    values: dict[str, Any] = {
        "id": f"{number:012x}",
        "time": 10**18 + number,
        "seconds": 2.0,
        "request": asked_of("m"),
        "models": {"m:latest": digest},
        "result": "built",
        "error": "",
        "steps": (step,),
        "version": "1",
        "manifests": (0,),
    }
    return BuildRecord(**{**values, **fields})


@pytest.fixture
def log(tmp_path: Path) -> History:
    """An empty log."""
    store = Store(tmp_path / "store")
    store.prepare()
    return History(store)


def test_what_is_written_is_read(log: History) -> None:
    """Records come back whole, the newest first, in files of many read-ahead pieces."""
    written = [record(number, error="x" * 3000) for number in range(100)]
    for each in written:
        log.append(each)
    assert list(log.newest_first()) == written[::-1]
    assert log.find("00000000005") == written[80:96][::-1]


def test_builds_that_end_at_once_keep_their_lines(log: History) -> None:
    """Lines appended from many threads are all there, none torn."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.append(record(n, error="y" * 5000)), range(200)))
    assert sorted(r.id for r in log.newest_first()) == sorted(record(n).id for n in range(200))


def test_damage_costs_the_damaged_line_only(log: History) -> None:
    """A line that a killed build left unfinished, and lines of rubbish, are passed over."""
    log.append(record(1))
    with log.path.open("ab") as file:
        file.write(b'\xff\x00\nnull\n[]\n{"id": 3}\n{"id": "torn", "time": 1')
    log.append(record(2))
    assert [r.id for r in log.newest_first()] == [record(2).id, record(1).id]


def test_a_long_log_loses_its_older_half(log: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never grows much over its limit, and the newest builds stay."""
    monkeypatch.setattr(history, "MAX_BYTES", 20_000)
    for number in range(100):
        log.append(record(number))
    found = [r.id for r in log.newest_first()]
    assert log.path.stat().st_size <= 20_000
    assert found == [record(n).id for n in range(99, 99 - len(found), -1)]
    assert len(found) > 5


def test_a_log_that_cannot_be_written_stops_no_build(log: History) -> None:
    """A folder in its place is no error."""
    log.path.mkdir()
    log.append(record(1))
    assert list(log.newest_first()) == []


def test_the_build_to_compare_with(log: History) -> None:
    """The last good one of the same name; else of the same Modelfile; never a failed one."""
    log.append(record(1))
    log.append(record(2, request=asked_of("n"), models={"n:latest": Digest.of(b"n")}))
    log.append(record(3, result="failed", models={}))

    def found(request: BuildRequest) -> str | None:
        return getattr(log.last_of(request), "id", None)

    assert found(asked_of("m")) == record(1).id
    assert found(asked_of("m")._replace(named=False)) == record(2).id
    assert found(asked_of("other")) == record(2).id
    assert found(asked_of("other")._replace(source=None)) is None
    assert found(asked_of("other", "/there")) is None
    log.append(record(4, request=asked_of("o", type_="Q4_0"), models={"o:latest": Digest.of(b"o")}))
    assert found(asked_of("other")) == record(2).id
    assert found(asked_of("other", type_="Q4_0")) == found(asked_of("o")) == record(4).id


def test_a_long_log_is_searched_without_reading_each_line(
    log: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only builds of the name, of the Modelfile's folder or of the id are taken apart."""
    for number in range(1, 60):
        name, folder = f"other{number}:latest", f"/{number}"
        request, models = asked_of(name, folder), {name: Digest.of(name.encode())}
        log.append(record(number, request=request, models=models))
    log.append(record(60))
    read, real = [], BuildRequest.from_json
    monkeypatch.setattr(BuildRequest, "from_json", lambda value: read.append(value) or real(value))
    assert log.last_of(asked_of("new", "/nowhere")) is None
    assert log.maker_of("new:latest", Digest.of(b"new")) is None
    assert read == []
    assert getattr(log.last_of(asked_of("other3", "/nowhere")), "id", "") == record(3).id
    assert getattr(log.last_of(asked_of("new", "/7")), "id", "") == record(7).id
    made = log.maker_of("other9:latest", Digest.of(b"other9:latest"))
    assert made is not None and made.id == record(9).id
    assert len(read) == 3


def test_every_build_is_kept_whatever_its_end(mbuild: Run, tmp_path: Path) -> None:
    """Good, cached and failed builds, with what they were asked."""
    assert mbuild("-t", "mario", "--outtype", "f16").returncode == 0
    assert mbuild("-t", "mario").returncode == 0
    (tmp_path / "Broken").write_text("FROM ./nothing.gguf\n")
    assert mbuild("-f", "Broken", "-t", "broken").returncode == 1
    failed, cached, first = records(mbuild)
    assert (first["result"], cached["result"], failed["result"]) == ("built", "built", "failed")
    told = first["request"]
    assert (told["outtype"], told["targets"]) == ("f16", [{"names": ["mario:latest"]}])
    assert told["modelfile"]["folder"] == str(tmp_path)
    assert {step["status"] for step in first["steps"]} == {"ran"}
    assert {step["status"] for step in cached["steps"]} == {"cached"}
    assert first["models"] == cached["models"]
    assert [s["key"] for s in first["steps"]] == [s["key"] for s in cached["steps"]]
    assert "nothing.gguf" in failed["error"]
    text = mbuild("history").stdout.splitlines()
    assert [line.split()[4] for line in text[1:]] == ["failed", "built", "built"]


def test_a_stopped_build_is_kept(mbuild: Run, tmp_path: Path) -> None:
    """Whoever stops following a build stops it, and the log says so."""
    from mbuild.build.build import build
    from mbuild.build.prepare import read_recipe
    from mbuild.build.sources.resolve import LocalContext

    store = Store(tmp_path / "store")
    recipe, _ = read_recipe((tmp_path / "Modelfile").read_bytes(), "Modelfile", store)
    events = build(asked(recipe, LocalContext(tmp_path, store), ModelName.parse("m")), store)
    next(events)
    events.close()
    (stopped,) = records(mbuild)
    assert (stopped["result"], stopped["models"], stopped["names"]) == ("stopped", {}, ["m:latest"])
    assert {step["status"] for step in stopped["steps"]} == {"unfinished"}


def test_one_build_by_the_beginning_of_its_id(mbuild: Run) -> None:
    """One that fits is shown; none is not there, several are wrong usage, and said."""
    mbuild("-t", "mario")
    mbuild("-t", "luigi")
    newest, first = records(mbuild)
    shown = mbuild("history", first["id"])
    assert "model     mario:latest" in shown.stdout
    assert json.loads(mbuild("history", newest["id"], "--format", "json").stdout) == newest
    assert mbuild("history", "zzz").returncode == 1
    several = mbuild("history", first["id"][:2])
    assert several.returncode == 2
    assert first["id"] in several.stderr


def test_a_plan_counts_the_stored_weights_that_are_read(mbuild: Run) -> None:
    """A quantization reads its source, whether that is a file or in the store."""
    assert mbuild("-t", "base").returncode == 0
    options = ("-f", "-", "-t", "q", "-q", "q8_0", "--format", "json")
    planned = json.loads(mbuild("plan", *options, input="FROM base\n").stdout)
    size = Path("model.gguf").stat().st_size
    assert planned["reads"] == planned["steps"][0]["reads"] == size
    unquantized = json.loads(mbuild("plan", *options[:4], *options[6:], input="FROM base\n").stdout)
    assert unquantized["reads"] == 0


def test_plans_learn_from_the_past(mbuild: Run, tmp_path: Path) -> None:
    """No estimate without a past; with one, the time that such steps took, by their bytes."""

    def plan() -> dict[str, Any]:
        return json.loads(mbuild("plan", "-t", "m", "--format", "json").stdout)  # type: ignore[no-any-return]

    planned = plan()
    assert planned["seconds"] is None
    assert planned["fits"] is True
    size = (tmp_path / "model.gguf").stat().st_size
    step = planned["steps"][0]
    assert (step["kind"], step["state"], step["reads"], step["writes"]) == (
        "import",
        "run",
        size,
        size,
    )
    mbuild("-t", "m")
    assert [step["state"] for step in plan()["steps"]] == ["cached"] * 6
    tiny_gguf(tmp_path / "model.gguf", metadata={"general.name": "other"})
    seconds = plan()["steps"][0]["seconds"]
    took = records(mbuild)[0]["steps"][0]["seconds"]
    assert took / 3 <= seconds <= took * 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_plan_tells_what_will_not_fit(mbuild: Run, tmp_path: Path) -> None:
    """On a disk with too little room the plan says so, with status 1; a build leaves no weights."""
    need("mount", "umount")
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes() + bytes(200_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "x", disk], check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        done = mbuild("plan", "-t", "m", "--store", disk / "store")
        assert done.returncode == 1
        assert "the build will not fit on this disk: " in done.stderr
        assert f" free in {disk / 'store'}" in done.stderr
        done = mbuild("-t", "m", "--store", disk / "store")
        assert done.returncode == 1
        assert "will not fit on this disk" in done.stderr
        left = [
            p for p in (disk / "store").rglob("*") if p.is_file() and p.stat().st_size > 100_000
        ]
        assert left == []
    finally:
        subprocess.run(["umount", disk], check=True)
