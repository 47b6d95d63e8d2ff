"""The user's disk as a front end: where a value of FROM, ADAPTER and DRAFT leads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from example_models import settle
from gguf_files import tiny_gguf

from mbuild.build.sources.files import Found
from mbuild.build.sources.local import Disk, Folder, local_file, stored_blob
from mbuild.build.sources.values import SourceFile
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import MissingFileError, NameNotFoundError, SourceError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def disk(tmp_path: Path, store: Store) -> Disk:
    """The names in a Modelfile that lies in ``project``, beside one GGUF file."""
    (tmp_path / "project/chat").mkdir(parents=True)
    tiny_gguf(tmp_path / "project/model.gguf")
    return Disk(tmp_path / "project", store)


# A folder.


def test_a_folder_lists_itself_and_the_folders_of_a_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    """Sorted, those inside behind it; no other folder is looked into."""
    for name in ("b.txt", "a.txt", "1_Pooling/config.json", "other/config.json"):
        path = tmp_path / "chat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    folder = Folder(tmp_path / "chat", "./chat", store)
    names = ["1_Pooling", "a.txt", "b.txt", "other", "1_Pooling/config.json"]
    assert (folder.names(), folder.name) == (names, "chat")
    assert (folder.has("a.txt"), folder.has("c.txt")) == (True, False)


def test_a_folder_is_called_what_it_is_where_links_lead(store: Store, tmp_path: Path) -> None:
    """A model is named after it: the link is only a way there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Folder(tmp_path / "link", "./link", store).name == "real"


def test_only_a_named_folder_is_guarded(store: Store, tmp_path: Path) -> None:
    """Whoever names a file knows it; who names a folder may have downloaded it."""
    (tmp_path / "chat").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "chat/tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="is a link to a file of another name"):
        Folder(tmp_path / "chat", "./chat", store).file("tokenizer.json")
    free = Folder(tmp_path / "chat", "./chat", store, guarded=False)
    assert free.file("tokenizer.json").stamp.size == 1


def test_a_folder_that_is_gone_is_an_error(store: Store, tmp_path: Path) -> None:
    """Under the name that was written."""
    with pytest.raises(SourceError, match=r"\./chat: No such file"):
        Folder(tmp_path / "chat", "./chat", store).names()


# A file.


def test_a_file_has_the_digest_that_is_remembered(store: Store, tmp_path: Path) -> None:
    """As long as nobody touched it; nothing is read for it."""
    path = tmp_path / "a.gguf"
    path.write_bytes(b"weights")
    settle()
    digest = Digest.of(b"weights", BLAKE3)
    assert local_file(path, "a.gguf", store).digest is None
    store.files.remember_file(path.stat(), digest, path.stat().st_ctime_ns + (1 << 32))
    store.database.flush()
    assert local_file(path, "a.gguf", store).digest == digest
    os.utime(path, (1, 1))
    assert local_file(path, "a.gguf", store).digest is None


def test_a_blob_has_the_digest_in_its_name(store: Store) -> None:
    """Found by its path or by its digest it is the same value."""
    digest = store.blobs.put(b"weights").digest
    path = store.blobs.path(digest)
    store.files.remember_alias(digest, Digest.of(b"weights", BLAKE3))
    file = local_file(path, "m", store)
    assert (file.sha256, file.digest) == (digest, Digest.of(b"weights", BLAKE3))
    assert file.stamp.ctime_ns is None
    assert file == stored_blob(path, "m", digest, store)


def test_what_is_no_regular_file_is_refused(store: Store, tmp_path: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent"):
        with pytest.raises(SourceError, match=name):
            local_file(tmp_path / name, name, store)


# What a value means.


def test_a_value_is_a_file_or_a_folder_beside_the_modelfile(disk: Disk, tmp_path: Path) -> None:
    """Or anywhere, with an absolute path."""
    for value in ("model.gguf", "./model.gguf", str(tmp_path / "project/model.gguf")):
        found = disk.find("FROM", value)
        assert isinstance(found, Found)
        assert (found.file, found.shown) == ("model.gguf", "model.gguf")
        assert found.files.has("model.gguf")
    folder = disk.find("FROM", "./chat")
    assert isinstance(folder, Found)
    assert (folder.file, folder.files.name, folder.files.value) == ("", "chat", "./chat")


def test_home_is_where_the_tilde_leads(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user who does not exist it is a character like others."""
    monkeypatch.setenv("HOME", str(tmp_path / "project"))
    assert isinstance(disk.find("FROM", "~/model.gguf"), Found)
    with pytest.raises(MissingFileError, match="FROM ~no-such-user/m: no such file"):
        disk.find("FROM", "~no-such-user/m")


def test_what_may_be_a_models_name_is_left_to_the_store(disk: Disk) -> None:
    """For FROM only: an adapter and a draft are always files."""
    assert disk.find("FROM", "llama3") is None
    for word in ("ADAPTER", "DRAFT"):
        with pytest.raises(MissingFileError, match=f"{word} llama3: no such file"):
            disk.find(word, "llama3")
    with pytest.raises(MissingFileError, match=r"FROM \./llama3: no such file"):
        disk.find("FROM", "./llama3")


def test_a_link_to_nowhere_is_no_models_name(disk: Disk, tmp_path: Path) -> None:
    """The model of the store would be another one than meant."""
    (tmp_path / "project/llama3").symlink_to(tmp_path / "drive")
    with pytest.raises(SourceError, match=r"FROM llama3: a link to .*drive, which does not exist"):
        disk.find("FROM", "llama3")


def test_a_digest_is_a_blob_of_the_store(disk: Disk, store: Store) -> None:
    """With ``@`` it has to be there; what is no digest is said at once."""
    digest = store.blobs.put(b"weights").digest
    for value in (f"@{digest}", str(digest), f"@{digest.filename}"):
        found = disk.find("FROM", value)
        assert isinstance(found, SourceFile)
        assert found.sha256 == digest
    absent = Digest.of(b"absent")
    with pytest.raises(MissingFileError, match="the store has no such blob"):
        disk.find("FROM", f"@{absent}")
    with pytest.raises(SourceError, match="is not a digest"):
        disk.find("FROM", "@sha256:12")


def test_a_model_that_is_not_there_is_suggested(tiny_store: Store) -> None:
    """From the names of the store; what cannot be a name is told as such."""
    own = Disk(Path("/nowhere"), tiny_store)
    error = own.no_model("tinny", NameNotFoundError("not found"))
    assert isinstance(error, NameNotFoundError)
    assert error.hint.startswith("did you mean tiny")
    with pytest.raises(InvalidNameError) as caught:
        ModelName.parse("not a name")
    refused = own.no_model("not a name", caught.value)
    assert refused.message == "FROM 'not a name' is neither a file nor a model's name"


def test_each_error_has_a_remedy_of_this_front_end(disk: Disk) -> None:
    """A person at a disk moves, names and builds files."""
    folder = disk.find("FROM", "./chat")
    assert isinstance(folder, Found)
    errors = {
        disk.nothing_in("FROM", "./chat", folder.files): "config.json with .safetensors",
        disk.nothing_in("ADAPTER", "./chat", folder.files): "adapter_config.json with",
        disk.is_adapter("./lora"): "use ADAPTER ./lora for it",
        disk.is_model("./chat"): "use FROM ./chat to build from it",
        disk.not_the_first("m-2", "m-1", 2): "name m-1",
        disk.shards_missing("m", ["m-2"], 2): "copy all shards into one folder",
        disk.lost_blob("tiny", Digest.of(b"x")): "build or pull that model again",
    }
    for error, remedy in errors.items():
        assert remedy in error.hint
