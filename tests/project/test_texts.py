"""Sentences are for people: nothing decides by them, and the list of them is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import DOCS, generate
from inprocess import in_process
from texts_read import decisions

import mbuild
from mbuild.build.reasons import NOTES
from mbuild.cli.wording import STATUSES
from mbuild.core.events import Cause, Code

ROOT = Path(mbuild.__file__).parent

FOREIGN = {("server/requests.py", "str(error).partition(';')")}
"""Words of Python's own that are shortened for a client."""


def front_ends() -> list[Path]:
    """What shows events, explanations and errors, and what builds and compares."""
    folders = [ROOT / name for name in ("cli", "server", "view", "lint", "build", "models")]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_no_front_end_decides_by_a_text() -> None:
    """No label, sentence, reason or message is compared, searched or taken apart."""
    files = front_ends()
    assert len(files) > 60
    found = {
        (path.relative_to(ROOT).as_posix(), decision.code)
        for path in files
        for decision in decisions(path.read_text(encoding="utf-8"))
    }
    assert found == FOREIGN


DECIDING = [
    'def f(event):\n    match event:\n        case Warned(text) if text.startswith("x"):\n'
    "            return 1",
    "def f(event):\n    match event:\n        case StepFinished(kind=k, label=what):\n"
    '            return what.partition(" ")[2]',
    "def f(event):\n    return last(event.label)\n\ndef last(words):\n"
    '    return words.rpartition(" ")[2]',
    'def f(why):\n    return [c for c in why.texts() if "version" in c]',
    'def f(why):\n    return why.note == "new step"',
    "def f(step, first):\n    return step.reasons != (first,)",
    "def f(changes):\n    for change in changes:\n        if str(change).startswith('mbuild'):\n"
    "            return change",
    "def f(event, said):\n    text = event.text\n    return text in said",
    "def f(event, table):\n    return table[event.label]",
    "def f(event, table):\n    return table.get(event.label)",
    'import re\n\ndef f(error):\n    return re.match("no such", error.message)',
    'def f(event):\n    match event.label:\n        case "config":\n            return 1',
    'async def f(event):\n    return printable(event.label).lower() == "config"',
    "class C:\n    def f(self, event):\n        self.g(event.label)\n\n    def g(self, what):\n"
    '        return what.split(" ")',
]
"""Code that decides by a text, one way each."""

SHOWING = [
    'def f(event):\n    return f"{event.label}: done"',
    "def f(event):\n    return event.text[:40] if event.text else None",
    "def f(event):\n    return event.kind == 'import' and event.code in (1, 2)",
    "def f(change):\n    return change.note is None",
    "def f(step):\n    return len(step.label) > 40",
    'def f(event):\n    match event:\n        case Warned(text):\n            return "x: " + text',
]
"""Code that does not."""


@pytest.mark.parametrize("source", DECIDING)
def test_the_check_sees_a_decision(source: str) -> None:
    """Each way to decide by a text is found."""
    assert decisions(source)


@pytest.mark.parametrize("source", SHOWING)
def test_the_check_lets_texts_be_shown(source: str) -> None:
    """Showing, measuring and asking whether there is a text are no decisions."""
    assert decisions(source) == []


def test_every_sentence_is_listed() -> None:
    """Each error and warning has words in docs/messages.md; what has none only hands one on."""
    sentences = generate().sentences
    found = sentences.found()
    assert found.handed_on == sentences.HANDED_ON
    assert {message.kind for message in found.messages} == {
        *("error", "warning", "problem", "status", "label", "reason")
    }


def test_every_code_has_a_sentence_and_is_documented() -> None:
    """Each status and each cause has its words, and its row in the documentation."""
    assert STATUSES.keys() == set(Code)
    assert NOTES.keys() | {Cause.STEP, Cause.VERSION} == set(Cause)
    for page, codes in (("progress.md", list(Code)), ("explain.md", list(Cause))):
        text = (DOCS / page).read_text(encoding="utf-8")
        assert [code for code in codes if f"`{code.value}`" not in text] == []


PRINTED = [
    ("-f", "none"),
    ("plan", "-t", "a b c"),
    ("show", "nothing"),
    ("history", "zzzz"),
    ("-f", "bad"),
    ("-f", "gguf"),
    ("disk",),
    ("verify", "--rebuild"),
    ("prune", "--older", "x"),
    ("-f", "good", "-q", "Q9"),
]
"""Command lines that are wrong, one kind of error each."""


def test_what_is_printed_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the program prints is one of docs/messages.md, with values in their places."""
    run = in_process(tmp_path, monkeypatch)
    (tmp_path / "bad").write_text("FROM ./none.gguf\n")
    (tmp_path / "gguf").write_text("FROM ./short.gguf\n")
    (tmp_path / "good").write_text("FROM ./short.gguf\n")
    (tmp_path / "short.gguf").write_bytes(b"GGUF\3\0\0\0")
    page = (DOCS / "messages.md").read_text(encoding="utf-8")
    listed = [
        re.sub(r"\\(.)", r"\1", line.partition(": ")[2])
        for line in page.splitlines()
        if line.startswith(("- error: ", "- problem: "))
    ]
    for arguments in PRINTED:
        done = run(*arguments)
        assert done.returncode in (1, 2), arguments
        said = next(line for line in done.stderr.splitlines() if "rror: " in line)
        assert any(_fits(text, said) for text in listed), said
    assert not any(_fits(text, "error: nobody ever says this of x.gguf: y") for text in listed)


def _fits(template: str, line: str) -> bool:
    """Whether a line ends with a message of the list, apart from its values."""
    parts = re.split(r"\{[^{}]*\}|\[[^\[\]]*\|[^\[\]]*\]", template)
    pattern = ".*".join(map(re.escape, parts))
    return len("".join(parts)) > 8 and re.search(f"{pattern}$", line) is not None
