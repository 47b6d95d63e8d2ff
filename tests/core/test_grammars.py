"""Parsers whose tables are kept: the same as without, and made again when they are not sound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lark import Lark

from mbuild.core import grammars, kept_table
from mbuild.core.errors import MbuildError
from mbuild.core.kept_table import KeptTable
from mbuild.language import parser
from mbuild.templates import gotemplate

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "grammar" / "corpus"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are kept; no parser made before is used."""
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path / "home"))
    for made in (parser._plain, parser._grammar, gotemplate._lark):
        monkeypatch.setattr(sys.modules[made.__module__], made.__name__, made.__wrapped__)
    return tmp_path / "home" / "grammars"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was made of a grammar's text."""
    found: list[object] = []
    keep = KeptTable.keep

    def note(self: KeptTable, made: object) -> None:
        found.append(made)
        keep(self, made)

    monkeypatch.setattr(KeptTable, "keep", note)
    return found


def _results() -> list[str]:
    """What every Modelfile of the corpus and some templates come to."""
    found = []
    for path in sorted(CORPUS.rglob("*")):
        if path.is_file():
            found.append(_result(lambda path=path: parser.parse(path.read_bytes(), path.name)))
    for text in ("{{ .System }}{{ range .Messages }}{{ .Role }}{{ end }}", "{{ if }}", "{{ .A"):
        found.append(_result(lambda text=text: gotemplate.parse(text)))
    return found


def _result(read: object) -> str:
    try:
        return repr(read())  # type: ignore[operator]
    except (MbuildError, gotemplate.TemplateError) as error:
        return f"{error!r} {getattr(error, 'problems', '')}"


def test_tables_that_are_read_give_the_same_results(folder: Path, made: list[object]) -> None:
    """Every Modelfile of the corpus, good or bad, comes to the same with tables made and read."""
    first = _results()
    assert made and len(first) > 10
    assert sorted(path.suffix for path in folder.iterdir()) == [".tables", ".tables"]
    made.clear()
    assert _results() == first
    assert not made


def test_tables_are_the_same_each_time(folder: Path) -> None:
    """Lark's own are in the order of sets; what a wheel carries is to be reproducible."""
    code = "from mbuild.core import grammars; grammars.parser('modelfile.lark', lexer='contextual')"
    found = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        (entry,) = folder.iterdir()
        found.add(entry.read_bytes())
        entry.unlink()
    assert len(found) == 1


def test_tables_that_came_with_mbuild_are_read(
    folder: Path, made: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the wheel for Linux has them: nothing is made then, and nothing kept."""
    carried = tmp_path / "carried"
    subprocess.run([sys.executable, ROOT / "release/tables.py", carried], check=True)
    assert len([*carried.iterdir()]) == 5
    monkeypatch.setattr(kept_table, "CARRIED", carried)
    _results()
    assert not made and not folder.exists()
    for path in carried.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    _results()  # damaged ones are passed over: tables are made, kept and read
    assert made
    made.clear()
    _results()
    assert not made


def test_damaged_tables_are_made_again(folder: Path, made: list[object]) -> None:
    """A flipped bit or a cut file is noticed, and the next time tables are read again."""
    grammars.parser("modelfile.lark", lexer="contextual")
    (entry,) = folder.iterdir()
    content = entry.read_bytes()
    for broken in (content[:-1], content[:40], b"", content[:99] + b"\xff" + content[100:]):
        entry.write_bytes(broken)
        made.clear()
        grammars.parser("modelfile.lark", lexer="contextual")
        assert len(made) == 1
        grammars.parser("modelfile.lark", lexer="contextual")
        assert len(made) == 1


def test_a_lark_that_reads_no_tables_makes_them(
    folder: Path, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to read tables with a transformer is Lark's own, and another version may lack it."""
    grammars.parser("modelfile.lark", lexer="contextual")
    monkeypatch.delattr(Lark, "_load_from_dict")
    grammars.parser("modelfile.lark", lexer="contextual")
    assert len(made) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
def test_tables_that_others_can_write_are_not_read(folder: Path, made: list[object]) -> None:
    """A folder or a file that anybody can write is passed over."""
    for place, mode in ((folder, 0o777), (None, 0o666)):
        grammars.parser("modelfile.lark", lexer="contextual")
        (entry,) = folder.iterdir()
        (place or entry).chmod(mode)
        made.clear()
        grammars.parser("modelfile.lark", lexer="contextual")
        assert len(made) == 1
        folder.chmod(0o700)


def test_a_home_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[object]
) -> None:
    """Where nothing can be kept, the grammar is read each time."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path / "file"))
    grammars.parser("modelfile.lark", lexer="contextual")
    grammars.parser("modelfile.lark", lexer="contextual")
    assert len(made) == 2


def test_a_second_process_reads_what_the_first_one_made(folder: Path) -> None:
    """The grammar's text is not even compiled: the part of Lark that does so is not used."""
    code = (
        "from lark import Lark; from mbuild.core import grammars\n"
        "made = []; start = Lark.__init__\n"
        "Lark.__init__ = lambda self, *a, **k: (made.append(1), start(self, *a, **k))[1]\n"
        "grammars.parser('modelfile.lark', lexer='contextual'); print(len(made))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == ["1", "0"]
