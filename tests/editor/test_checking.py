"""What is wrong with a text while it is written, and which changes are offered."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mbuild.editor.checking import check_text, is_error, offers
from mbuild.editor.open_text import OpenText
from mbuild.editor.service import OpenDocument
from mbuild.language.instructions import Edit

HEAD = "# syntax=mbuild/1\n"


def nothing(path: Path) -> bytes | None:
    """No other file is open."""
    return None


def codes(text: str, folder: Path, models: frozenset[str] = frozenset()) -> list[str]:
    """The codes of what is wrong with a text."""
    path = folder / "Modelfile"
    found = check_text(OpenText(text), path, {}, nothing, lambda: models)
    return [each.problem.code for each in found.complaints]


def test_the_problems_are_those_of_check(tmp_path: Path) -> None:
    """In both languages, with what lies in the folder and the store."""
    (tmp_path / "words").touch()
    assert codes("FROM x\nSYSTEM words\n", tmp_path) == ["path-as-text"]
    text = f"{HEAD}FROM y AS mario\nFROM mario\n"
    assert codes(text, tmp_path) == []
    assert codes(text, tmp_path, frozenset({"mario:latest"})) == ["hidden-model"]
    assert codes("# syntax=mbuild/9\nFROM x\n", tmp_path) == ["unreadable"]


def test_a_long_text_is_marked_on_its_first_line(tmp_path: Path) -> None:
    """So that a template of a hundred lines is not underlined as a whole."""
    text = 'FROM x\nTEMPLATE """{{ .Nope }}\n{{ .Prompt }}"""\n'
    (found,) = check_text(OpenText(text), tmp_path / "m", {}, nothing).complaints
    assert text[found.start : found.end] == 'TEMPLATE """{{ .Nope }}'
    assert not is_error(found.problem)


def test_a_change_that_empties_a_line_takes_it_away(tmp_path: Path) -> None:
    """With its line end, in each of the three forms."""
    for end in ("\n", "\r\n", "\r"):
        reading = OpenText(f"FROM x{end}  PARAMETER mirostat 1 {end}SYSTEM a")
        found = check_text(reading, tmp_path / "m", {}, nothing).complaints
        (offer,) = offers(reading, found, 0, 99)
        text = reading.text
        changed = text[: offer.edit.start] + offer.edit.text + text[offer.edit.end :]
        assert changed == f"FROM x{end}SYSTEM a"
        assert offer.title == "Remove it"


def test_changes_are_offered_where_the_problem_is(tmp_path: Path) -> None:
    """And not for the problems of other lines."""
    reading = OpenText("FORM x\nSYSTM a\n")
    found = check_text(reading, tmp_path / "m", {}, nothing).complaints
    assert [offer.edit for offer in offers(reading, found, 8, 8)] == [Edit(7, 12, "SYSTEM")]
    assert [offer.title for offer in offers(reading, found, 0, 0)] == ["Write FROM"]


def test_a_document_that_lies_nowhere_has_a_folder() -> None:
    """An untitled text is taken for a Modelfile of the folder that the server runs in."""

    async def opened() -> OpenDocument:
        return OpenDocument("untitled:Untitled-1", "FROM x\n", 1, included=False)

    document = asyncio.run(opened())
    assert document.path == Path.cwd() / "Modelfile"
    assert not document.is_file
