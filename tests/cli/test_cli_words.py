"""Words that other tools taught people's fingers, unknown words, and where paths start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.cli.main import COMMANDS
from mbuild.cli.words import ALIASES, ELSEWHERE


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Modelfile and the GGUF file that it names."""
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    tiny_gguf(tmp_path / "model.gguf")
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, in the folder, on a store of its own."""
    return in_process(project, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        ("create", "mario", "-f", "Modelfile"),
        ("create", "-f", "Modelfile", "mario"),
        ("create", "mario"),
        ("--store", "other", "create", "mario"),
        ("buildx", "build", "-t", "mario"),
    ],
)
def test_create_builds_as_ollama_create_does(mbuild: Run, line: tuple[str, ...]) -> None:
    """The name comes first or last, and without -f it is the folder's Modelfile."""
    done = mbuild(*line)
    assert done.returncode == 0, done.stderr
    assert "built mario:latest in" in done.stderr


def test_create_without_a_name_asks_for_it(mbuild: Run) -> None:
    """An option's value is not taken for one."""
    done = mbuild("create", "-f", "Modelfile")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the model's name is missing" in done.stderr


def test_aliases_do_what_the_command_does(mbuild: Run) -> None:
    """List, copy, show and remove under Docker's and Ollama's names."""
    assert mbuild("-t", "mario").returncode == 0
    assert mbuild("tag", "mario", "luigi").returncode == 0
    listed = mbuild("list").stdout
    assert "luigi:latest" in listed
    assert mbuild("ls").stdout == mbuild("images").stdout == mbuild("image", "ls").stdout == listed
    assert mbuild("inspect", "luigi").stdout == mbuild("show", "luigi").stdout
    assert mbuild("rmi", "luigi").stdout.startswith("deleted 'luigi:latest'")
    assert mbuild("system", "df").stdout == mbuild("du").stdout


def test_help_and_version_are_words_too(mbuild: Run) -> None:
    """``help`` is ``--help``, of a command where one follows, under any of its names."""
    assert mbuild("help").stdout == mbuild("--help").stdout
    assert mbuild("help", "show").stdout == mbuild("show", "--help").stdout
    assert mbuild("help", "rmi").stdout == mbuild("rm", "--help").stdout
    assert mbuild("help", "create").stdout == mbuild("build", "--help").stdout
    assert mbuild("version").stdout == mbuild("--version").stdout
    unknown = mbuild("help", "shwo")
    assert unknown.returncode == 2
    assert "did you mean mbuild show?" in unknown.stderr


@pytest.mark.parametrize("words", ELSEWHERE, ids=" ".join)
def test_what_others_do_is_said_in_one_sentence(mbuild: Run, words: tuple[str, ...]) -> None:
    """Who does it, and what to type, with the name that was typed; nothing else happens."""
    for further in ((), ("mario",), ("--flag", "mario", "luigi")):
        done = mbuild(*words, *further)
        assert (done.returncode, done.stdout) == (2, "")
        error, hint = done.stderr.splitlines()
        assert error.startswith(f"error: {' '.join(words)}: ")
        assert hint.startswith("  hint: ")
        assert "{" not in hint
    assert not Path("store").exists()


def test_the_tables_name_commands_that_are_there() -> None:
    """An alias leads to a command; no command has another meaning as an alias."""
    assert {to[0] for to in ALIASES.values()} <= COMMANDS.keys()
    firsts = {words for words in (*ALIASES, *ELSEWHERE) if len(words) == 1}
    assert not {word for (word,) in firsts} & COMMANDS.keys()
    assert not ALIASES.keys() & ELSEWHERE.keys()


def test_a_word_of_two_needs_the_second(mbuild: Run) -> None:
    """``image`` alone, or with a word that Docker has and mbuild has not, names what there is."""
    for line in (("image",), ("image", "sign", "x")):
        done = mbuild(*line)
        assert done.returncode == 2
        assert f"unknown command '{' '.join(line[:2])}'" in done.stderr
        assert "image ls" in done.stderr


def test_a_folder_comes_before_a_word(mbuild: Run, project: Path) -> None:
    """A folder with a Modelfile is built, whatever it is called; a path is always a place."""
    (project / "images").mkdir()
    (project / "images" / "Modelfile").write_text("FROM ../model.gguf\n")
    assert "built images:latest in" in mbuild("images").stderr
    missing = mbuild("./ls")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ls: no such folder")
    (project / "empty").mkdir()
    assert "error: no Modelfile in empty" in mbuild("empty").stderr


def test_a_word_after_options_of_a_build_is_a_place(mbuild: Run) -> None:
    """``mbuild -t x ls`` is not about the command list."""
    done = mbuild("-t", "x", "ls")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ls: no such folder")


@pytest.mark.parametrize(
    ("file", "says"),
    [("Modelfile", "mbuild -f Modelfile"), ("model.gguf", "FROM ./model.gguf into a Modelfile")],
)
def test_a_file_in_place_of_a_folder(mbuild: Run, file: str, says: str) -> None:
    """It is said how to build from it, where a word or a path names it."""
    for line in ((file,), ("-t", "x", file), ("build", file)):
        done = mbuild(*line)
        assert done.returncode in (1, 2)
        assert "is a file, not a folder" in done.stderr
        assert says in done.stderr


# The Modelfile and the context.


@pytest.fixture
def personas(project: Path) -> Path:
    """A Modelfile in a folder of its own, and one folder more with another model."""
    (project / "personas").mkdir()
    (project / "personas" / "dev").write_text("FROM ./model.gguf\n")
    (project / "models").mkdir()
    tiny_gguf(project / "models" / "model.gguf")
    return project


def test_paths_start_from_a_context_that_is_given(mbuild: Run, personas: Path) -> None:
    """As docker build has it; without one from the Modelfile's folder, as ollama create has it."""
    alone = mbuild("-f", "personas/dev", "-t", "m")
    assert alone.returncode == 1
    assert "--> personas/dev:1:1" in alone.stderr
    for context in ("models", str(personas / "models"), "."):
        done = mbuild("-f", "personas/dev", "-t", "m", context)
        assert done.returncode == 0, done.stderr
    tiny_gguf(personas / "personas" / "model.gguf")
    assert mbuild("-f", "personas/dev", "-t", "m").returncode == 0


def test_a_context_that_is_not_there_is_an_error(mbuild: Run) -> None:
    """Also where -f names the Modelfile: a context is never void in silence."""
    done = mbuild("-f", "Modelfile", "-t", "x", "/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: /nonexistent: no such folder")


def test_a_dash_reads_standard_input(mbuild: Run, personas: Path) -> None:
    """As the context or after -f; with a context its paths start there. Two sources are wrong."""
    text = "FROM ./model.gguf\n"
    assert mbuild("-t", "x", "-", input=text).returncode == 0
    assert mbuild("-f", "-", "-t", "x", input=text).returncode == 0
    assert mbuild("-f", "-", "-t", "x", "models", input=text).returncode == 0
    both = mbuild("-f", "Modelfile", "-t", "x", "-", input=text)
    assert both.returncode == 2
    assert "not both" in both.stderr
    assert "standard input has no lock file" in mbuild("lock", "-", input=text).stderr


def test_a_missing_modelfile_is_named(mbuild: Run, project: Path) -> None:
    """In plain words, with the place."""
    assert mbuild("-f", "nope", "-t", "x").stderr.startswith("error: no such Modelfile: nope\n")
    (project / "Modelfile").unlink()
    assert mbuild("-t", "x").stderr.startswith("error: no Modelfile in the current folder\n")
