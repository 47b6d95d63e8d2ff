"""``mbuild graph``: what is cached, what will run, and what ran."""

from __future__ import annotations

import json
import re
import xml.dom.minidom
from pathlib import Path

import pytest
from conftest import Run
from example_models import settle, write_chat
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.history import History
from mbuild.store import Store

MODELFILE = "FROM ./tiny.gguf\nSYSTEM You are {who}.\nPARAMETER temperature {heat}\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in a folder with a small model and a Modelfile of it."""
    tiny_gguf(tmp_path / "tiny.gguf")
    write(tmp_path)
    settle()
    return in_process(tmp_path, monkeypatch)


def write(folder: Path, who: str = "Mario", heat: str = "0.5") -> None:
    (folder / "Modelfile").write_text(MODELFILE.format(who=who, heat=heat))


def looks(run: Run, *arguments: str) -> dict[str, str]:
    """Each node's first line and the look that it has, from Mermaid's text."""
    done = run("graph", *arguments, "--format", "mermaid")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r'^  n\d+\W+"(.*?)(?:<br>.*)?"\W+:::(\w+)$', done.stdout, re.MULTILINE)
    return {label.replace("#58;", ":"): look for label, look in rows}


def last_build(folder: Path) -> str:
    return next(History(Store(folder / "store")).newest_first()).id


def test_before_the_first_build_everything_will_run(mbuild: Run) -> None:
    """Steps whose inputs are known will run, later ones depend on them; the file is the source."""
    assert looks(mbuild, "-t", "mario") == {
        "tiny.gguf": "given",
        "import tiny.gguf": "run",
        "config": "depends",
        "detect template": "depends",
        "system": "run",
        "params": "depends",
        "mario:latest": "depends",
    }


def test_an_edit_shows_which_steps_will_run(mbuild: Run, tmp_path: Path) -> None:
    """After a build all is cached; a changed SYSTEM runs that step, and the model depends on it."""
    mbuild("-t", "mario", "--quiet")
    assert set(looks(mbuild, "-t", "mario").values()) == {"given", "cached"}
    write(tmp_path, who="Luigi")
    found = looks(mbuild, "-t", "mario")
    assert [label for label, look in found.items() if look == "run"] == ["system"]
    assert [label for label, look in found.items() if look == "depends"] == ["mario:latest"]


def test_a_past_build_shows_what_ran_and_why(mbuild: Run, tmp_path: Path) -> None:
    """With --build the log speaks: times, sizes, and reasons in the boxes' titles."""
    mbuild("-t", "mario", "--quiet")
    write(tmp_path, heat="0.25")
    mbuild("-t", "mario", "--quiet")
    build = last_build(tmp_path)
    assert looks(mbuild, "--build", build)["params"] == "ran"
    assert looks(mbuild, "--build", build)["system"] == "cached"
    document = xml.dom.minidom.parseString(mbuild("graph", "--build", build[:10]).stdout)
    titles = [t.firstChild.data for t in document.getElementsByTagName("title")]  # type: ignore[union-attr]
    (params,) = (title for title in titles if title.startswith("params\n"))
    assert "because: parameter temperature 0.5 -> 0.25" in params


def test_variants_share_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quantizations of a checkpoint hang on one box; what they have in common is one too."""
    write_chat(tmp_path / "tiny-chat")
    (tmp_path / "Modelfile").write_text("FROM ./tiny-chat\nSYSTEM You are Mario.\n")
    run = in_process(tmp_path, monkeypatch)
    done = run("graph", "-q", "q4_K_M", "-q", "q8_0", "-q", "q6_K", "-t", "m", "--format", "dot")
    labels = dict(re.findall(r'(n\d+) \[label="(.*?)(?:\\n.*?)?"', done.stdout))
    edges = re.findall(r"(n\d+) -> (n\d+);", done.stdout)
    named = [(labels[start], labels[end]) for start, end in edges]
    for type_ in ("Q4_K_M", "Q8_0", "Q6_K"):
        assert ("tiny-chat", f"quantize tiny-chat to {type_}") in named
    assert list(labels.values()).count("tiny-chat") == 1
    assert sorted(end for start, end in named if start == "system") == [
        "m:q4_K_M",
        "m:q6_K",
        "m:q8_0",
    ]


def test_sources_of_one_name_in_two_folders_stay_two(mbuild: Run, tmp_path: Path) -> None:
    """Adapters are told apart by where they lie, not by what they are called."""
    for name, seed in ("a", 1), ("b", 2):
        (tmp_path / name).mkdir()
        tiny_gguf(tmp_path / name / "lora.gguf", kind="adapter", seed=seed)
    (tmp_path / "Modelfile").write_text(
        "FROM ./tiny.gguf\nADAPTER ./a/lora.gguf\nADAPTER ./b/lora.gguf\n"
    )
    done = mbuild("graph", "-t", "m", "--format", "mermaid")
    assert done.stdout.count('"lora.gguf<br>') == 2
    assert done.stdout.count('"import lora.gguf<br>') == 2


def test_a_failed_build_shows_where_it_stopped(mbuild: Run, tmp_path: Path) -> None:
    """The step that raised did not finish, those after it were not reached; both are told apart."""
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data[:-8])
    assert mbuild("-t", "mario").returncode == 1
    found = looks(mbuild, "--build", last_build(tmp_path))
    assert found["import tiny.gguf"] == "failed"
    assert found["mario:latest"] == found["config"] == "waited"


def test_a_build_without_steps_has_a_picture(mbuild: Run, tmp_path: Path) -> None:
    """A build that ended before its graph was known is a title and no boxes, in every format."""
    (tmp_path / "tiny.gguf").unlink()
    assert mbuild("-t", "mario").returncode == 1
    build = last_build(tmp_path)
    assert looks(mbuild, "--build", build) == {}
    document = xml.dom.minidom.parseString(mbuild("graph", "--build", build).stdout)
    texts = document.getElementsByTagName("text")  # one, or more where the time makes it long
    assert {text.getAttribute("class") for text in texts} == {"heading"}
    assert "failed in" in texts[0].firstChild.data  # type: ignore[union-attr]


def test_output_goes_to_a_file_or_to_standard_output(mbuild: Run, tmp_path: Path) -> None:
    """-o writes the very text that is printed without it; - is standard output."""
    printed = mbuild("graph", "-t", "m").stdout
    assert mbuild("graph", "-t", "m", "-o", "m.svg").stdout == ""
    assert (tmp_path / "m.svg").read_text() == printed
    assert mbuild("graph", "-t", "m", "-o", "-").stdout == printed
    assert sorted(path.name for path in tmp_path.iterdir() if "svg" in path.name) == ["m.svg"]
    missing = mbuild("graph", "-t", "m", "-o", "no/m.svg")
    assert missing.returncode == 1
    assert "no: there is no such folder" in missing.stderr


def test_wrong_usage_is_told(mbuild: Run) -> None:
    """An unknown build is not there; an unknown format is wrong usage."""
    unknown = mbuild("graph", "--build", "ffff")
    assert unknown.returncode == 1
    assert "no build 'ffff' in the history" in unknown.stderr
    assert mbuild("graph", "--format", "png").returncode == 2
    both = mbuild("graph", "--build", "ffff", "-q", "q8_0")
    assert both.returncode == 2
    assert "--build draws a past build: --quantize says what to build" in both.stderr
    folder = mbuild("graph", "--build", "ffff", "elsewhere")
    assert "[CONTEXT] says what to build" in folder.stderr


def test_drawing_writes_nothing(mbuild: Run, tmp_path: Path) -> None:
    """Neither a store nor a file appears where none was."""
    before = sorted(tmp_path.rglob("*"))
    assert mbuild("graph", "-t", "m").returncode == 0
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_the_history_keeps_what_steps_are_made_from(mbuild: Run, tmp_path: Path) -> None:
    """A record names each file with its place and size, and survives being written and read."""
    mbuild("-t", "mario", "--quiet")
    record = next(History(Store(tmp_path / "store")).newest_first())
    (material,) = record.steps[0].materials
    path = tmp_path / "tiny.gguf"
    assert material == ("tiny.gguf", str(path), path.stat().st_size)
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_model_of_the_store_is_a_source(mbuild: Run, tmp_path: Path) -> None:
    """What is built FROM another model hangs on that model."""
    mbuild("-t", "base", "--quiet")
    (tmp_path / "Modelfile").write_text("FROM base\nSYSTEM Hello.\n")
    assert looks(mbuild, "-t", "mario")["base:latest"] == "given"
