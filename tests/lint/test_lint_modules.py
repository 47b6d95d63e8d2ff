"""The parts of lint by themselves: each looks at one thing and warns of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild import lint
from mbuild.language.instructions import From, Modelfile, Severity
from mbuild.language.parser import parse
from mbuild.language.span import Span
from mbuild.lint import content, edits, neighbours, paths, remedies, templates


def _modelfile(text: str) -> Modelfile:
    return parse(text.encode(), "Modelfile")


def test_every_rule_of_the_parts_is_run() -> None:
    """A rule that is written in a part's table is in the whole table too."""
    assert {*neighbours.RULES, *content.RULES, templates.check} <= set(lint.RULES)
    assert len(set(lint.RULES)) == len(lint.RULES)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("FROM a\nFROM b\n", "hidden-from"),
        ("FROM a\nSYSTEM one\nSYSTEM two\n", "hidden"),
        ("FROM a\nTEMPLATE {{ .Prompt\n", "template"),
    ],
)
def test_what_is_wrong_has_a_code(lines: str, code: str) -> None:
    """Each problem of a Modelfile has a code that begins like this, and a place."""
    found = lint.check_instructions(_modelfile(lines))
    assert any(problem.code.startswith(code) for problem in found), [p.code for p in found]
    assert all(problem.span is not None for problem in found)


@pytest.mark.parametrize(("value", "expected"), [("./a.gguf", True), ("mario", False)])
def test_from_may_name_a_file(value: str, expected: bool) -> None:
    """Files add up where names do not, so lint has to tell them apart without looking."""
    item = _modelfile(f"FROM {value}\n").last(From)
    assert neighbours.may_be_file(item) is expected


def test_an_instruction_is_called_by_its_words() -> None:
    """A parameter by its name, a message by its role, others by their word."""
    modelfile = _modelfile("FROM a\nPARAMETER top_k 1\nMESSAGE user hi\n")
    titles = [content.title_of(item) for item in modelfile.instructions]
    assert titles == ["FROM", "PARAMETER top_k", "MESSAGE user"]


@pytest.mark.parametrize(("value", "warned"), [("0.9", False), ("1", False), ("2", True)])
def test_a_value_outside_the_useful_range_is_told(value: str, warned: bool) -> None:
    """Both ends of a range still mean something; what lies beyond builds, with a warning."""
    found = lint.check_instructions(_modelfile(f"FROM a\nPARAMETER top_p {value}\n"))
    assert bool(found) is warned
    assert all(problem.severity is Severity.WARNING for problem in found)


def test_a_text_that_is_a_files_name_is_told(tmp_path: Path) -> None:
    """SYSTEM with the name of a file that lies there has the name as its text: a warning."""
    modelfile = _modelfile("FROM a\nSYSTEM prompt\n")
    assert paths.check(modelfile, tmp_path) == []
    (tmp_path / "prompt").write_text("You are Mario.")
    (problem,) = paths.check(modelfile, tmp_path)
    assert problem.severity is Severity.WARNING
    assert "prompt" in problem.message


def test_a_name_and_a_file_together_are_told(tmp_path: Path) -> None:
    """A build refuses a model's name beside files, so lint says it before."""
    (tmp_path / "a.gguf").touch()
    found = paths.check(_modelfile("FROM mario\nFROM ./a.gguf\n"), tmp_path)
    assert [problem.code for problem in found] == [paths.NAME_AND_FILE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", True),
        ("{{ range .Messages }}{{ .Content }}{{ end }}", False),
    ],
)
def test_chat_templates_of_hugging_face_are_recognised(text: str, expected: bool) -> None:
    """Jinja in TEMPLATE is the wrong language."""
    assert templates.is_jinja(text) is expected


def test_a_path_that_leads_nowhere_finds_its_neighbour(tmp_path: Path) -> None:
    """The nearest name in the folder is asked about; a folder that is not there is named."""
    (tmp_path / "tiny.gguf").touch()
    assert remedies.missing(tmp_path, "Tiny.ggf") == "did you mean tiny.gguf?"
    assert remedies.missing(tmp_path, "zzz") == ""
    assert "nowhere" in remedies.missing(tmp_path, "nowhere/tiny.gguf")
    assert remedies.entries(tmp_path) == ["tiny.gguf"]
    assert remedies.entries(tmp_path / "nowhere") is None


def test_a_folder_with_weights_holds_a_model(tmp_path: Path) -> None:
    """An empty folder holds none, one inside that does is offered."""
    assert not remedies.holds_model(tmp_path)
    inside = tmp_path / "llama"
    inside.mkdir()
    (inside / "config.json").write_text("{}")
    (inside / "model.safetensors").touch()
    assert remedies.holds_model(inside)
    assert remedies.inside(tmp_path, "./models") == "did you mean FROM ./models/llama?"


def test_a_change_is_offered_only_where_a_value_can_be_written() -> None:
    """A text with a line that ends in three quotes has no form; nothing has no place."""
    span = Span(1, 1, 0, 10, 7)
    assert edits.instead_of_value(span, "a b") == (7, 10, "a b")
    assert edits.instead_of_value(span, " a") == (7, 10, '" a"')
    assert edits.instead_of_value(span, 'a"""\nb') is None
    assert edits.without_line(span) == (0, 10, "")
    assert edits.instead_of_value(None, "a") is edits.without_line(None) is None
