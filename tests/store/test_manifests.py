"""The folder of manifests by itself: names, spellings, what is replaced and what is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, NameNotFoundError, StoreError
from mbuild.core.names import ModelName
from mbuild.store import Layer, Manifest
from mbuild.store.manifest import CONFIG_TYPE
from mbuild.store.manifests import Manifests, StoredManifest
from mbuild.store.media import MODEL

NAME = ModelName.parse("mario")
MODEL_OF = Manifest(
    Layer(CONFIG_TYPE, Digest.of(b"{}"), 2), (Layer(MODEL, Digest.of(b"w"), 40, "base"),)
)


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    """An empty folder of manifests."""

    def prepare() -> None:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        (tmp_path / "manifests").mkdir(exist_ok=True)

    return Manifests(tmp_path / "manifests", tmp_path / "tmp", prepare)


def test_a_manifest_is_read_as_it_was_written(manifests: Manifests) -> None:
    """Under the four parts of its name; its id is the digest of the file's bytes."""
    data = MODEL_OF.encode()
    manifests.write(NAME, data)
    path = manifests.folder / "registry.ollama.ai/library/mario/latest"
    assert path.read_bytes() == data
    stored = manifests.read(NAME)
    assert stored == StoredManifest(NAME, Digest.of(data), MODEL_OF, path.stat().st_mtime_ns)
    assert stored.size == 42
    assert list(manifests.names()) == [NAME]


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (CONFIG_TYPE, "config"),
        (MODEL, "model"),
        ("application/vnd.docker.ai.model.config.v0.1+json", "config"),
        ("application/vnd.cncf.model.config.v1+json", "config"),
        ("application/vnd.docker.ai.gguf.v3", "gguf"),
        ("application/v1", "v1"),
    ],
)
def test_a_layer_is_called_by_a_word_that_is_no_version(media_type: str, kind: str) -> None:
    """Whatever parts the version has."""
    assert Layer(media_type, Digest.of(b""), 0).kind == kind


def test_a_new_manifest_takes_the_place_of_the_old_one(
    manifests: Manifests, tmp_path: Path
) -> None:
    """Whoever has the old file open reads it to its end; nothing is left beside."""
    manifests.write(NAME, b"old")
    with (manifests.folder.joinpath(*NAME.parts)).open("rb") as reader:
        manifests.write(NAME, b"new")
        assert reader.read() == b"old"
    assert manifests.read_bytes(NAME) == b"new"
    assert os.listdir(tmp_path / "tmp") == []


def test_a_name_that_is_not_there(manifests: Manifests) -> None:
    """Reading says so, asking for bytes gives none, removing is no error."""
    with pytest.raises(NameNotFoundError, match="'mario:latest' not found"):
        manifests.read(NAME)
    assert manifests.read_bytes(NAME) is None
    manifests.remove(NAME)
    assert list(manifests.names()) == []


def test_a_manifest_that_is_none_is_damage(manifests: Manifests) -> None:
    """The error names the model; the bytes can still be had."""
    manifests.write(NAME, b"{}")
    with pytest.raises(DamagedError, match="the manifest of mario:latest"):
        manifests.read(NAME)
    assert manifests.read_bytes(NAME) == b"{}"


def test_removing_takes_the_folders_that_are_left_empty(manifests: Manifests) -> None:
    """Up to the host's; a folder with another model stays, and so does the whole folder."""
    other = ModelName.parse("mario:q4")
    for name in (NAME, other):
        manifests.write(name, MODEL_OF.encode())
    manifests.remove(NAME)
    assert list(manifests.names()) == [other]
    manifests.remove(other)
    assert os.listdir(manifests.folder) == []


def test_names_that_differ_in_case_are_one_model(manifests: Manifests) -> None:
    """The stored spelling counts, wherever in the name it differs."""
    manifests.write(ModelName.parse("Mario/Chat:Big"), MODEL_OF.encode())
    for text in ("mario/chat:big", "MARIO/Chat:Big", "Mario/Chat:Big"):
        assert str(manifests.resolve(ModelName.parse(text))) == "Mario/Chat:Big"
        assert str(manifests.read(ModelName.parse(text)).name) == "Mario/Chat:Big"
    absent = ModelName.parse("mario/other:Big")
    assert str(manifests.resolve(absent)) == "Mario/other:Big"


def test_of_two_spellings_each_is_itself(manifests: Manifests) -> None:
    """On a file system that tells them apart, where an older Ollama wrote both."""
    if manifests.folds_case:
        pytest.skip("this file system takes them for one")
    for text in ("chat:A", "chat:a"):
        manifests.write(ModelName.parse(text), MODEL_OF.encode())
        assert str(manifests.resolve(ModelName.parse(text))) == text


def test_what_cannot_be_a_models_name_is_not_listed(manifests: Manifests) -> None:
    """Files of other depths, and names with characters that none has."""
    manifests.write(NAME, MODEL_OF.encode())
    folder = manifests.folder.joinpath(*NAME.parts[:3])
    (folder / "bad name!").write_text("x")
    (folder / "folder").mkdir()
    (manifests.folder / "notes.txt").write_text("x")
    assert list(manifests.names()) == [NAME]


def test_a_link_that_leads_nowhere_is_told(manifests: Manifests, tmp_path: Path) -> None:
    """Of a manifest as damage, of the folder by ``unlisted``: it may hold any model."""
    manifests.write(NAME, MODEL_OF.encode())
    path = manifests.folder.joinpath(*NAME.parts)
    path.unlink()
    path.symlink_to(tmp_path / "drive")
    with pytest.raises(DamagedError, match="the manifest of mario:latest"):
        manifests.read(NAME)
    (tmp_path / "link").symlink_to(tmp_path / "drive")
    elsewhere = Manifests(tmp_path / "link", tmp_path / "tmp", lambda: None)
    told: list[StoreError] = []
    assert list(elsewhere.names(told.append)) == []
    assert len(told) == 1
    assert str(tmp_path / "link") in told[0].message
