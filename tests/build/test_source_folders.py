"""What the GGUF files of a folder are, and which blob a path means."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.build.sources.folders import (
    ADAPTER,
    MODEL,
    PROJECTOR,
    blob_path,
    choose_ggufs,
    kind_of,
    whole_files,
)
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import FormatError, SourceError
from mbuild.store import Store
from mbuild.store.records import GGUF_KIND


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def source(path: Path, digest: Digest | None = None) -> SourceFile:
    """A file as a front end gives it."""
    return SourceFile(path.name, path, FileStamp.of(path.stat()), digest)


@pytest.mark.parametrize("kind", [MODEL, PROJECTOR, ADAPTER])
def test_the_header_tells_what_a_file_is(store: Store, tmp_path: Path, kind: str) -> None:
    """Whatever it is called."""
    path = tiny_gguf(tmp_path / "mmproj-adapter.gguf", kind=kind)
    assert kind_of(source(path), store) == kind


def test_a_header_is_read_once_for_each_content(store: Store, tmp_path: Path) -> None:
    """The cache remembers it by the digest; a file without one is read each time."""
    path = tiny_gguf(tmp_path / "a.gguf", kind="adapter")
    digest = Digest.of(b"its content", BLAKE3)
    assert kind_of(source(path, digest), store) == ADAPTER
    assert store.cache.get(GGUF_KIND, str(digest)) == ADAPTER
    tiny_gguf(path, kind="model")
    assert kind_of(source(path, digest), store) == ADAPTER
    assert kind_of(source(path), store) == MODEL


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.gguf", MODEL), ("mmproj-a.gguf", PROJECTOR), ("A-MMPROJ.gguf", PROJECTOR)],
)
def test_of_an_unreadable_file_the_name_tells(
    store: Store, tmp_path: Path, name: str, kind: str
) -> None:
    """And nothing is remembered: the build says what is wrong with it."""
    path = tmp_path / name
    path.write_bytes(b"GGUF, but no more")
    digest = Digest.of(b"its content", BLAKE3)
    assert kind_of(source(path, digest), store) == kind
    assert store.cache.get(GGUF_KIND, str(digest)) is None


def test_the_first_shard_stands_for_the_others() -> None:
    """Files that are no shards stay, in their order."""
    names = ["b-00002-of-00002.gguf", "b-00001-of-00002.gguf", "a.gguf", "c-1-of-2.gguf"]
    assert whole_files(names) == ["b-00001-of-00002.gguf", "a.gguf", "c-1-of-2.gguf"]


def choose(kinds: dict[str, str], wanted: str) -> tuple[str, tuple[str, ...]]:
    return choose_ggufs("folder", list(kinds), kinds.__getitem__, wanted)


@pytest.mark.parametrize(
    ("kinds", "wanted", "chosen"),
    [
        ({"a": MODEL, "p": PROJECTOR, "q": PROJECTOR}, MODEL, ("a", ("p", "q"))),
        ({"a": MODEL, "l": ADAPTER}, ADAPTER, ("l", ())),
    ],
)
def test_one_of_several_is_wanted(
    kinds: dict[str, str], wanted: str, chosen: tuple[str, tuple[str, ...]]
) -> None:
    """With its projectors."""
    assert choose(kinds, wanted) == chosen


def test_a_single_file_is_not_looked_at() -> None:
    """Whatever is in it: the step that reads it says so."""

    def never(name: str) -> str:
        raise AssertionError(name)

    assert choose_ggufs("folder", ["a"], never, MODEL) == ("a", ())


@pytest.mark.parametrize(
    ("kinds", "wanted", "told"),
    [
        ({"a": MODEL, "b": MODEL}, MODEL, "folder holds 2 models: a (model), b (model)"),
        ({"p": PROJECTOR, "q": PROJECTOR}, MODEL, "folder holds no models: p (pr"),
        ({"a": MODEL, "p": PROJECTOR}, ADAPTER, "folder holds no adapters: a (model), p"),
        ({"a": MODEL, "l": ADAPTER}, MODEL, "folder holds the model a and the adapter l"),
    ],
)
def test_what_is_not_clear_is_refused(kinds: dict[str, str], wanted: str, told: str) -> None:
    """Each file is named with what it is."""
    with pytest.raises(SourceError) as caught:
        choose(kinds, wanted)
    assert caught.value.message.startswith(told)
    assert caught.value.hint


def test_a_digest_leads_to_the_blob_wherever_it_lies(store: Store, tmp_path: Path) -> None:
    """In both spellings, and from the path of another machine's store."""
    digest = store.blobs.put(b"weights").digest
    blob = store.blobs.path(digest)
    assert blob_path(f"@{digest}", tmp_path / f"@{digest}", store) == blob
    for name in (digest.filename, str(digest)):
        far = Path("/far/store/blobs") / name
        assert blob_path(str(far), far, store) == blob
    near = tmp_path / str(digest)
    near.write_bytes(b"weights")
    wanted = tmp_path / digest.filename
    assert blob_path(str(wanted), wanted, store) == near


def test_any_other_path_stays(store: Store, tmp_path: Path) -> None:
    """One with a digest that is nowhere, too; only ``@`` has to be a digest."""
    for name in ("sha256.gguf", Digest.of(b"absent").filename):
        assert blob_path(name, tmp_path / name, store) == tmp_path / name
    with pytest.raises(FormatError, match="@sha256:12 is not a digest"):
        blob_path("@sha256:12", tmp_path / "@sha256:12", store)
