"""Paths in prompts: what becomes an image, and what stays text."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.cli.looking import looked


@pytest.mark.parametrize(
    "written", ["{0}/a.png", '"{0}/a b.PNG"', "'{0}/a b.PNG'", "{1}/a\\ b.PNG", "{0}/c.d.jpeg"]
)
def test_a_path_is_a_file(tmp_path: Path, written: str) -> None:
    """Bare, in quotes, or with escaped blanks; it leaves the prompt and its bytes join it."""
    for name in ("a.png", "a b.PNG", "c.d.jpeg"):
        (tmp_path / name).write_bytes(name.encode())
    path = written.format(tmp_path, tmp_path)
    found = looked(f"What is {path}?", able=True)
    name = path.strip("\"'").rpartition("/")[2].replace("\\", "")
    assert found == ("What is ?", (name.encode(),), ())


def test_several_files_keep_their_order(tmp_path: Path) -> None:
    """As they stand in the prompt."""
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(name.encode())
    text = f"Compare {tmp_path}/y.png and {tmp_path}/x.png"
    assert looked(text, able=True).files == (b"y.png", b"x.png")


def test_what_stays_text_is_said(tmp_path: Path) -> None:
    """A path that is no file, and any file where a model cannot look; other words are no paths."""
    (tmp_path / "x.png").write_bytes(b"x")
    gone = f"Look at {tmp_path}/gone.png"
    assert looked(gone, able=True) == (gone, (), (f"there is no file {tmp_path}/gone.png: the "
                                                  "model gets these words",))  # fmt: skip
    blind = looked(f"Look at {tmp_path}/x.png", able=False)
    assert blind.text.endswith("x.png") and not blind.files
    assert blind.notes == (f"the model cannot look at {tmp_path}/x.png: it gets the path's words",)
    plain = "A .png file, an mp3 and e.g. 3.5 of them"
    assert looked(plain, able=True) == (plain, (), ())
