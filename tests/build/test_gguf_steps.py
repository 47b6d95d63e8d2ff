"""Steps over GGUF files: imported, merged from shards, and what their headers say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gguf_files import gguf_bytes, tiny_gguf, tiny_model, tiny_shards

from mbuild.build.graph import StepContext
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.build.steps import opened
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF, Role, check_role, gguf_digests
from mbuild.build.steps.header import HeaderPart, ReadHeader
from mbuild.build.steps.models import as_json, check_loadable, read_facts, write_model
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import GGUFOrigin
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import FormatError, SourceError
from mbuild.core.events import Code
from mbuild.gguf.reader import open_gguf
from mbuild.store import Store
from mbuild.store.media import ADAPTER, DRAFT, MODEL, PROJECTOR


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StepContext]:
    """What a running step may use, on an empty store; nobody hears of it."""
    store = Store(tmp_path / "store")
    with store.using():
        yield StepContext.silent(store)


def source(path: Path, digest: Digest | None = None) -> SourceFile:
    """A file as the resolver gives it."""
    return SourceFile(path.name, path, FileStamp.of(path.stat()), digest)


# Import.


@pytest.mark.parametrize(
    ("kind", "role", "media_type", "origin"),
    [
        ("model", Role.MODEL, MODEL, ""),
        ("projector", Role.MODEL, PROJECTOR, ""),
        ("adapter", Role.ADAPTER, ADAPTER, "a.gguf"),
        ("model", Role.DRAFT, DRAFT, ""),
    ],
)
def test_a_file_becomes_the_layer_that_it_is(
    context: StepContext, tmp_path: Path, kind: str, role: Role, media_type: str, origin: str
) -> None:
    """By its header and its role; only an adapter's layer carries the file's name."""
    path = tiny_gguf(tmp_path / "a.gguf", kind=kind)
    made = ImportGGUF(source(path), role).run(context, [])
    (layer,) = made.result.layers
    assert (layer.media_type, layer.origin) == (media_type, origin)
    assert layer.digest == Digest.of(path.read_bytes())
    assert made.files == {str(path): Digest.of(path.read_bytes(), BLAKE3)}


@pytest.mark.parametrize(
    ("kind", "role", "told", "hint"),
    [
        ("adapter", Role.DRAFT, "DRAFT a.gguf: it is a LoRA adapter", "use ADAPTER for it"),
        ("model", Role.ADAPTER, "ADAPTER a.gguf: it is a model", "use FROM for it"),
        ("projector", Role.ADAPTER, "ADAPTER a.gguf: it is a projector", "use FROM for it, beside"),
        ("projector", Role.DRAFT, "DRAFT a.gguf: it is a projector", "use FROM for it, beside"),
    ],
)
def test_a_role_that_does_not_fit_is_refused(
    context: StepContext, tmp_path: Path, kind: str, role: Role, told: str, hint: str
) -> None:
    """Before a byte is copied, with the right instruction."""
    path = tiny_gguf(tmp_path / "a.gguf", kind=kind)
    with pytest.raises(SourceError) as caught:
        ImportGGUF(source(path), role).run(context, [])
    assert caught.value.message == told
    assert caught.value.hint.startswith(hint)
    assert os.listdir(tmp_path / "store/blobs") == []


def test_a_linked_file_is_the_users_own(context: StepContext, tmp_path: Path) -> None:
    """The bytes are the same, so the step is; the store's blob is the file."""
    path = tiny_gguf(tmp_path / "a.gguf")
    step = ImportGGUF(source(path), Role.MODEL, link=True)
    assert step == ImportGGUF(source(path), Role.MODEL)
    (layer,) = step.run(context, []).result.layers
    assert context.store.blobs.local_path(layer.digest).samefile(path)


def test_a_file_that_was_touched_since_is_refused(context: StepContext, tmp_path: Path) -> None:
    """It is not the one whose key was made."""
    path = tiny_gguf(tmp_path / "a.gguf")
    step = ImportGGUF(source(path), Role.MODEL)
    os.utime(path, (1, 1))
    with pytest.raises(SourceError, match=r"a\.gguf changed since the build began"):
        step.run(context, [])


def test_a_name_is_in_the_key_of_an_adapter_only(tmp_path: Path) -> None:
    """A model's file can be renamed without a rebuild."""
    one, two = (tiny_gguf(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    digest = Digest.of(b"content", BLAKE3)

    def fields(path: Path, role: Role) -> Any:
        return ImportGGUF(source(path, digest), role).key_fields()

    assert fields(one, Role.MODEL) == fields(two, Role.MODEL)
    assert fields(one, Role.ADAPTER) != fields(two, Role.ADAPTER)
    assert fields(one, Role.MODEL) != fields(one, Role.DRAFT)


# Merge.


def test_shards_become_the_file_that_was_split(context: StepContext, tmp_path: Path) -> None:
    """Byte for byte, and each shard's digest is found while it is read."""
    paths = tiny_shards(tmp_path, "m", [2, 2, 1])
    step = MergeGGUF(tuple(map(source, paths)), Role.MODEL)
    assert step.key_fields() is None
    assert step.label == f"merge {paths[0].name} and 2 more"
    assert step.reads == sum(path.stat().st_size for path in paths)
    made = step.run(context, [])
    (layer,) = made.result.layers
    assert context.store.blobs.read(layer.digest, 1 << 20) == gguf_bytes(tiny_model())
    assert made.files == {str(p): Digest.of(p.read_bytes(), BLAKE3) for p in paths}
    fields = step.learned(made.files).key_fields()
    assert fields is not None
    assert fields["sources"] == [str(made.files[str(path)]) for path in paths]


def test_shards_of_two_models_are_no_model(context: StepContext, tmp_path: Path) -> None:
    """The counts do not fit; nothing is left in the store."""
    (tmp_path / "other").mkdir()
    first, _ = tiny_shards(tmp_path, "m", [3, 2])
    _, second = tiny_shards(tmp_path / "other", "m", [4, 1])
    with pytest.raises(FormatError):
        MergeGGUF((source(first), source(second)), Role.MODEL).run(context, [])
    assert os.listdir(tmp_path / "store/blobs") == []


def test_one_unknown_digest_leaves_no_key(tmp_path: Path) -> None:
    """Of several files all count, in their order."""
    path = tiny_gguf(tmp_path / "a.gguf")
    one, two = Digest.of(b"1", BLAKE3), Digest.of(b"2", BLAKE3)
    known = [source(path, one), source(path, two)]
    assert gguf_digests(known) == [str(one), str(two)]
    assert gguf_digests([*known, source(path)]) is None


# Headers.


def test_a_projector_has_no_role_of_its_own(tmp_path: Path) -> None:
    """It comes with a model, and cannot be one that is quantized."""
    model = read_facts([tiny_gguf(tmp_path / "m.gguf")], "m.gguf")
    projector = read_facts([tiny_gguf(tmp_path / "p.gguf", kind="projector")], "p.gguf")
    check_role(Role.MODEL, model, "m.gguf")
    check_role(Role.DRAFT, model, "m.gguf")
    with pytest.raises(SourceError, match=r"FROM p\.gguf: it is a projector"):
        check_role(Role.MODEL, projector, "p.gguf")


def test_facts_are_in_the_words_of_a_config(tmp_path: Path) -> None:
    """What stands in the header, as ``ollama list`` shows it."""
    facts = as_json(read_facts([tiny_gguf(tmp_path / "m.gguf")], "m.gguf"))
    assert facts["kind"] == "model"
    assert (facts["model_format"], facts["model_family"]) == ("gguf", "llama")
    assert (facts["model_families"], facts["file_type"]) == (["llama"], "F16")


def test_a_shard_under_another_name_is_known(tmp_path: Path) -> None:
    """Its header says that it is one of several: alone it is no model."""
    (first, _) = tiny_shards(tmp_path, "m", [3, 2])
    with pytest.raises(SourceError, match=r"model\.gguf is one shard of a split GGUF"):
        read_facts([first.rename(tmp_path / "model.gguf")], "model.gguf")


UNLOADABLE = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 3}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_a_large_file_is_checked_while_it_is_copied(
    context: StepContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    link: bool,
    bad: bool,
) -> None:
    """What is wrong with it ends the copying, and its bytes do not stay in the store."""
    monkeypatch.setattr(opened, "MUCH", 1)
    path = tiny_gguf(tmp_path / "m.gguf", metadata=UNLOADABLE if bad else {})
    step = ImportGGUF(source(path), Role.MODEL, link)
    if bad:
        with pytest.raises(FormatError, match=r"m\.gguf.*head_count_kv is 3"):
            step.run(context, [])
    else:
        assert step.run(context, []).result.layers[0].size == path.stat().st_size
    assert len(list((tmp_path / "store").rglob("sha256-*"))) == (0 if bad else 1)
    assert not [thread for thread in threading.enumerate() if thread.name == "mbuild-check"]


def test_a_file_that_no_program_loads_is_refused(context: StepContext, tmp_path: Path) -> None:
    """The error names the user's file, not the path that is read."""
    with open_gguf(tiny_gguf(tmp_path / "good.gguf"), name="mine.gguf") as file:
        check_loadable(file, context)
    bad = tiny_gguf(tmp_path / "bad.gguf", metadata=UNLOADABLE)
    with (
        open_gguf(bad, name="mine.gguf") as file,
        pytest.raises(FormatError, match=r"mine\.gguf"),
    ):
        check_loadable(file, context)


def test_each_part_of_a_header_is_read_for_itself(context: StepContext, tmp_path: Path) -> None:
    """The template without the shapes and the other way round, by different keys."""
    template = {"tokenizer.chat_template": "{{ x }}", "tokenizer.ggml.bos_token_id": 1}
    path = tiny_gguf(tmp_path / "a.gguf", metadata=template)
    origin = GGUFOrigin((source(path, Digest.of(path.read_bytes(), BLAKE3)),))
    chat, shapes = (ReadHeader(origin, part) for part in HeaderPart)
    assert chat.run(context, []).result.facts["text"] == "{{ x }}"
    assert "text" not in shapes.run(context, []).result.facts
    assert chat.key_fields() is not None
    assert chat.key_fields() != shapes.key_fields()
    assert chat.group == shapes.group
    assert os.listdir(tmp_path / "store/blobs") == []


# Writing.


def test_a_model_is_streamed_into_a_blob(context: StepContext, tmp_path: Path) -> None:
    """With reports up to the whole size; the file is the writer's."""
    path = tiny_gguf(tmp_path / "a.gguf")
    told: list[tuple[int, int]] = []
    context = context._replace(report=lambda done, total: told.append((done, total)))
    model = tiny_model()
    with ExitStack() as stack, open_gguf(path, name="a.gguf"):
        (blob,) = write_model(context, model, OpenFiles({"a.gguf": source(path)}, stack))
    size = path.stat().st_size
    assert (blob.digest, blob.size) == (Digest.of(gguf_bytes(model)), size)
    assert (size, size) in told


def test_a_source_that_changes_meanwhile_gives_no_blob(
    context: StepContext, tmp_path: Path
) -> None:
    """What was written of it would be a model that never was."""
    path = tiny_gguf(tmp_path / "a.gguf")
    with ExitStack() as stack:
        files = OpenFiles({"a.gguf": source(path)}, stack)
        tiny_gguf(path, seed=1)
        os.utime(path, (1, 1))
        with pytest.raises(FormatError, match="changed"):
            write_model(context, tiny_model(), files)
    assert os.listdir(tmp_path / "store/blobs") == []


def test_an_import_says_what_it_does(context: StepContext, tmp_path: Path) -> None:
    """By a code, for which each front end has its words."""
    told: list[Code] = []
    context = context._replace(status=lambda code, values: told.append(code))
    ImportGGUF(source(tiny_gguf(tmp_path / "a.gguf")), Role.MODEL).run(context, [])
    assert told == [Code.PARSING_GGUF]
