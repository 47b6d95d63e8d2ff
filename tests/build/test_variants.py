"""Several quantizations in one build: every view says which is which, and nothing is done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run
from example_models import generator
from inprocess import in_process

TWO = ("-t", "m", "-q", "q4_0", "-q", "q8_0")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a checkpoint and a Modelfile."""
    generator().write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Mario.\nLICENSE MIT\n")
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, in the folder, on a store of its own."""
    return in_process(project, monkeypatch)


def labels(steps: list[dict[str, str]], name: str) -> list[str]:
    """The steps' labels, each of which is there once."""
    found = [step[name] for step in steps]
    assert len(set(found)) == len(found), found
    return found


def test_no_two_steps_have_one_name(mbuild: Run) -> None:
    """In plan, explain, the events and the history; texts are one step for all variants."""
    planned = labels(json.loads(mbuild("plan", *TWO, "--format", "json").stdout)["steps"], "label")
    explained = json.loads(mbuild("explain", *TWO, "--format", "json").stdout)["steps"]
    assert labels(explained, "step") == planned
    events = mbuild(*TWO, "--progress", "json").stdout.splitlines()
    finished = [event for line in events if "StepFinished" in (event := json.loads(line))["event"]]
    assert set(labels(finished, "label")) == set(planned)
    (record,) = map(json.loads, mbuild("history", "--format", "json").stdout.splitlines())
    assert set(labels(record["steps"], "label")) == set(planned)
    assert {"system", "license", "config for Q4_0", "config for Q8_0"} <= set(planned)


def test_one_quantization_needs_no_label(mbuild: Run) -> None:
    """A single variant's steps are called as ever."""
    shown = mbuild("plan", "-t", "m", "-q", "q4_0").stdout
    assert re.search(r"^maybe    config$", shown, re.MULTILINE)
    assert " for Q4_0" not in shown


def test_variants_are_those_that_are_built_alone(mbuild: Run) -> None:
    """Steps that are shared change no result: the ids are those of separate builds."""
    assert mbuild(*TWO).returncode == 0
    assert mbuild("-t", "alone", "-q", "q8_0", "--no-cache").returncode == 0
    rows = {row["name"]: row["id"] for row in json.loads(mbuild("list", "--format", "json").stdout)}
    assert rows["alone:latest"] == rows["m:q8_0"] != rows["m:q4_0"]


def test_the_end_says_names_and_sizes(mbuild: Run) -> None:
    """Each model's, also in a log."""
    lines = mbuild(*TWO).stderr.splitlines()
    models = [line for line in lines if line.startswith("model ")]
    assert [re.sub("[0-9a-f]{12}", "ID", line) for line in models] == [
        "model m:q4_0  ID  801 KB",
        "model m:q8_0  ID  1.5 MB",
    ]


def test_the_name_that_variants_leave_behind_is_told(mbuild: Run, project: Path) -> None:
    """``m:latest`` of an earlier build is not what was built now; if it is, nothing is said."""
    assert mbuild("-t", "m").returncode == 0
    (project / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Luigi.\n")
    said = mbuild(*TWO).stderr
    assert "warning: m:latest was not rebuilt" in said
    assert mbuild("cp", "m:q4_0", "m").returncode == 0
    assert "was not rebuilt" not in mbuild(*TWO).stderr
    assert mbuild("rm", "m").returncode == 0
    assert "was not rebuilt" not in mbuild(*TWO).stderr


def test_a_tag_that_variants_leave_behind_is_told(mbuild: Run) -> None:
    """The same of a tag that got the type behind it: ``m:v2`` beside ``m:v2-q4_0``."""
    assert mbuild("-t", "m:v2").returncode == 0
    assert "m:v2 was not rebuilt" in mbuild("-t", "m:v2", *TWO[2:]).stderr


def test_a_model_names_its_last_build(mbuild: Run) -> None:
    """In history, report and graph; with a tag that very model, without one any of its tags."""
    assert mbuild("-t", "m").returncode == 0
    assert mbuild("-t", "other").returncode == 0
    assert mbuild("-t", "m", "-q", "q4_0").returncode == 0
    ids = [
        json.loads(line)["id"] for line in mbuild("history", "--format", "json").stdout.splitlines()
    ]
    last, other, _ = ids
    for name in ("m", "m:latest", "M", "library/m"):
        assert json.loads(mbuild("history", name, "--format", "json").stdout)["id"] == last
    assert json.loads(mbuild("history", "other", "--format", "json").stdout)["id"] == other
    assert f"build {other}" in mbuild("report", "other", "-o", "-").stdout
    past = mbuild("graph", "--build", "other", "--format", "dot").stdout
    assert past == mbuild("graph", "--build", other, "--format", "dot").stdout
    assert mbuild("-t", "v", *TWO[2:]).returncode == 0
    assert "v:q4_0" in mbuild("history", "v").stdout
    unknown = mbuild("history", "nope")
    assert unknown.returncode == 1
    assert "no build of a model with that name" in unknown.stderr


def test_the_first_of_a_variant_is_compared_with_its_modelfile(mbuild: Run) -> None:
    """In words: now quantized, not a kind of step that became another, nothing gone and new."""
    assert mbuild("-t", "m").returncode == 0
    said = mbuild("-t", "m:q4_0", "-q", "q4_0").stderr
    assert "ran quantize chat to Q4_0, detect template: now quantized (-q)" in said
    assert re.search(r"^ran config: weights \w{12} -> \w{12}$", said, re.MULTILINE)
    assert "is gone" not in said
    assert "is new" not in said


def test_what_was_empty_is_not_gone(mbuild: Run, project: Path) -> None:
    """A first PARAMETER or PARSER is new, and nothing ``{}`` or ``none`` is spoken of."""
    assert mbuild("-t", "m").returncode == 0
    (project / "Modelfile").write_text(
        "FROM ./chat\nSYSTEM You are Mario.\nLICENSE MIT\nPARSER qwen3\nPARAMETER top_k 5\n"
    )
    said = mbuild("-t", "m").stderr
    assert "ran config: parser qwen3 is new" in said
    assert "ran params: parameter top_k 5 is new" in said
    assert "{}" not in said
    assert "nothing" not in said


def test_json_has_one_spelling_and_the_old_one_works(mbuild: Run) -> None:
    """``--format json`` everywhere; ``--json`` is still taken, and no help speaks of it."""
    assert mbuild("-t", "m").returncode == 0
    for line in (("list",), ("show", "m"), ("show", "m", "--tensors")):
        new = mbuild(*line, "--format", "json").stdout
        assert json.loads(new)
        assert mbuild(*line, "--json").stdout == new
    assert "--json" not in mbuild("list", "--help").stdout + mbuild("show", "--help").stdout


def test_quantizations_are_exported_side_by_side(mbuild: Run, project: Path) -> None:
    """One folder, as repositories have it: each with its weights and its Modelfile, texts once."""
    assert mbuild(*TWO).returncode == 0
    for name in ("m:q4_0", "m:q8_0"):
        done = mbuild("export", name, "-o", "hub/")
        assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (project / "hub").iterdir())
    assert [name for name in found if name.endswith((".gguf", "Modelfile"))] == [
        "Modelfile",
        "m-q4_0.gguf",
        "m-q8_0.Modelfile",
        "m-q8_0.gguf",
    ]
    assert "FROM ./m-q8_0.gguf" in (project / "hub" / "m-q8_0.Modelfile").read_text()
    assert "FROM ./m-q4_0.gguf" in (project / "hub" / "Modelfile").read_text()
    again = mbuild("export", "m:q8_0", "-o", "hub/")
    assert again.returncode == 1
    assert "hub/m-q8_0.gguf exists" in again.stderr


def test_another_system_prompt_is_not_written_over(mbuild: Run, project: Path) -> None:
    """Texts that differ are refused before weights are written."""
    assert mbuild("-t", "m").returncode == 0
    (project / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Luigi.\n")
    assert mbuild("-t", "n").returncode == 0
    assert mbuild("export", "m", "-o", "hub/").returncode == 0
    refused = mbuild("export", "n", "-o", "hub/")
    assert refused.returncode == 1
    assert "hub/system exists" in refused.stderr
    assert not (project / "hub" / "n.gguf").exists()


@pytest.mark.parametrize("output", ["foo.bin", "out/m.safetensors", "m.GGML"])
def test_a_name_like_a_files_is_no_folder(mbuild: Run, project: Path, output: str) -> None:
    """It is refused with the three forms, unless it is a folder or is written as one."""
    assert mbuild("-t", "m").returncode == 0
    done = mbuild("export", "m", "-o", output)
    assert done.returncode == 2
    assert f"for a folder of that name write {output}/" in done.stderr
    assert not (project / output).exists()
    assert mbuild("export", "m", "-o", f"{output}/").returncode == 0
    assert mbuild("export", "m", "-o", output, "--force").returncode == 0
    assert mbuild("export", "m", "-o", "llama-3.2").returncode == 0
