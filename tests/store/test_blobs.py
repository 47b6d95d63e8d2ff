"""The folder of blobs by itself: names, sizes, links, and what is in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DamagedError, FormatError, StoreError
from mbuild.store import Store
from mbuild.store.blobs import Blobs
from mbuild.store.copying import OpenFile
from mbuild.store.kept import Kept

WEIGHTS = b"weights"


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """An empty folder of blobs; nothing in it needs a database."""
    folder, temporary = tmp_path / "blobs", tmp_path / "private/tmp"

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        temporary.mkdir(parents=True, exist_ok=True)

    def kept() -> Kept:
        return Kept(tmp_path / "private/kept", folder, Store(tmp_path).database)

    prepare()
    return Blobs(folder, temporary, prepare, lambda size: None, kept)


def files(blobs: Blobs) -> list[str]:
    """What lies in the folder, and what was left under construction."""
    left = blobs.folder.parent / "private"
    return sorted([*os.listdir(blobs.folder), *(p.name for p in left.rglob("*") if p.is_file())])


def ingest(blobs: Blobs, path: Path, *, link: bool) -> tuple[Digest, bool, bool]:
    """Bring a file in; its digest, whether it existed, whether it is linked."""
    with OpenFile.open(path, path.name) as source:
        blob = blobs.ingest(source, link=link, progress=lambda done, total: None)
    assert blob.blake3 == Digest.of(path.read_bytes(), BLAKE3)
    return blob.digest, blob.existed, blob.linked


def test_a_blob_has_its_digest_for_a_name(blobs: Blobs) -> None:
    """``sha256-HEX`` in the folder, and nothing else beside it."""
    digest = blobs.put(WEIGHTS).digest
    assert blobs.path(digest) == blobs.folder / f"sha256-{digest.hex}"
    assert files(blobs) == [digest.filename]
    assert list(blobs) == [digest]


def test_the_old_spelling_is_found_too(blobs: Blobs) -> None:
    """``sha256:HEX``, as Ollama wrote it until April 2024; it is removed under that name, too."""
    digest = Digest.of(WEIGHTS)
    old = blobs.folder / str(digest)
    old.write_bytes(WEIGHTS)
    assert blobs.path(digest) == old
    assert blobs.size(digest) == len(WEIGHTS)
    assert blobs.read(digest, 100) == WEIGHTS
    assert list(blobs) == [digest]
    blobs.remove(digest)
    assert files(blobs) == []


@pytest.mark.parametrize("link", [True, False])
def test_a_file_comes_in_as_a_link_or_as_a_copy(blobs: Blobs, tmp_path: Path, link: bool) -> None:
    """A link is the user's own file; a copy is not; the second time nothing is made."""
    path = tmp_path / "model.gguf"
    path.write_bytes(WEIGHTS)
    digest = Digest.of(WEIGHTS)
    assert ingest(blobs, path, link=link) == (digest, False, link)
    assert path.samefile(blobs.path(digest)) is link
    assert ingest(blobs, path, link=link) == (digest, True, False)
    assert files(blobs) == [digest.filename]


def test_a_damaged_blob_is_replaced_by_a_link(blobs: Blobs, tmp_path: Path) -> None:
    """What has the name and another size is not the content."""
    path = tmp_path / "model.gguf"
    path.write_bytes(WEIGHTS)
    digest = Digest.of(WEIGHTS)
    (blobs.folder / digest.filename).write_bytes(b"cut")
    assert ingest(blobs, path, link=True) == (digest, False, True)
    assert blobs.read(digest, 100) == WEIGHTS


def test_a_file_that_changes_while_it_is_read_gives_no_blob(blobs: Blobs, tmp_path: Path) -> None:
    """It is refused, and nothing is left."""
    path = tmp_path / "model.gguf"
    path.write_bytes(WEIGHTS)

    def change(done: int, total: int) -> None:
        path.write_bytes(b"other, longer weights")

    with OpenFile.open(path, "model.gguf") as source, pytest.raises(FormatError, match="changed"):
        blobs.ingest(source, link=False, progress=change)
    assert files(blobs) == []


def test_a_file_of_another_size_is_not_published(blobs: Blobs) -> None:
    """A maker that wrote less than it says publishes nothing."""
    with blobs.temporary() as file, pytest.raises(FormatError, match="7 bytes written, not 8"):
        os.write(file.fd, WEIGHTS)
        blobs.publish(file, Digest.of(WEIGHTS), 8)
    assert files(blobs) == []


def test_an_empty_folder_in_place_of_a_blob_is_replaced(blobs: Blobs) -> None:
    """Something left it there; it is told as a stray until the blob comes."""
    digest = Digest.of(WEIGHTS)
    (blobs.folder / digest.filename).mkdir()
    assert [path.name for path, _ in blobs.strays()] == [digest.filename]
    assert list(blobs) == []
    assert blobs.size(digest) is None
    assert not blobs.put(WEIGHTS).existed
    assert list(blobs.strays()) == []
    assert blobs.read(digest, 100) == WEIGHTS


def test_a_link_to_nowhere_is_told_as_what_it_is(blobs: Blobs, tmp_path: Path) -> None:
    """The drive behind it is perhaps not there: that is not a damaged model."""
    digest = Digest.of(WEIGHTS)
    (blobs.folder / digest.filename).symlink_to(tmp_path / "drive" / "blob")
    with pytest.raises(StoreError) as caught:
        blobs.read(digest, 100)
    assert not isinstance(caught.value, DamagedError)
    assert str(tmp_path / "drive" / "blob") in caught.value.message
    assert [path.name for path, _ in blobs.strays()] == [digest.filename]


def test_what_has_no_digest_for_a_name_is_no_blob(blobs: Blobs) -> None:
    """It is neither listed nor a stray."""
    (blobs.folder / "notes.txt").write_text("x")
    (blobs.folder / "sha256-12").write_text("x")
    assert list(blobs) == []
    assert list(blobs.strays()) == []


def test_room_is_asked_for_before_anything_is_written(blobs: Blobs) -> None:
    """More than any disk has is refused with the amount, the folder, and what was asked for."""
    with pytest.raises(
        StoreError, match="will not fit on this disk: 4,611,686,018,427,387,904 bytes"
    ):
        blobs.check_room(1 << 62)
    for work in ("build", "pull"):
        with pytest.raises(StoreError) as caught:
            blobs.check_room(1 << 62, work)
        assert caught.value.message.startswith(f"the {work} will not fit on this disk: ")
        assert caught.value.message.endswith(f" bytes free in {blobs.folder}")
        assert f"free space on that disk, then {work} again" in caught.value.hint
    assert files(blobs) == []
