"""What has to hold before a model is named: the errors of its tensors, without an engine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from example_models import change_tensors, write_chat
from gguf import GGUFReader
from gguf.quants import dequantize
from inprocess import in_process

from mbuild.build.gates import checks_of
from mbuild.build.plan import Plan
from mbuild.build.request import BuildRequest, Target
from mbuild.cli.rebuild import how_built
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.language.stages.changing import checks_said
from mbuild.language.stages.values import Expectation
from mbuild.models.comparing import compare_with_source
from mbuild.quant.distance import Squares, squares
from mbuild.runtime.failure import NoEngineError
from mbuild.store import Store


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, beside a checkpoint and a Modelfile FROM it."""
    write_chat(tmp_path / "chat", LAYERS=1)
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    return in_process(tmp_path, monkeypatch)


def built(mbuild: Run, *arguments: str) -> str:
    """Build the model ``m``; the last line that was said."""
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def identity(mbuild: Run) -> str:
    """The id of the model ``m``."""
    return str(json.loads(mbuild("list", "--json").stdout)[0]["id"])


def errors_by_hand(folder: Path, source: str, made: str) -> dict[str, float]:
    """Each quantized tensor's relative error, by the gguf package and numpy."""
    store = folder / "store"
    values = []
    for name in (source, made):
        manifest = store / f"manifests/registry.ollama.ai/library/{name}/latest"
        (layer,) = [
            row
            for row in json.loads(manifest.read_text())["layers"]
            if row["mediaType"].endswith(".model")
        ]
        reader = GGUFReader(store / "blobs" / layer["digest"].replace(":", "-"))
        values.append({t.name: (t.tensor_type, t) for t in reader.tensors})
    found = {}
    for name, (type_, tensor) in values[1].items():
        before_type, before = values[0][name]
        if type_ != before_type:
            old = dequantize(before.data, before_type).astype(np.float64)
            new = dequantize(tensor.data, type_).astype(np.float64)
            found[name] = float(np.sqrt(((new - old) ** 2).sum() / (old**2).sum()))
    return found


def test_the_error_is_that_of_the_values(mbuild: Run, tmp_path: Path) -> None:
    """Of every tensor, against its source, as numpy computes it; the largest is checked."""
    built(mbuild, "-q", "q4_0", "--check", "error < 0.5")
    done = mbuild("-t", "plain")
    assert done.returncode == 0, done.stderr
    expected = errors_by_hand(tmp_path, "plain", "m")
    found = json.loads(mbuild("measure", "m", "--tensors", "--format", "json").stdout)
    assert {row["name"]: row["error"] for row in found["tensors"]} == pytest.approx(expected)
    assert len(expected) > 5 and found["error"] == pytest.approx(max(expected.values()))
    worst = max(expected, key=lambda name: expected[name])
    assert found["tensor"].startswith(worst)
    shown = mbuild("measure", "m", "--tensors").stdout
    assert re.search(rf"{worst} +BF16 -> Q\d_0 +{expected[worst]:.5f}", shown)
    assert f"largest      {found['error']:.5f} of {worst}" in shown


def ran(mbuild: Run) -> set[str]:
    """The kinds of the steps that the last build ran."""
    log = json.loads(mbuild("history", "--last", "1", "--format", "json").stdout)
    return {step["kind"] for step in log["steps"] if step["status"] == "ran"}


def test_a_build_that_fails_a_check_names_nothing(mbuild: Run) -> None:
    """The old model keeps the name; it is said by how much, and what was measured is kept."""
    built(mbuild, "-q", "q8_0")
    before = identity(mbuild)
    done = mbuild("-t", "m", "-q", "q4_0", "--check", "error < 0.01")
    assert done.returncode != 0 and identity(mbuild) == before
    found = re.search(r"CHECK error < 0.01: it is (0\.\d+), of (\S+) \(Q\d_0\), (\S+) too much",
                      done.stderr)  # fmt: skip
    assert found is not None, done.stderr
    assert float(found[3]) == pytest.approx(float(found[1]) - 0.01, rel=0.01)
    assert "nothing was named" in done.stderr
    log = json.loads(mbuild("history", "--last", "1", "--format", "json").stdout)
    (step,) = [step for step in log["steps"] if step["kind"] == "compare"]
    assert log["result"] == "failed" and "CHECK error < 0.01" in log["error"]
    assert step["measured"]["error"] == pytest.approx(float(found[1]), rel=1e-5)
    built(mbuild, "-q", "q4_0", "--check", "error < 0.5")
    # All that the check looks at is known. The manifest was put together beside it, and may have
    # been stopped by it.
    assert {"check"} <= ran(mbuild) <= {"check", "manifest"}


def test_what_held_is_not_looked_at_again(mbuild: Run) -> None:
    """No step runs; another SYSTEM compares nothing again; another bound compares numbers only."""
    built(mbuild, "-q", "q4_0", "--check", "error < 0.5")
    assert "0 steps run" in built(mbuild, "-q", "q4_0", "--check", "error < 0.5")
    assert "1 step run" in built(mbuild, "-q", "q4_0", "--check", "error < 0.4")
    Path("Modelfile").write_text("FROM ./chat\nSYSTEM x\n")
    built(mbuild, "-q", "q4_0", "--check", "error < 0.4")
    assert ran(mbuild) == {"system", "manifest"}


def test_the_modelfile_says_the_same(mbuild: Run) -> None:
    """CHECK error of a stage; each of several variants is checked, and told by its type."""
    Path("Modelfile").write_text(
        "# syntax=mbuild/1\nFROM ./chat AS small\nQUANTIZE q8_0 q4_0\nCHECK error < 0.01\n"
    )
    done = mbuild("-t", "m")
    assert "CHECK error < 0.01 for small Q4_0: it is 0.0" in done.stderr, done.stderr
    assert json.loads(mbuild("list", "--json").stdout) == []
    Path("Modelfile").write_text(
        "# syntax=mbuild/1\nFROM ./chat AS small\nQUANTIZE q8_0 q4_0\nCHECK error < 0.2\n"
    )
    assert mbuild("-t", "m").returncode == 0
    shown = mbuild("history", "m:q8_0").stdout
    assert len(re.findall(r"^ +error 0\.\d+$", shown, re.MULTILINE)) == 2, shown
    assert re.search(r"check error < 0.2 for small Q8_0 .*\n +value 0\.00\d+", shown), shown


def test_measures_are_compared(mbuild: Run) -> None:
    """Of two models that were checked, by ``diff``; and the report shows them."""
    built(mbuild, "-q", "q4_0", "--check", "error < 0.5")
    assert mbuild("-t", "n", "-q", "q8_0", "--check", "error < 0.5").returncode == 0
    shown = mbuild("diff", "m", "n").stdout
    assert re.search(r"Measures\n +~ compare chat: error: 0\.\d+ -> 0\.00\d+", shown), shown
    measured = json.loads(mbuild("diff", "m", "n", "--format", "json").stdout)["measures"]
    errors = next(row for row in measured if row["key"] == "compare chat: error")
    assert errors["old"] > 5 * errors["new"] > 0
    assert mbuild("report", "m", "-o", "report.html").returncode == 0
    assert f"error {errors['old']:.6g}" in Path("report.html").read_text()


def test_a_source_that_changed_is_no_source(mbuild: Run, tmp_path: Path) -> None:
    """Nothing is compared with another model, nor with one that is gone."""
    built(mbuild, "-q", "q4_0")
    change_tensors(tmp_path / "chat" / "model.safetensors", "embed")
    done = mbuild("measure", "m", "--tensors")
    assert done.returncode != 0 and "inputs have changed since" in done.stderr, done.stderr
    shutil.rmtree(tmp_path / "chat")
    done = mbuild("measure", "m", "--tensors")
    assert done.returncode != 0 and "chat" in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_quantized_has_no_error(mbuild: Run, tmp_path: Path) -> None:
    """A CHECK of it is refused before anything runs, and so is the command."""
    done = mbuild("-t", "m", "--check", "error < 0.1")
    assert "this one is not quantized" in done.stderr and "converting" not in done.stderr
    built(mbuild)
    done = mbuild("measure", "m", "--tensors")
    assert "m:latest is not quantized" in done.stderr, done.stderr
    store = Store(tmp_path / "store")
    stored = store.manifests.read(ModelName.parse("m"))
    with pytest.raises(UsageError, match="m:latest is not quantized"):
        list(compare_with_source(how_built(store, stored, None), stored, store))
    done = mbuild("measure", "m", "--tensors", "--text", "x")
    assert "--tensors runs nothing" in done.stderr
    assert "there is no text" in mbuild("measure", "m").stderr


def test_checks_of_the_command_line_are_remembered_and_asked_again(mbuild: Run) -> None:
    """The log has them with the request; the request reads them back."""
    built(mbuild, "-q", "q4_0", "--check", "error < 0.5", "--check", "nan")
    shown = mbuild("history", "m").stdout
    assert "--check error < 0.5" in shown and "--check nan" in shown
    request = BuildRequest((Target((ModelName.parse("m"),)),), checks=("error < 0.5", "nan"))
    assert BuildRequest.from_json(request.to_json()) == request
    assert ("--check", "nan") in request.flags()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error < ", "CHECK cannot go on with the end of the line"),
        ("error < x", "x is not a number"),
        ("speed > 1", "CHECK cannot go on with speed"),
        ("kld < 0.05", "CHECK cannot go on with the end of the line"),
    ],
)
def test_what_is_no_check_is_refused(mbuild: Run, text: str, said: str) -> None:
    """With the words of CHECK."""
    done = mbuild("-t", "m", "-q", "q4_0", "--check", text)
    assert done.returncode != 0 and f"--check {text!r}: {said}" in done.stderr, done.stderr


def test_checks_need_an_engine_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run the model: without one nothing is quantized first."""
    monkeypatch.setattr("mbuild.runtime.process.has_engine", lambda: False)
    planned = Plan(None, None)  # type: ignore[arg-type]
    with pytest.raises(NoEngineError):
        list(checks_of(planned, checks_said(['answers "x" WITH /y/']), {}, ""))
    with pytest.raises(UsageError, match="this one is not quantized"):
        list(checks_of(planned, [Expectation("error", "<", "1")], {}, ""))


def test_importances_weigh_columns() -> None:
    """Of one matrix those of its columns; of several each its own."""
    before = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    after = before + np.array([1, 10], np.float32)
    weights = np.array([[1, 0], [0, 2]], np.float32)
    found = squares(before.reshape(-1), after.reshape(-1), weights, 2)
    assert found == Squares(2 * 1 + 2 * 2 * 100, 1 + 9 + 2 * (36 + 64))
    plain = squares(before.reshape(-1), after.reshape(-1))
    assert plain == Squares(4 * 101, 204) and plain.relative == pytest.approx((404 / 204) ** 0.5)
    assert Squares().relative == 0 and Squares(1, 0).relative == float("inf")
    assert found.plus(Squares(1, 2)) == Squares(found.off + 1, found.whole + 2)
