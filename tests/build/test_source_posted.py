"""What a create request can name: its own files by the names that it gave them, and no path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from gguf_files import gguf_bytes, tiny_model

from mbuild.build.request import Posted
from mbuild.build.sources.files import Found
from mbuild.build.sources.local import Disk
from mbuild.build.sources.posted import (
    FOLDER,
    MAX_FILES,
    BlobContext,
    RequestNames,
    UploadedFiles,
    gguf_names,
    is_checkpoint,
    parse_files,
)
from mbuild.build.sources.values import CheckpointSource, GGUFSource, SourceFile, StoredModel
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import MissingFileError, NameNotFoundError, UsageError
from mbuild.store import Store

ANY = Digest.of(b"any")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def uploaded(store: Store, files: Mapping[str, bytes]) -> dict[str, Digest]:
    """The files' contents as blobs, by the files' names."""
    return {name: store.blobs.put(data).digest for name, data in files.items()}


# Names of files.


def test_names_and_digests_are_parsed_at_once() -> None:
    """Plain relative names, in folders too; a digest becomes a value."""
    assert parse_files({"a.gguf": str(ANY), "d/b": ANY.filename}) == {"a.gguf": ANY, "d/b": ANY}


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a\\b", "C:a", "a\0b", "a/"]
)
def test_a_path_is_no_name(name: str) -> None:
    """On no system: the error is Ollama's."""
    with pytest.raises(UsageError, match="file path must be relative"):
        parse_files({name: str(ANY)})


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\u202eb"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    """It would change what a terminal shows."""
    with pytest.raises(UsageError, match="cannot be shown"):
        parse_files({name: str(ANY)})


def test_the_number_of_files_has_a_limit() -> None:
    """Ollama's; and what is no digest is no file."""
    assert len(parse_files({f"f{n}": str(ANY) for n in range(MAX_FILES)})) == MAX_FILES
    with pytest.raises(UsageError, match=f"{MAX_FILES + 1} files; the limit is {MAX_FILES}"):
        parse_files({f"f{n}": str(ANY) for n in range(MAX_FILES + 1)})
    with pytest.raises(DigestError):
        parse_files({"a": "sha256:12"})


# Which files are the model.


def test_of_a_split_model_the_first_shard_is_named(store: Store) -> None:
    """In each folder for itself; a shard without its first one is named, so that it is refused."""
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "d/m-00002-of-00002.gguf", "a.gguf"]
    files = dict.fromkeys(names, ANY)
    assert gguf_names(files, store) == [names[0], names[2], names[3]]


def test_files_without_telling_names_are_known_by_their_first_bytes(store: Store) -> None:
    """One GGUF file among them is enough; none is an error."""
    files = uploaded(store, {"weights": gguf_bytes(tiny_model()), "notes": b"x"})
    assert gguf_names(files, store) == ["weights", "notes"]
    with pytest.raises(UsageError, match="unknown type"):
        gguf_names(uploaded(store, {"notes": b"x"}), store)
    assert not is_checkpoint(files)
    assert is_checkpoint({"model.safetensors": ANY})


# The files as a folder.


def test_a_file_is_its_blob(store: Store) -> None:
    """Under its name in the request, which messages begin with the folder."""
    files = uploaded(store, {"b": b"2", "a": b"1"})
    folder = UploadedFiles("chat", files, store, prefix="chat/")
    assert (folder.names(), folder.has("a"), folder.has("c")) == (["a", "b"], True, False)
    file = folder.file("a")
    assert (file.name, file.sha256) == ("chat/a", Digest.of(b"1"))
    assert file.path.read_bytes() == b"1"


def test_a_blob_that_nobody_uploaded_is_missing(store: Store) -> None:
    """Before anything is built; the hint is the request that uploads it."""
    folder = UploadedFiles("chat", {"a": ANY}, store)
    with pytest.raises(MissingFileError, match=f"a: blob {ANY} is not there") as caught:
        folder.names()
    assert caught.value.hint == f"POST it to /api/blobs/{ANY}"


# What an instruction can name.


def names_of(store: Store, **files: dict[str, Digest]) -> RequestNames:
    """The names of a request with some files for FROM, ADAPTER and DRAFT."""
    empty: dict[str, dict[str, Digest]] = {"FROM": {}, "ADAPTER": {}, "DRAFT": {}}
    return RequestNames(store, "mine", {**empty, **files})


def test_a_file_is_found_beside_those_of_its_folder(store: Store) -> None:
    """Its shards lie there; files of other folders are others."""
    files = uploaded(store, {"d/a": b"1", "d/b": b"2", "e/c": b"3"})
    found = names_of(store, FROM=files).find("FROM", "d/a")
    assert isinstance(found, Found)
    assert (found.file, found.shown, found.files.name) == ("a", "d/a", "d")
    assert found.files.names() == ["a", "b"]


@pytest.mark.parametrize("word", ["FROM", "ADAPTER", "DRAFT"])
@pytest.mark.parametrize("spelling", ["@sha256:{}", "sha256:{}", "@sha256-{}", "sha256-{}"])
def test_a_blob_has_one_name_however_it_is_spelled(word: str, spelling: str, store: Store) -> None:
    """That of its file, as on the command line: an adapter's name is part of its model."""
    digest = uploaded(store, {"a": b"1"})["a"]
    value = spelling.format(digest.hex)
    found = names_of(store).find(word, value)
    assert isinstance(found, SourceFile) and found.name == digest.filename
    assert Disk(store.root, store).find(word, value) == found


@pytest.mark.parametrize(
    ("prefix", "name"), [("", "mine"), ("chat/", "chat"), ("models/chat/", "chat")]
)
def test_all_files_are_one_directory(store: Store, prefix: str, name: str) -> None:
    """A folder that they all lie in is that directory; else the request says its name."""
    contents = {f"{prefix}config.json": b"{}", f"{prefix}m.safetensors": b"w"}
    found = names_of(store, FROM=uploaded(store, contents)).find("FROM", FOLDER)
    assert isinstance(found, Found)
    assert (found.files.name, found.files.names()) == (name, ["config.json", "m.safetensors"])


def test_each_instruction_has_its_own_files(store: Store) -> None:
    """An adapter's file is nothing that FROM can name."""
    names = names_of(store, ADAPTER=uploaded(store, {"lora.gguf": b"1"}))
    assert isinstance(names.find("ADAPTER", "lora.gguf"), Found)
    with pytest.raises(MissingFileError, match="DRAFT lora: the request has no such file"):
        names.find("DRAFT", "lora")
    assert names.find("FROM", "lora") is None


def test_a_digest_is_an_uploaded_blob(store: Store) -> None:
    """As in the text of a Modelfile; what only looks like one is an error."""
    digest = store.blobs.put(b"weights").digest
    for value in (f"@{digest}", str(digest)):
        found = names_of(store).find("FROM", value)
        assert isinstance(found, SourceFile)
        assert found.sha256 == digest
    with pytest.raises(DigestError):
        names_of(store).find("FROM", "@latest")


@pytest.mark.parametrize("value", ["/etc/passwd", "./model.gguf", "~/m", "model.gguf", ".."])
def test_no_path_is_opened(store: Store, value: str) -> None:
    """Not even for a look whether it is there."""
    with pytest.raises(UsageError, match="no file is opened because a request names it"):
        names_of(store).find("FROM", value)


def test_a_context_resolves_what_was_posted(tiny_store: Store) -> None:
    """A file, a directory, a stored model and an importance matrix."""
    gguf = uploaded(tiny_store, {"m.gguf": gguf_bytes(tiny_model())})
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"}
    adapters = uploaded(tiny_store, files)
    posted = Posted(ANY, "mine", gguf, adapters, {}, uploaded(tiny_store, {"i.dat": b"matrix"}))
    context = BlobContext(tiny_store, posted)
    model = context.model("m.gguf")
    assert isinstance(model, GGUFSource)
    assert model.files[0].sha256 == gguf["m.gguf"]
    adapter = context.adapter(FOLDER)
    assert isinstance(adapter, CheckpointSource)
    assert set(adapter.files) == set(adapters)
    assert isinstance(context.model("tiny"), StoredModel)
    assert context.imatrix("i.dat").path.read_bytes() == b"matrix"
    with pytest.raises(NameNotFoundError, match="model 'absent' not found"):
        context.model("absent")
