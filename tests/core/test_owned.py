"""Folders that are trusted because nobody else can have written there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mbuild.core import owned

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """A file is complete, for this user only, and replaced as a whole."""
    folder = tmp_path / "a" / "b"
    assert owned.read_own(folder, "x") is None
    for content in (b"one", b"two"):
        owned.write_own(folder, "x", content)
        assert owned.read_own(folder, "x") == content
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "x").stat().st_mode & 0o777 == 0o600


def test_links_and_shared_folders_are_passed_over(tmp_path: Path) -> None:
    """A link instead of the folder or of the file leads nowhere, and nothing is written there."""
    folder = tmp_path / "own"
    owned.write_own(folder, "x", b"one")
    (tmp_path / "link").symlink_to(folder)
    assert owned.read_own(tmp_path / "link", "x") is None
    (folder / "y").symlink_to(folder / "x")
    assert owned.read_own(folder, "y") is None
    folder.chmod(0o770)
    assert owned.read_own(folder, "x") is None
    owned.write_own(folder, "z", b"two")
    assert not (folder / "z").exists()
    with pytest.raises(PermissionError, match="the folder can be written by others"):
        owned.open_folder(folder)


def test_nothing_is_kept_where_files_have_no_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows nobody can tell who wrote there: nothing is read, and nothing fails."""
    owned.write_own(tmp_path / "own", "x", b"one")
    monkeypatch.delattr(os, "getuid")
    owned.write_own(tmp_path / "own", "y", b"two")
    assert owned.read_own(tmp_path / "own", "x") is None
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["x"]


def test_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$MBUILD_HOME comes before $XDG_CACHE_HOME, which comes before the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MBUILD_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert owned.kept_folder("k") == tmp_path / ".cache" / "mbuild" / "k"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert owned.kept_folder("k") == tmp_path / "xdg" / "mbuild" / "k"
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path / "home"))
    assert owned.kept_folder("k") == tmp_path / "home" / "k"
