"""Archives' indexes, sides of a comparison, what lies in a store: each by itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, FormatError, StoreError, UnsupportedError
from mbuild.core.names import ModelName
from mbuild.models.artifacts import oci
from mbuild.models.artifacts.exporting import export
from mbuild.models.artifacts.importing import import_tar
from mbuild.models.artifacts.jobs import ExportForm, ExportOptions
from mbuild.models.compare.causes import causes
from mbuild.models.compare.models import diff
from mbuild.models.compare.sides import gguf_side, model_side
from mbuild.models.disk.inventory import LeftoverKind, take_inventory
from mbuild.models.disk.strays import free_name, is_removable, rename
from mbuild.store import Store


def test_an_index_is_read_as_it_was_written() -> None:
    """Digest, size and the whole name of each model come back."""
    name = ModelName.parse("mario:v2")
    (entry,) = oci.decode_index(oci.encode_index([(name, b"manifest")]), "index.json")
    assert entry.digest == Digest.of(b"manifest")
    assert entry.size == len(b"manifest")
    assert oci.parse_name(entry.name, "index.json") == name
    assert oci.blob_name(entry.digest) == f"blobs/sha256/{entry.digest.hex}"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([], FormatError),
        ({"manifests": []}, FormatError),
        ({"manifests": [{"digest": "sha256:x", "size": 1}]}, FormatError),
        ({"manifests": [{"digest": "sha256:" + "0" * 64, "size": True}]}, FormatError),
        (
            {"manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json"}]},
            UnsupportedError,
        ),
    ],
)
def test_an_index_that_is_none_is_refused(value: object, kind: type[Exception]) -> None:
    """Foreign and hostile indexes name what is wrong, and where."""
    with pytest.raises(kind, match="here"):
        oci.decode_index(json.dumps(value).encode(), "here")


def test_another_layout_is_refused() -> None:
    """Version 1 of the layout is read, with any minor number."""
    oci.check_layout(oci.LAYOUT, "oci-layout")
    oci.check_layout(b'{"imageLayoutVersion":"1.9.0"}', "oci-layout")
    with pytest.raises(UnsupportedError, match=r"2\.0\.0"):
        oci.check_layout(b'{"imageLayoutVersion":"2.0.0"}', "oci-layout")


def test_an_empty_object_is_no_model() -> None:
    """What parses but describes no model cannot be installed as an empty one."""
    with pytest.raises(FormatError):
        oci.decode_model(b"{}", "blob", lambda layer, limit: b"")


def test_a_model_goes_out_and_comes_back_with_its_id(tiny_store: Store, tmp_path: Path) -> None:
    """An archive holds the manifest's own bytes, so the id stays."""
    name = ModelName.parse("tiny")
    stored = tiny_store.manifests.read(name)
    (written,) = export(tiny_store, stored, tmp_path / "m.tar", ExportOptions(ExportForm.TAR))
    assert written.size == (tmp_path / "m.tar").stat().st_size
    other = Store(tmp_path / "other")
    import_tar(tmp_path / "m.tar", other)
    assert other.manifests.read(name).id == stored.id


def test_a_model_and_its_own_weights_do_not_differ(tiny_store: Store) -> None:
    """A GGUF file stands for a model's weights: compared with them nothing of these differs."""
    stored = tiny_store.manifests.read(ModelName.parse("tiny"))
    side = model_side(tiny_store, stored)
    same = diff(side, model_side(tiny_store, stored))
    assert not same.differ
    assert causes(same, [stored, stored], tiny_store) == ()
    weights = diff(side, gguf_side(side.weights["model"].paths[0])).weights
    assert all(item.identical or not (item.metadata or item.tensors) for item in weights)


def test_a_model_that_lacks_a_blob_is_no_side(tiny_store: Store) -> None:
    """The layer is named, and how to repair it."""
    stored = tiny_store.manifests.read(ModelName.parse("tiny"))
    layer = next(item for item in stored.manifest.layers if item.kind == "model")
    tiny_store.blobs.path(layer.digest).unlink()
    with pytest.raises(DamagedError, match="missing or cut short"):
        model_side(tiny_store, stored)


def test_an_inventory_tells_models_from_leftovers(tiny_store: Store) -> None:
    """Blobs of models have users; a folder under a blob's name is a stray."""
    (tiny_store.root / "blobs" / f"sha256-{'0' * 64}").mkdir()
    found = take_inventory(tiny_store, time.time())
    assert [str(model.name) for model in found.models] == ["tiny:latest"]
    assert found.users.keys() >= {layer.digest for layer in found.models[0].manifest.blobs()}
    assert LeftoverKind.STRAY in {item.kind for item in found.leftovers}


def test_a_store_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """A file where the store should be is told, not an empty inventory."""
    (tmp_path / "store").write_text("x")
    with pytest.raises(StoreError):
        take_inventory(Store(tmp_path / "store"), time.time())


def test_only_what_loses_nothing_is_removable(tmp_path: Path) -> None:
    """A folder with files in it stays; a file, a link and an empty folder may go."""
    folder = tmp_path / "folder"
    folder.mkdir()
    assert is_removable(folder)
    (folder / "file").write_text("x")
    assert not is_removable(folder)
    os.symlink(folder, tmp_path / "link")
    assert is_removable(tmp_path / "link")


def test_a_damaged_file_gets_a_name_that_is_free(tmp_path: Path) -> None:
    """Nothing that was set aside before is overwritten."""
    source = tmp_path / "blob"
    for number in (1, 2):
        source.write_text(str(number))
        target = free_name(tmp_path, "blob")
        rename(source, target)
        assert target.name == f"blob.{number}"
    assert (tmp_path / "blob.1").read_text() == "1"


def test_a_gguf_file_is_a_side_of_its_own(tmp_path: Path) -> None:
    """It has weights and nothing else; nobody has read it yet."""
    side = gguf_side(tiny_gguf(tmp_path / "a.gguf"))
    assert side.contents is None
    assert side.weights["model"].digests is None
