"""The folder of kept blobs by itself: what is kept, brought back, and given up first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mbuild.core.digest import Digest
from mbuild.store.database import Database
from mbuild.store.kept import Kept
from mbuild.store.records import MADE


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Nothing kept, beside an empty folder of blobs."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "private").mkdir()
    return Kept(
        tmp_path / "private/kept", tmp_path / "blobs", Database(tmp_path / "private/cache.db")
    )


def blob(kept: Kept, data: bytes) -> Digest:
    """A blob that is in the store, kept by nobody."""
    digest = Digest.of(data)
    path(kept, digest).write_bytes(data)
    return digest


def path(kept: Kept, digest: Digest) -> Path:
    """Where a blob lies in the store."""
    return kept.folder.parents[1] / "blobs" / digest.filename


def kept_blob(kept: Kept, data: bytes, changed: float = 0) -> Digest:
    """A blob that lost its name in the store and is kept."""
    digest = blob(kept, data)
    kept.add(digest)
    assert kept.release(digest)
    if changed:
        os.utime(kept.path(digest), (changed, changed))
    return digest


def test_a_kept_blob_is_a_second_name_and_no_copy(kept: Kept) -> None:
    """As long as it has its own name there is nothing to bring back and nothing to free."""
    digest = blob(kept, b"made")
    kept.add(digest)
    assert kept.path(digest).samefile(path(kept, digest))
    assert kept.links_to(digest, path(kept, digest).stat())
    assert list(kept) == [digest]
    assert kept.unnamed() == []
    assert kept.remove([digest]) == 0
    assert path(kept, digest).read_bytes() == b"made"


def test_a_released_blob_comes_back_whole(kept: Kept) -> None:
    """Only under its own size; what no step made is gone for good."""
    digest = kept_blob(kept, b"made")
    assert not path(kept, digest).exists()
    assert (kept.has(digest, 4), kept.has(digest, 5)) == (True, False)
    assert not kept.restore(digest, 5)
    assert kept.restore(digest, 4)
    assert path(kept, digest).read_bytes() == b"made"
    other = blob(kept, b"uploaded")
    assert not kept.release(other)
    assert not path(kept, other).exists()
    assert not kept.restore(other, 8)


def test_a_file_that_somebody_else_has_linked_is_not_kept(kept: Kept, tmp_path: Path) -> None:
    """It is theirs to edit."""
    digest = blob(kept, b"theirs")
    os.link(path(kept, digest), tmp_path / "model.gguf")
    kept.add(digest)
    assert list(kept) == []


def test_what_was_edited_through_another_name_is_not_brought_back(
    kept: Kept, tmp_path: Path
) -> None:
    """Its content counts only if its digest is right."""
    good, bad = kept_blob(kept, b"good"), kept_blob(kept, b"same")
    for digest in (good, bad):
        os.link(kept.path(digest), tmp_path / digest.short)
    (tmp_path / bad.short).write_bytes(b"SAME")
    assert kept.restore(good, 4)
    assert not kept.restore(bad, 4)
    assert not path(kept, bad).exists()


def test_a_made_blob_without_a_second_name_moves(kept: Kept, tmp_path: Path) -> None:
    """As on a file system without hard links: the cache knows that a step made it."""
    digest = blob(kept, b"made")
    database = Database(tmp_path / "private/cache.db")
    database.put(MADE, str(digest), True)
    database.flush()
    assert kept.release(digest)
    assert not path(kept, digest).exists()
    assert kept.path(digest).read_bytes() == b"made"


def test_the_longest_unused_go_first(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what is left fits the budget; the newest stays."""
    old = [kept_blob(kept, bytes([n]) * 100, changed=4e9 + n) for n in range(3)]
    assert [each.digest for each in kept.unnamed()] == old
    assert kept.size_of(old) == 300
    monkeypatch.setenv("MBUILD_KEEP", "150")
    assert kept.budget() == 150
    assert kept.trim() == 200
    assert [each.digest for each in kept.unnamed()] == old[2:]


def test_nothing_is_looked_at_where_nothing_was_touched(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that kept nothing trims nothing, whatever the budget."""
    digest = kept_blob(kept, b"made")
    monkeypatch.setenv("MBUILD_KEEP", "0")
    untouched = Kept(kept.folder, kept.folder.parents[1] / "blobs", Database(Path("/nowhere")))
    assert untouched.trim() == 0
    assert list(kept) == [digest]
    assert kept.trim() == 4
    assert list(kept) == []


def test_a_copied_store_has_each_blob_once_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that was unpacked has two files of one blob: the kept one becomes a link."""
    monkeypatch.setenv("MBUILD_KEEP", "1000")
    digest = blob(kept, b"made")
    kept.add(digest)
    kept.path(digest).unlink()
    kept.path(digest).write_bytes(b"made")
    assert kept.trim() == 0
    assert kept.path(digest).samefile(path(kept, digest))


def test_blobs_that_have_both_names_are_not_looked_at(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimming a store with many models looks at the few files that have lost one."""
    monkeypatch.setenv("MBUILD_KEEP", "3")
    for number in range(50):
        kept.add(blob(kept, b"%d" % number))
    lost = kept_blob(kept, b"lost")
    looked, real = list[object](), os.lstat

    def lstat(path: Path, **options: Any) -> os.stat_result:
        looked.append(path)
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    assert kept.trim() == 4
    assert {Path(str(each)).name for each in looked} == {lost.filename, str(lost)}


def test_room_is_made_only_where_it_is_missing(kept: Kept) -> None:
    """A disk with room loses nothing; for more than there is all that is kept goes."""
    digest = kept_blob(kept, b"made")
    assert kept.make_room(1) == 0
    assert list(kept) == [digest]
    assert kept.make_room(1 << 62) == 4
    assert list(kept) == []
