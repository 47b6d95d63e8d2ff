"""What commands say of files that are not there, not what they are called, or not to be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.cli.common import write_file

HEAD = "# syntax=mbuild/1\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in a folder with a small model and a Modelfile of it."""
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\n")
    return in_process(tmp_path, monkeypatch)


def test_a_picture_is_what_its_file_is_called(mbuild: Run, tmp_path: Path) -> None:
    """The ending says the format; one that says another is refused, with the way to it."""
    for name, begins in (("a.svg", "<svg"), ("a.mmd", "flowchart"), ("a.dot", "digraph")):
        assert mbuild("graph", "-o", name).returncode == 0
        assert begins in (tmp_path / name).read_text()[:200]
    for arguments, hint in (
        (["-o", "a.png"], "mbuild graph --format dot | dot -Tpng makes a .png"),
        (["-o", "b.svg", "--format", "dot"], "name a file that ends so: .dot"),
    ):
        refused = mbuild("graph", *arguments)
        assert refused.returncode == 2 and hint in refused.stderr
    assert not (tmp_path / "a.png").exists() and not (tmp_path / "b.svg").exists()
    refused = mbuild("report", "-o", "r.pdf")
    assert refused.returncode == 2 and "the page is an HTML file" in refused.stderr


def test_an_output_replaces_its_like_only(mbuild: Run, tmp_path: Path) -> None:
    """A picture and a page go over earlier ones, and over nothing else."""
    assert mbuild("build", "-t", "mario").returncode == 0
    for command, name in (("graph", "a.svg"), ("report", "r.html")):
        for _ in range(2):
            assert mbuild(command, "-o", name).returncode == 0
        refused = mbuild(command, "-o", "Modelfile")
        assert (
            refused.returncode == 2 and "Modelfile exists and is something else" in refused.stderr
        )
        assert "hint: name another file" in refused.stderr
    assert (tmp_path / "Modelfile").read_text() == "FROM ./tiny.gguf\n"
    (tmp_path / "empty.svg").touch()
    assert mbuild("graph", "-o", "empty.svg").returncode == 0


def test_every_command_says_the_same_of_a_missing_modelfile(mbuild: Run, tmp_path: Path) -> None:
    """What lies there is offered, as a build does."""
    (tmp_path / "Modelfile").unlink()
    told = {mbuild(*command).stderr for command in (["build"], ["check"], ["fmt"], ["plan"])}
    assert len(told) == 1 and "no Modelfile in the current folder" in told.pop()


def test_a_missing_text_of_a_check_is_told_at_its_line(mbuild: Run, tmp_path: Path) -> None:
    """With the file and the line that names it."""
    (tmp_path / "Modelfile").write_text(
        f"{HEAD}FROM ./tiny.gguf\nCHECK perplexity < 9 TEXT none.txt\n"
    )
    refused = mbuild("plan", "-t", "m")
    assert refused.returncode == 1 and "none.txt" in refused.stderr
    assert "--> Modelfile:3:1" in refused.stderr


def test_a_push_to_a_place_names_the_model_that_is_meant(mbuild: Run) -> None:
    """Of a name with a host that the store does not have."""
    assert mbuild("build", "-t", "mario").returncode == 0
    refused = mbuild("push", "localhost:1/me/mario")
    assert refused.returncode == 1
    assert "mbuild push mario:latest localhost:1/me/mario:latest" in refused.stderr


def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the temporary one beside it, also where that cannot be removed either."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system", "temporary")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_file(tmp_path / "g.svg", "x")
    assert caught.value.filename == str(tmp_path / "g.svg")


def test_a_folder_in_the_place_of_an_archive_is_named(mbuild: Run) -> None:
    """Also the one in which the command runs."""
    assert mbuild("import", ".").stderr.startswith("error: . is a directory")


@pytest.mark.parametrize("command", [(), ("plan",), ("verify", "--rebuild")])
def test_one_modelfile_is_named_once(mbuild: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Of two the last one would be built, and nobody told; check reads as many as are named."""
    (tmp_path / "other").write_text("FROM ./tiny.gguf\nSYSTEM hi\n")
    refused = mbuild(*command, "-f", "Modelfile", "-f", "other")
    assert refused.returncode == 2
    assert "-f is there 2 times, for Modelfile and other" in refused.stderr
    assert not list(tmp_path.glob("**/manifests/*"))
    assert mbuild("check", "-f", "Modelfile", "-f", "other").returncode == 0
