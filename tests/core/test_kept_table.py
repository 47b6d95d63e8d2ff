"""Tables that are kept: read again as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core import kept_table
from mbuild.core.kept_table import KeptTable

KEY = bytes(range(32))
TABLE = ["a", ("b", 1), {"c": (2, None)}]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and a folder for what a wheel carries."""
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kept_table, "CARRIED", tmp_path / "carried")
    return tmp_path


def test_it_is_read_as_it_was_kept(home: Path) -> None:
    """By its key; another key knows nothing of it."""
    table = KeptTable("things", KEY)
    assert table.read() is None
    table.keep(TABLE)
    assert table.read() == TABLE == KeptTable("things", KEY).read()
    assert KeptTable("things", KEY[::-1]).read() is None


def test_what_is_not_sound_counts_as_not_there(home: Path) -> None:
    """Cut off, changed anywhere, or that of another key under this one's name."""
    table = KeptTable("things", KEY)
    table.keep(TABLE)
    (path,) = (home / "home/things").iterdir()
    content = path.read_bytes()
    for broken in (b"", content[:20], content[:-1], content + b"x"):
        path.write_bytes(broken)
        assert table.read() is None
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert table.read() is None
    other = KeptTable("things", KEY[::-1])
    other.keep(TABLE)
    (home / "home/things" / other._name).replace(path)
    assert table.read() is None


def test_that_of_the_wheel_comes_first(home: Path) -> None:
    """Where it is sound; else the user's."""
    table = KeptTable("things", KEY)
    table.keep(["carried"])
    (path,) = (home / "home/things").iterdir()
    carried = home / "carried"
    carried.mkdir()
    path.replace(carried / path.name)
    table.keep(["own"])
    assert table.read() == ["carried"]
    (carried / path.name).write_bytes(b"damaged")
    assert table.read() == ["own"]


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing fails."""

    def unknown(name: str) -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.setattr(kept_table, "kept_folder", unknown)
    table = KeptTable("things", KEY)
    table.keep(TABLE)
    assert table.read() is None
