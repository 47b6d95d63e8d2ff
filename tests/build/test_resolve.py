"""The one resolver, over a front end in memory and over the disk: which files are the source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from example_models import settle
from fakes_files import FakeFiles, FakeNames
from gguf_files import gguf_bytes, tiny_gguf, tiny_model

from mbuild.build.sources.files import Found
from mbuild.build.sources.reading import read_digests, read_text
from mbuild.build.sources.resolve import LocalContext, Resolver
from mbuild.build.sources.values import (
    CheckpointSource,
    GGUFDirectory,
    GGUFSource,
    StoredModel,
)
from mbuild.build.steps.weights import checkpoint_fields
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import (
    DamagedError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
    UnsupportedError,
)
from mbuild.store import Store
from mbuild.store.copying import OpenFile
from mbuild.store.media import MODEL
from mbuild.store.records import GGUF_KIND

CHECKPOINT = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def resolver(store: Store, files: FakeFiles) -> Resolver:
    """A front end where ``.`` is all files and every name of one of them is that file."""
    places = {name: Found(files, name, f"far/{name}") for name in files.names()}
    return Resolver(FakeNames({**places, ".": Found(files)}), store)


# Which files are the source.


def test_a_checkpoint_is_what_a_conversion_reads(store: Store) -> None:
    """Weights, small files that are known, templates in their folder; no logs, no other folders."""
    inside = {
        **CHECKPOINT,
        "tokenizer.json": b"{}",
        "additional_chat_templates/tool_use.jinja": b"x",
        "1_Pooling/config.json": b"{}",
        "2_Dense/model.safetensors": b"layers behind the model",
    }
    outside = {
        "training.log": b"step 1",
        "optimizer.bin": b"pickle",
        "additional_chat_templates/notes.txt": b"x",
        "2_Other/model.safetensors": b"other weights",
        "a/1_Pooling/config.json": b"{}",
    }
    files = FakeFiles({**inside, **outside})
    source = resolver(store, files).model(".")
    assert isinstance(source, CheckpointSource)
    assert source.name == "model" and source.card is None
    assert set(source.files) == set(files.asked) == set(inside)


def test_every_file_is_in_the_key_by_its_blake3_and_the_card_by_its_front_matter(
    store: Store, tmp_path: Path
) -> None:
    """README.md's digest is that of the file; its text between the lines is a field of its own."""

    def fields(card: str) -> dict[str, object]:
        (tmp_path / "README.md").write_text(card)
        files = FakeFiles({**CHECKPOINT, "README.md": card.encode()}, tmp_path)
        source = resolver(store, files).model(".")
        assert isinstance(source, CheckpointSource)
        assert source.files["README.md"].digest == Digest.of(card.encode(), BLAKE3)
        return dict(checkpoint_fields(source, None) or {})

    found = fields("---\nlicense: mit\n---\nWords.\n")
    blake3 = {name: str(Digest.of(data, BLAKE3)) for name, data in CHECKPOINT.items()}
    assert found["files"] == blake3
    assert found["card"] == str(Digest.of(b"---\nlicense: mit"))
    assert fields("---\nlicense: mit\n---\nOther words.\n") == found
    assert fields("---\nlicense: bsd\n---\nWords.\n") != found


def test_safetensors_come_before_gguf(store: Store) -> None:
    """As in Ollama: a folder with both is a checkpoint."""
    files = FakeFiles({**CHECKPOINT, "m.gguf": b"GGUF"})
    assert isinstance(resolver(store, files).model("."), CheckpointSource)


@pytest.mark.parametrize(
    ("kinds", "model", "projectors"),
    [
        ({"only.gguf": "projector"}, "only.gguf", ()),
        ({"a.gguf": "projector", "b.gguf": "model"}, "b.gguf", ("a.gguf",)),
        ({"b.GGUF": "model", "c.gguf": "projector"}, "b.GGUF", ("c.gguf",)),
    ],
)
def test_of_several_gguf_files_one_is_the_model(
    store: Store, kinds: dict[str, str], model: str, projectors: tuple[str, ...]
) -> None:
    """Their headers tell, which are remembered by the files' digests; a single one is not read."""
    files = FakeFiles({name: name.encode() for name in kinds})
    for name, kind in kinds.items():
        store.database.put(GGUF_KIND, str(Digest.of(name.encode(), BLAKE3)), kind)
    source = resolver(store, files).model(".")
    if isinstance(source, GGUFDirectory):
        assert tuple(each.files[0].name for each in source.projectors) == projectors
        source = source.model
    assert isinstance(source, GGUFSource)
    assert [file.name for file in source.files] == [model]


def test_adapter_and_draft_take_one_of_a_folder(store: Store) -> None:
    """ADAPTER the adapter, DRAFT the model; and the projector beside it is no draft."""
    kinds = {"a.gguf": "adapter", "m.gguf": "model"}
    files = FakeFiles({name: name.encode() for name in kinds})
    for name, kind in kinds.items():
        store.database.put(GGUF_KIND, str(Digest.of(name.encode(), BLAKE3)), kind)
    source = resolver(store, files).adapter(".")
    assert isinstance(source, GGUFSource) and source.files[0].name == "a.gguf"
    files = FakeFiles({"m.gguf": b"m.gguf", "p.gguf": b"p.gguf"})
    store.database.put(GGUF_KIND, str(Digest.of(b"p.gguf", BLAKE3)), "projector")
    draft = resolver(store, files).draft(".")
    assert isinstance(draft, GGUFSource) and draft.files[0].name == "m.gguf"


# Shards.


SHARDS = tuple(f"s-0000{number}-of-00003.gguf" for number in (1, 2, 3))


def test_the_first_shard_stands_for_all(store: Store) -> None:
    """In their order, named alone or found in a folder."""
    files = FakeFiles({name: name.encode() for name in SHARDS})
    for value in (SHARDS[0], "."):
        source = resolver(store, files).model(value)
        assert isinstance(source, GGUFSource)
        assert tuple(file.name for file in source.files) == SHARDS


def test_another_shard_is_no_model(store: Store) -> None:
    """The front end says what to do."""
    files = FakeFiles({name: name.encode() for name in SHARDS})
    with pytest.raises(SourceError, match="not the first of 3 shards") as caught:
        resolver(store, files).model(SHARDS[1])
    assert caught.value.hint == f"take {SHARDS[0]}"


def test_missing_shards_are_named(store: Store) -> None:
    """As the front end calls the file, with its remedy."""
    files = FakeFiles({SHARDS[0]: b"1"})
    with pytest.raises(MissingFileError) as caught:
        resolver(store, files).model(SHARDS[0])
    expected = f"far/{SHARDS[0]}: 2 of 3 shards are missing: {SHARDS[1]}, {SHARDS[2]}"
    assert (caught.value.message, caught.value.hint) == (expected, "take all")


# What is refused.


def test_pickles_are_refused(store: Store) -> None:
    """They can run code when they are read."""
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin is a pickle without a config"):
        resolver(store, FakeFiles({"pytorch_model.bin": b""})).model(".")


def test_an_adapter_is_no_model(store: Store) -> None:
    """FROM a folder with a PEFT adapter says what to do; a model that brings one along is one."""
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    with pytest.raises(SourceError, match=r"FROM \.: it is a LoRA adapter") as caught:
        resolver(store, FakeFiles(adapter)).model(".")
    assert caught.value.hint == ". goes elsewhere"
    assert isinstance(resolver(store, FakeFiles(adapter)).adapter("."), CheckpointSource)
    files = FakeFiles({**CHECKPOINT, **adapter})
    assert isinstance(resolver(store, files).model("."), CheckpointSource)


@pytest.mark.parametrize("word", ["FROM", "ADAPTER", "DRAFT"])
def test_a_folder_with_nothing_is_named(store: Store, word: str) -> None:
    """By the front end, which knows what stands there."""
    context = resolver(store, FakeFiles({"notes.txt": b"x"}))
    find: dict[str, Callable[[str], object]] = {
        "FROM": context.model,
        "ADAPTER": context.adapter,
        "DRAFT": context.draft,
    }
    with pytest.raises(SourceError, match=f"{word} .: nothing in far/model"):
        find[word](".")


def test_a_name_of_no_model_is_the_front_ends_to_say(store: Store) -> None:
    """Whether nothing can have that name, or no model has it."""
    for value in ("absent", "not a name"):
        with pytest.raises(NameNotFoundError, match=f"no model {value}"):
            resolver(store, FakeFiles({})).model(value)


def test_a_folder_that_only_has_a_models_name_does_not_hide_it(tiny_store: Store) -> None:
    """A folder ``tiny`` without weights beside the Modelfile: FROM tiny is the stored model."""
    names = FakeNames({"tiny": Found(FakeFiles({"notes.txt": b"x"}))})
    source = Resolver(names, tiny_store).model("tiny")
    assert isinstance(source, StoredModel)


def test_a_model_with_a_lost_blob_is_damaged(tiny_store: Store) -> None:
    """It is named in the front end's words."""
    source = Resolver(FakeNames({}), tiny_store).model("tiny")
    assert isinstance(source, StoredModel)
    lost = source.manifest.of_kind(MODEL)[0].digest
    tiny_store.blobs.path(lost).unlink()
    with pytest.raises(DamagedError, match=f"tiny lost {lost}"):
        Resolver(FakeNames({}), tiny_store).model("tiny")


# Digests.


def test_a_blob_is_known_by_its_name_until_its_blake3_is(store: Store) -> None:
    """Nobody reads a blob for a key; once both digests of its content are known, BLAKE3 counts."""
    data = gguf_bytes(tiny_model())
    digest = store.blobs.put(data).digest
    for value in (f"@{digest}", str(store.blobs.path(digest))):
        source = LocalContext(Path("/"), store).model(value)
        assert isinstance(source, GGUFSource)
        assert (source.files[0].digest, source.files[0].content) == (None, digest)
    store.database.remember_alias(digest, Digest.of(data, BLAKE3))
    for value in (f"@{digest}", str(store.blobs.path(digest))):
        source = LocalContext(Path("/"), store).model(value)
        assert isinstance(source, GGUFSource)
        assert source.files[0].content == source.files[0].digest == Digest.of(data, BLAKE3)
        assert source.files[0].sha256 == digest


def test_an_inherited_layer_has_its_blake3_where_that_is_known(tiny_store: Store) -> None:
    """So that a model and the file that it was imported from are one origin."""
    names = FakeNames({})
    source = Resolver(names, tiny_store).model("tiny")
    assert isinstance(source, StoredModel) and source.aliases == {}
    layer = source.manifest.of_kind(MODEL)[0].digest
    blake3 = Digest.of(tiny_store.blobs.path(layer).read_bytes(), BLAKE3)
    tiny_store.database.remember_alias(layer, blake3)
    source = Resolver(names, tiny_store).model("tiny")
    assert isinstance(source, StoredModel) and source.aliases == {layer: blake3}


def checkpoint_on_disk(folder: Path) -> Path:
    """The files of CHECKPOINT, their times old enough to be relied on."""
    folder.mkdir()
    for name, data in CHECKPOINT.items():
        (folder / name).write_bytes(data)
    settle()
    return folder


def read_by(store: Store, folder: Path, **options: bool) -> tuple[list[str], CheckpointSource]:
    """Which files a resolver over the disk reads, and what it resolves."""
    store.database.flush()  # files' digests are looked up in what is written
    read: list[str] = []
    context = LocalContext(
        folder.parent, store, on_read=lambda name, size: read.append(name), **options
    )
    source = context.model(f"./{folder.name}")
    assert isinstance(source, CheckpointSource)
    return read, source


def test_files_are_hashed_first_where_a_result_can_exist(store: Store, tmp_path: Path) -> None:
    """Files of sizes that were never read are left to the step; others are read, the small first.

    Reading ends at the first that is new, because then a step runs, which reads the rest.
    """
    folder = checkpoint_on_disk(tmp_path / "chat")
    assert read_by(store, folder)[0] == []
    for data in CHECKPOINT.values():
        store.database.remember_content(len(data), Digest.of(data, BLAKE3))
    read, source = read_by(store, folder)
    assert read == ["config.json", "model.safetensors"]
    assert source.files["model.safetensors"].digest == Digest.of(b"weights", BLAKE3)
    assert read_by(store, folder)[0] == []
    (folder / "config.json").write_bytes(b"[]")
    os.utime(folder / "model.safetensors", (1, 1))
    settle()
    read, source = read_by(store, folder)
    assert read == ["config.json"] and source.files["model.safetensors"].digest is None


def test_for_a_lock_every_file_has_the_digest_that_it_is_locked_by(
    store: Store, tmp_path: Path
) -> None:
    """SHA-256 beside BLAKE3 for all but safetensors, from one reading, and remembered."""
    folder = checkpoint_on_disk(tmp_path / "chat")
    read, source = read_by(store, folder, hash_files=True)
    assert read == ["config.json", "model.safetensors"]
    config, weights = source.files["config.json"], source.files["model.safetensors"]
    assert config.locked == config.sha256 == Digest.of(b"{}")
    assert config.digest == Digest.of(b"{}", BLAKE3)
    assert weights.locked == weights.digest == Digest.of(b"weights", BLAKE3)
    assert weights.sha256 is None
    read, again = read_by(store, folder, hash_files=True)
    assert (read, again) == ([], source)


def test_what_was_remembered_by_sha256_is_not_lost(store: Store, tmp_path: Path) -> None:
    """An earlier mbuild knew GGUF files by SHA-256: the same key, and nothing is read."""
    path = tiny_gguf(tmp_path / "m.gguf")
    settle()
    digest = Digest.of(path.read_bytes())
    store.database.remember_file(path.stat(), digest, path.stat().st_ctime_ns + (1 << 32))
    store.database.flush()
    source = LocalContext(tmp_path, store).model("./m.gguf")
    assert isinstance(source, GGUFSource) and source.files[0].content == digest


def test_a_sha256_that_is_known_is_checked_when_a_file_is_read(
    store: Store, tmp_path: Path
) -> None:
    """Two digests become aliases only if they are of the very same bytes: a blob can be damaged."""
    digest = store.blobs.put(b"whole").digest
    (file,) = LocalContext(tmp_path, store).model(f"@{digest}").files  # type: ignore[union-attr]

    def read() -> Digest | None:
        with OpenFile.open(file.path, file.name) as opened:
            return read_digests(opened, file, lambda done, total: None).digest

    assert read() == Digest.of(b"whole", BLAKE3)
    store.blobs.path(digest).write_bytes(b"WHOLE")
    with pytest.raises(DamagedError, match=f"blob {digest} is damaged"):
        read()


def test_small_json_texts_are_kept_by_the_digest_in_keys(store: Store, tmp_path: Path) -> None:
    """Whoever reads the file first keeps its text, for later explanations."""
    folder = checkpoint_on_disk(tmp_path / "chat")
    _, source = read_by(store, folder, hash_files=True)
    digest = source.files["config.json"].digest
    assert digest is not None and read_text(store, digest) == "{}"
    weights = source.files["model.safetensors"].digest
    assert weights is not None and read_text(store, weights) is None
