"""docs/modelfile.md is a reference: each instruction with its form, an example and its errors."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from documents import DOCS

from mbuild.core.errors import MissingFileError, ModelfileError
from mbuild.language.instructions import TYPES, Problem
from mbuild.language.stages.evaluate import Brought
from mbuild.language.stages.opening import SYNTAX_LINE
from mbuild.language.word_help import INSTRUCTIONS
from mbuild.lint import check
from mbuild.lint.stages import check_stages

PAGE = (DOCS / "modelfile.md").read_text(encoding="utf-8")
SCRIPTS = (DOCS / "scripts.md").read_text(encoding="utf-8")

_EXAMPLE = re.compile(r"^```dockerfile\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = "| written | what is said |\n|---|---|\n"


def sections() -> dict[str, str]:
    """The text below each heading; a comment in a block of code is none."""
    found: dict[str, str] = {}
    heading, inside = "", False
    for line in PAGE.splitlines(keepends=True):
        inside ^= line.startswith("```")
        if line.startswith("#") and not inside:
            heading = line.strip("# \n")
        else:
            found[heading] = found.get(heading, "") + line
    return found


def problems(text: str) -> list[Problem]:
    """Everything that ``check`` says of a file, without a folder to look into."""
    data = text.encode()
    try:
        if text.startswith(SYNTAX_LINE):
            return list(check_stages(data, "Modelfile", _bring).warnings)
        return list(check(data, "Modelfile")[1])
    except ModelfileError as error:
        return list(error.problems)


def _bring(includer: str, path: str) -> Brought:
    if "none" in path:
        raise MissingFileError(f"{path}: no such file", hint="name a file that is there")
    return Brought(path, b"ARG NAME=x JOB=y\nSYSTEM I am ${NAME}.\n")


def told() -> Iterator[tuple[str, str, str]]:
    """Heading, what is written, and what is said of it: the rows of the tables."""
    for heading, text in sections().items():
        _, found, rows = text.partition(_TABLE)
        for line in rows.splitlines() if found else ():
            if not line.startswith("| "):
                break
            cells = line.strip("| ").split(" | ")
            written = "\n".join(part.strip("`") for part in cells[0].split("<br>"))
            yield heading, written, cells[1]


@pytest.mark.parametrize("word", INSTRUCTIONS)
def test_each_instruction_has_a_section(word: str) -> None:
    """Its form as editors show it, a way to write it that ``check`` has nothing against, errors."""
    text = sections()[word]
    assert (
        text.startswith(f"\n```\n{INSTRUCTIONS[word].usage.splitlines()[0]}\n") or word == "CHECK"
    )
    examples = _EXAMPLE.findall(text)
    assert examples
    assert re.search(rf"^{word} ", "".join(examples), re.MULTILINE)
    assert _TABLE in text
    assert f"[`{word}`](#{word.lower()})" in PAGE


def test_every_example_is_right() -> None:
    """``check`` finds nothing in any of them, nor in those of docs/scripts.md."""
    examples = [each for page in (PAGE, SCRIPTS) for each in _EXAMPLE.findall(page)]
    assert len(examples) > len(INSTRUCTIONS)
    for example in examples:
        # What --build-arg gives, or INCLUDE.
        example = re.sub(r"^ARG (VERSION|NAME)$", r"ARG \1=1", example, flags=re.MULTILINE)
        if example.strip() == SYNTAX_LINE:
            continue
        if "FROM" not in example:  # what INCLUDE brings in
            example = f"{SYNTAX_LINE}\nFROM x\n{example}"
        assert problems(example) == [], example


@pytest.mark.parametrize(("heading", "written", "said"), list(told()))
def test_each_error_is_said(heading: str, written: str, said: str) -> None:
    """What the tables say of wrong lines is what ``check`` says of them."""
    plain = heading in TYPES or heading.startswith("The form")
    text = written if written.startswith(("FROM", "ARG A\n")) else f"FROM x\n{written}"
    if written.startswith("ARG A\n"):
        text = written.replace("\n", "\nFROM x\n", 1)
    found = problems(f"{text}\n" if plain else f"{SYNTAX_LINE}\n{text}\n")
    assert any(said in each.message for each in found), [each.message for each in found]
    assert all(each.suggestion for each in found if said in each.message)
