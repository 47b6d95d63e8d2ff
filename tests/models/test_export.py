"""Models out of the store and back: GGUF files, directories, OCI image layouts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from documents import documented
from gguf_files import entry, gguf_bytes, tiny_gguf, tiny_model
from inprocess import in_process
from programs import need
from stores import check_promise, copy_tiny_store

from mbuild.core.errors import MbuildError
from mbuild.gguf.model import Tensor
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import GGMLType
from mbuild.models.artifacts import import_tar
from mbuild.models.artifacts.settings import SAMPLING
from mbuild.models.artifacts.tar import header
from mbuild.store import Store

MODELFILE = """FROM ./model.gguf
ADAPTER ./lora.gguf
DRAFT ./draft.gguf
TEMPLATE "{{ .System }} {{ .Prompt }}"
SYSTEM You are Mario.
PARAMETER temperature 0.5
PARAMETER top_k 7
PARAMETER repeat_last_n -1
PARAMETER num_ctx 4096
PARAMETER stop </s>
PARAMETER stop "User:"
LICENSE MIT
MESSAGE user hi
"""

CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.ollama.image."


def big_tensors() -> Iterator[Tensor]:
    """Enough weights for a blob of several blocks."""
    data = bytes(range(256)) * 1024
    yield Tensor("token_embd.weight", (256, 256), GGMLType.F32, lambda: data)
    yield Tensor("output_norm.weight", (256,), GGMLType.F32, lambda: data[:1024])


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path, mbuild: Run) -> Path:
    """A folder whose store has the model ``mario`` with every kind of layer."""
    tiny_gguf(tmp_path / "model.gguf", tensors=big_tensors())
    tiny_gguf(tmp_path / "lora.gguf", kind="adapter")
    tiny_gguf(tmp_path / "draft.gguf", seed=3)
    (tmp_path / "Modelfile").write_text(MODELFILE)
    done = mbuild("-t", "mario")
    assert done.returncode == 0, done.stderr
    return tmp_path


def manifest_of(store: Path, name: str = "mario") -> bytes:
    """The bytes of a model's manifest."""
    return (store / f"manifests/registry.ollama.ai/library/{name}/latest").read_bytes()


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must succeed."""
    assert done.returncode == 0, done.stderr
    return done.stdout


# OCI image layouts.


def test_a_model_leaves_and_comes_back_with_the_same_id(mbuild: Run, project: Path) -> None:
    """Manifest and blobs are byte for byte those that left; a second import writes nothing."""
    ok(mbuild("export", "mario", "-o", "mario.tar"))
    other = project / "other"
    assert "mario:latest" in ok(mbuild("import", "mario.tar", "--store", other))
    assert manifest_of(other) == manifest_of(project / "store")
    assert check_promise(other) == 1
    blobs = {path.name for path in (project / "store" / "blobs").iterdir()}
    assert {path.name for path in (other / "blobs").iterdir()} == blobs
    assert "0 B written" in ok(mbuild("import", "mario.tar", "--store", other))
    assert "luigi:latest" in ok(mbuild("import", "mario.tar", "-t", "luigi", "--store", other))
    assert manifest_of(other, "luigi") == manifest_of(other)


def test_the_archive_is_an_oci_layout_and_always_the_same(mbuild: Run, project: Path) -> None:
    """Sorted names, time 0, owner 0; an index; blobs under their digests; equal twice."""
    for name in ("a.tar", "b.tar"):
        ok(mbuild("export", "mario", "-o", name))
        time.sleep(0.01)
    data = (project / "a.tar").read_bytes()
    assert data == (project / "b.tar").read_bytes()
    with tarfile.open(project / "a.tar") as archive:
        members = archive.getmembers()
        files = {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    assert [m.name for m in members] == sorted(files)
    assert {(m.mtime, m.uid, m.gid, m.mode, m.isreg()) for m in members} == {(0, 0, 0, 0o644, True)}
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files.pop("index.json"))
    (row,) = index["manifests"]
    name = row["annotations"]["org.opencontainers.image.ref.name"]
    assert name == "registry.ollama.ai/library/mario:latest"
    manifest = files[row["digest"].replace("sha256:", "blobs/sha256/")]
    assert manifest == manifest_of(project / "store")
    for place, content in files.items():
        assert place == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    large = [m for m in members if m.size >= 65536]
    assert large
    assert all(m.offset_data % 4096 == 0 for m in large)


@pytest.mark.parametrize("size", [0, 1, 8 << 30, (8 << 30) - 1, 1 << 40])
@pytest.mark.parametrize("at", range(0, 4096 + 512, 512))
def test_headers_of_all_sizes_are_read_by_others(size: int, at: int) -> None:
    """Python's tarfile reads name and size; aligned data starts with a block."""
    data = header("blobs/sha256/" + "a" * 64, size, at, align=True)
    assert (at + len(data)) % 4096 == 0
    with io.BytesIO(data + bytes(1024)) as file:
        member = _first(file)
    assert (member.name, member.size) == ("blobs/sha256/" + "a" * 64, size)
    assert len(header("x", size, at, align=False)) % 512 == 0


def _first(file: io.BytesIO) -> tarfile.TarInfo:
    with tarfile.open(fileobj=file, mode="r:") as opened:
        member = opened.next()
    assert member is not None
    return member


def test_import_heals_a_damaged_blob(mbuild: Run, project: Path) -> None:
    """A stored blob of the right size and the wrong bytes is replaced, not trusted."""
    ok(mbuild("export", "mario", "-o", "mario.tar"))
    for blob in (project / "store" / "blobs").iterdir():
        data = blob.read_bytes()
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    ok(mbuild("import", "mario.tar"))
    assert check_promise(project / "store") == 1


def test_import_gives_all_the_names_that_were_asked_for(mbuild: Run, project: Path) -> None:
    """Each -t is one, as in a build; its blobs are stored once."""
    ok(mbuild("export", "mario", "-o", "mario.tar"))
    said = ok(mbuild("import", "mario.tar", "-t", "one", "-t", "two", "-t", "one"))
    first, second = said.splitlines()
    assert first.startswith("imported one:latest  ")
    assert second == f"imported two:latest  {first.split()[2]}  the same blobs"
    assert check_promise(project / "store") == 3


def archive(files: dict[str, bytes]) -> bytes:
    """A tar archive of plain files."""
    parts = []
    for name, data in files.items():
        parts.append(header(name, len(data), 0, align=False) + data + bytes(-len(data) % 512))
    return b"".join(parts) + bytes(1024)


def blob(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def described(data: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def model_files(
    change: Callable[[dict[str, Any]], Any] = lambda manifest: manifest,
    index: Callable[[dict[str, Any]], Any] = lambda value: value,
) -> dict[str, bytes]:
    """A small model's layout; the functions may change or replace manifest and index."""
    config, system = b"{}", b"You are Mario."
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(config, CONFIG),
        "layers": [described(system, LAYER + "system")],
    }
    data = json.dumps(change(manifest)).encode()
    row = {
        **described(data, MANIFEST),
        "annotations": {"org.opencontainers.image.ref.name": "m:latest"},
    }
    listing = index({"schemaVersion": 2, "manifests": [row]})
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(listing).encode(),
        blob(config): config,
        blob(system): system,
        blob(data): data,
    }


def with_entry(kind: bytes, name: str = "x", link: str = "/etc/passwd") -> bytes:
    """An archive whose first entry is of some kind, written by tarfile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        out.addfile(info)
    return buffer.getvalue()[:512] + archive(model_files())


def renamed(digest: object) -> Callable[[dict[str, Any]], Any]:
    def change(value: dict[str, Any]) -> Any:
        value["manifests"][0]["digest"] = digest
        return value

    return change


def swapped(old: bytes, new: bytes) -> bytes:
    """A good archive with one blob's bytes exchanged."""
    files = model_files()
    assert blob(old) in files
    files[blob(old)] = new
    return archive(files)


def layer(field: str, value: object) -> Callable[[dict[str, Any]], Any]:
    def change(manifest: dict[str, Any]) -> Any:
        manifest["layers"][0][field] = value
        return manifest

    return change


def put(**fields: object) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: {**manifest, **fields}


def without(*names: str) -> bytes:
    return archive({k: v for k, v in model_files().items() if k not in names})


def claims(size_field: bytes) -> bytes:
    """An archive whose first header claims a size of its own."""
    head = bytearray(header("oci-layout", 0, 0, align=False))
    head[124:136] = size_field
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + archive(model_files())


def pax(records: bytes) -> bytes:
    buffer = bytearray(header("h", len(records), 0, align=False))
    buffer[156:157] = b"x"
    buffer[148:156] = b" " * 8
    buffer[148:156] = f"{sum(buffer):06o}\0 ".encode()
    return bytes(buffer) + records + bytes(-len(records) % 512) + archive(model_files())


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "too short"),
    "text": (lambda: b"hello " * 400, "not a tar archive"),
    "zeros": (lambda: bytes(4096), "no file in it"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(600), "compressed with gzip"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd"),
    "symlink": (lambda: with_entry(tarfile.SYMTYPE), "a symbolic link"),
    "hard link": (lambda: with_entry(tarfile.LNKTYPE), "a hard link"),
    "device": (lambda: with_entry(tarfile.CHRTYPE), "a device"),
    "pipe": (lambda: with_entry(tarfile.FIFOTYPE), "a named pipe"),
    "absolute": (lambda: archive({"/etc/cron.d/x": b"x", **model_files()}), "points outside"),
    "dots": (lambda: archive({"a/../../x": b"x", **model_files()}), "points outside"),
    "folder with dots": (lambda: with_entry(tarfile.DIRTYPE, "../x"), "points outside"),
    "backslash": (lambda: archive({"..\\x": b"x", **model_files()}), "points outside"),
    "pax path": (lambda: pax(b"16 path=../../x\n"), "points outside"),
    "pax size": (lambda: pax(b"22 size=9999999999999\n"), "cut short"),
    "pax size text": (lambda: pax(b"11 size=-1\n"), "size"),
    "pax length": (lambda: pax(b"999999 path=x\n"), "malformed"),
    "pax zero": (lambda: pax(b"0 path=x\n"), "malformed"),
    "pax sparse": (lambda: pax(b"22 GNU.sparse.major=1\n"), "sparse"),
    "twice": (
        lambda: archive(model_files())[:-1024] + archive(model_files()),
        "is in the archive twice",
    ),
    "huge size": (lambda: claims(b"77777777777\0"), "cut short"),
    "base 256": (lambda: claims(b"\x80" + b"\xff" * 11), "size"),
    "negative": (lambda: claims(b"\xff" * 12), "size"),
    "no layout": (lambda: without("oci-layout"), "no oci-layout"),
    "no layout and no end": (lambda: without("oci-layout")[:-1024], "cut short: no oci-layout"),
    "no index": (lambda: without("index.json"), "no index.json"),
    "no blob": (lambda: without(blob(b"You are Mario.")), "is missing (system)"),
    "no config": (lambda: without(blob(b"{}")), "is missing"),
    "layout 2": (
        lambda: archive({**model_files(), "oci-layout": b'{"imageLayoutVersion":"2.0"}'}),
        "not 1.x",
    ),
    "index html": (lambda: archive({**model_files(), "index.json": b"<html>"}), "not JSON"),
    "index deep": (lambda: archive({**model_files(), "index.json": b"[" * 200_000}), "not JSON"),
    "index large": (
        lambda: archive({**model_files(), "index.json": b" " * (5 << 20)}),
        "larger than",
    ),
    "index null": (lambda: archive(model_files(index=lambda v: None)), "not a JSON object"),
    "index {}": (lambda: archive(model_files(index=lambda v: {})), "names no manifests"),
    "index of numbers": (
        lambda: archive(model_files(index=lambda v: {"manifests": [1]})),
        "not an object",
    ),
    "many": (
        lambda: archive(model_files(index=lambda v: {"manifests": v["manifests"] * 1001})),
        "the limit is",
    ),
    "nested": (
        lambda: archive(
            model_files(
                index=lambda v: {
                    "manifests": [
                        {
                            **v["manifests"][0],
                            "mediaType": "application/vnd.oci.image.index.v1+json",
                        }
                    ]
                }
            )
        ),
        "index of indexes",
    ),
    "path as digest": (
        lambda: archive(model_files(index=renamed("sha256:../../../../etc/passwd"))),
        "invalid digest",
    ),
    "upper case": (lambda: archive(model_files(index=renamed("sha256:" + "A" * 64))), "invalid"),
    "number as digest": (lambda: archive(model_files(index=renamed(7))), "invalid digest"),
    "other digest": (
        lambda: archive(model_files(index=renamed("sha256:" + "a" * 64))),
        "is missing",
    ),
    "evil name": (
        lambda: archive(
            model_files(
                index=lambda v: {
                    "manifests": [
                        {
                            **v["manifests"][0],
                            "annotations": {"org.opencontainers.image.ref.name": "../../x"},
                        }
                    ]
                }
            )
        ),
        "give one with -t",
    ),
    "no name": (
        lambda: archive(
            model_files(index=lambda v: {"manifests": [{**v["manifests"][0], "annotations": None}]})
        ),
        "no name",
    ),
    "manifest {}": (lambda: archive(model_files(lambda m: {})), "schemaVersion"),
    "manifest null": (lambda: archive(model_files(lambda m: None)), "not a JSON object"),
    "schema 1": (lambda: archive(model_files(put(schemaVersion=1))), "schemaVersion is '1'"),
    "no layers": (lambda: archive(model_files(put(layers=[]))), "not a model"),
    "no layers at all": (lambda: archive(model_files(put(layers=None))), "no layers"),
    "container": (
        lambda: archive(
            model_files(layer("mediaType", "application/vnd.oci.image.layer.v1.tar+gzip"))
        ),
        "not a model",
    ),
    "other config": (
        lambda: archive(
            model_files(put(config=described(b"{}", "application/vnd.oci.image.config.v1+json")))
        ),
        "not a model",
    ),
    "other manifest": (lambda: archive(model_files(put(mediaType="text/html"))), "mediaType"),
    "layer path": (
        lambda: archive(model_files(layer("digest", "sha256:../../x"))),
        "not a manifest",
    ),
    "layer size": (lambda: archive(model_files(layer("size", 15))), "the manifest says 15"),
    "negative layer": (lambda: archive(model_files(layer("size", -1))), "layer size -1"),
    "swapped": (lambda: swapped(b"You are Mario.", b"You are Wario."), "does not match its digest"),
    "longer": (lambda: swapped(b"You are Mario.", b"You are Mario!!"), "the manifest says 14"),
    "cut": (lambda: archive(model_files())[:520], "ends 22 bytes past its end"),
    "cut between files": (lambda: archive(model_files())[:1024], "no index.json"),
    "cut before a blob": (lambda: archive(model_files())[:2048], "is missing"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, case: str) -> None:
    """Refused by what is wrong, under a second; nothing is named, nothing appears elsewhere."""
    make, message = HOSTILE[case]
    path = tmp_path / "deep" / "in" / "here" / "bad.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(make())
    store = Store(path.parent / "store")
    before = time.monotonic()
    with pytest.raises(MbuildError) as caught:
        import_tar(path, store)
    assert time.monotonic() - before < 1
    shown = caught.value.message + caught.value.hint
    assert message in shown, shown
    assert str(tmp_path) not in shown
    assert list(store.list()) == []
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and store.root not in p.parents]
    assert outside == [path]
    assert list((store.root / ".mbuild" / "tmp").glob("*")) == []


def test_the_pattern_of_the_hostile_archives_is_good(tmp_path: Path) -> None:
    """Unchanged, the archive that the hostile ones are made from is imported."""
    path = tmp_path / "good.tar"
    path.write_bytes(archive(model_files()))
    (imported,) = import_tar(path, Store(tmp_path / "store"))
    assert str(imported.name) == "m:latest"
    assert imported.written == len("{}You are Mario.")


def test_any_flipped_byte_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """200 random flips: either the very model comes in, under some name, or one of our errors."""
    good, chance = archive(model_files()), random.Random(4)
    path = tmp_path / "a.tar"
    path.write_bytes(good)
    (first,) = import_tar(path, Store(tmp_path / "first"))
    refused = 0
    for number in range(200):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        root = tmp_path / f"{number}"
        try:
            (imported,) = import_tar(path, Store(root))
            assert imported.id == first.id
            assert check_promise(root) == 1
        except MbuildError:
            refused += 1
            assert list(Store(root).list()) == []
        shutil.rmtree(root, ignore_errors=True)
    assert refused > 100


def test_several_models_in_one_archive(tmp_path: Path, mbuild: Run) -> None:
    """All come in under their names; one name for several is refused."""
    files = model_files()
    other = model_files(put(annotations={"x": "y"}))
    rows = [json.loads(f["index.json"])["manifests"][0] for f in (files, other)]
    rows[1]["annotations"] = {"org.opencontainers.image.ref.name": "second/one:v2"}
    index = json.dumps({"schemaVersion": 2, "manifests": rows}).encode()
    (tmp_path / "two.tar").write_bytes(archive({**files, **other, "index.json": index}))
    assert mbuild("import", "two.tar", "-t", "x").returncode == 2
    out = ok(mbuild("import", "two.tar"))
    assert "imported m:latest" in out
    assert "imported second/one:v2" in out
    assert check_promise(tmp_path / "store") == 2


# GGUF.


def test_settings_are_in_the_metadata_and_the_weights_are_the_same(
    mbuild: Run, project: Path
) -> None:
    """Every documented key, and tensor for tensor the bytes of the source."""
    ok(mbuild("export", "mario", "-o", "out/mario.gguf"))
    with open_gguf(project / "model.gguf") as old, open_gguf(project / "out/mario.gguf") as new:
        added = {key: new.get(key) for key in new.kvs if key not in old.kvs}
        padding = added.pop("mbuild.padding", "")
        assert padding == " " * len(padding)
        assert json.loads(added.pop("ollama.params")) == {
            "temperature": 0.5,
            "top_k": 7,
            "repeat_last_n": -1,
            "num_ctx": 4096,
            "stop": ["</s>", "User:"],
        }
        assert json.loads(added.pop("ollama.messages")) == [{"role": "user", "content": "hi"}]
        assert added == {
            "general.sampling.temp": 0.5,
            "general.sampling.top_k": 7,
            "general.sampling.penalty_last_n": -1,
            "tokenizer.ggml.eot_token_id": 2,
            "ollama.template": "{{ .System }} {{ .Prompt }}",
            "ollama.system": "You are Mario.",
            "ollama.stop": ["</s>", "User:"],
            "ollama.license": ["MIT"],
        }
        assert {k: old.get(k) for k in old.kvs} == {k: new.get(k) for k in old.kvs}
        for a, b in zip(old.model().tensors, new.model().tensors, strict=True):
            assert (a.name, a.dims, a.type, bytes(a.load())) == (
                b.name,
                b.dims,
                b.type,
                bytes(b.load()),
            )
        assert new.data_start % 4096 == old.data_start % 4096
    names = sorted(path.name for path in (project / "out").iterdir())
    assert names == ["mario-adapter.gguf", "mario-draft.gguf", "mario.gguf"]
    assert (project / "out/mario-adapter.gguf").read_bytes() == (project / "lora.gguf").read_bytes()


@pytest.mark.parametrize("alignment", [8, 32, 64, 8192])
@pytest.mark.parametrize("extra", range(0, 4096, 513))
def test_data_keeps_its_place_in_a_block(tmp_path: Path, alignment: int, extra: int) -> None:
    """Whatever the header's length and the alignment, the data can share its blocks."""
    from mbuild.gguf.writer import layout
    from mbuild.models.artifacts.settings import align

    model = tiny_model(metadata={"general.alignment": alignment, "x": "y" * extra})
    for start in (alignment, 4096, 4096 + alignment, 10 * alignment, 1 << 20):
        start = -(-start // alignment) * alignment
        made = align(model, start)
        assert len(layout(made).header) % 4096 == start % 4096
        assert layout(align(made, start)).header == layout(made).header
        assert gguf_bytes(made)[-100:] == gguf_bytes(model)[-100:]


def test_stop_tokens_fill_what_the_model_leaves_open(tmp_path: Path, mbuild: Run) -> None:
    """Only control tokens that end something, only where the model names none itself."""
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eom|>", "end", "x"]
    numbers = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 8,
        "tokenizer.ggml.token_type": [2, 3, 3, 3, 3, 3, 1, 1],
        "tokenizer.ggml.eos_token_id": 2,
    }
    stops = ["<|im_start|>", "end", "</s>", "<|im_end|>", "no such", "<|eom|>"]
    text = "FROM ./model.gguf\n" + "".join(f'PARAMETER stop "{stop}"\n' for stop in stops)
    cases: list[tuple[dict[str, Any], tuple[Any, Any]]] = [
        ({}, (4, 5)),
        ({"tokenizer.ggml.eot_token_id": 7}, (7, 4)),
        ({"tokenizer.ggml.eot_token_id": 4}, (4, 5)),
        (
            {
                "tokenizer.ggml.tokens": None,
                "tokenizer.ggml.scores": None,
                "tokenizer.ggml.token_type": None,
            },
            (None, None),
        ),
    ]
    for number, (changes, expected) in enumerate(cases):
        tiny_gguf(tmp_path / "model.gguf", metadata={**numbers, **changes})
        ok(mbuild("-f", "-", "-t", "m", input=text))
        ok(mbuild("export", "m", "-o", f"{number}.gguf"))
        with open_gguf(tmp_path / f"{number}.gguf") as file:
            found = tuple(file.get(f"tokenizer.ggml.{k}_token_id") for k in ("eot", "eom"))
            assert found == expected
            assert file.get("ollama.stop") == stops


def test_sampling_keys_are_those_of_the_gguf_package() -> None:
    """Every key under general.sampling. that mbuild writes is one that gguf-py knows."""
    from gguf import Keys

    known = {v for k, v in vars(Keys.General).items() if k.startswith("SAMPLING_")}
    assert {f"general.sampling.{key}" for key, _ in SAMPLING.values()} <= known


def test_settings_replace_older_ones_in_place(tmp_path: Path, mbuild: Run) -> None:
    """A key that the file has keeps its place and takes the model's value; Jinja stays."""
    metadata = {
        "general.sampling.temp": entry("general.sampling.temp", 0.9),
        "tokenizer.chat_template": "{{ messages }}",
        "ollama.system": "old",
        "mbuild.padding": "   ",
    }
    tiny_gguf(tmp_path / "model.gguf", metadata=metadata)
    text = 'FROM ./model.gguf\nSYSTEM new\nTEMPLATE "{{ .Prompt }}"\nPARAMETER temperature 0.25\n'
    ok(mbuild("-f", "-", "-t", "m", input=text))
    ok(mbuild("export", "m", "-o", "m.gguf"))
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.get("general.sampling.temp") == 0.25
        assert file.get("tokenizer.chat_template") == "{{ messages }}"
        assert file.get("ollama.system") == "new"
        keys = [key for key in file.kvs if key in metadata and key != "mbuild.padding"]
        assert keys == [key for key in metadata if key != "mbuild.padding"]


# Directories, links, refusals.


def test_a_directory_builds_the_same_model_again(mbuild: Run, project: Path) -> None:
    """Its Modelfile names its files; texts lie beside; the rebuilt model shows the same."""
    ok(mbuild("export", "mario", "-o", "out", "--raw"))
    names = sorted(path.name for path in (project / "out").iterdir())
    assert names == [
        "LICENSE",
        "Modelfile",
        "mario-adapter.gguf",
        "mario-draft.gguf",
        "mario.gguf",
        "params",
        "system",
        "template",
    ]
    assert (project / "out/mario.gguf").read_bytes() == (project / "model.gguf").read_bytes()
    ok(mbuild("-t", "again", "out"))
    first, second = (json.loads(ok(mbuild("show", name, "--json"))) for name in ("mario", "again"))
    layers = [[x["digest"] for x in value["layers"]] for value in (first, second)]
    assert layers[0] == layers[1]
    ok(mbuild("export", "mario", "-o", "settings"))
    ok(mbuild("-t", "third", "settings"))
    assert json.loads(ok(mbuild("show", "third", "--json")))["parameters"] == first["parameters"]


def test_lm_studio_finds_the_model_two_folders_deep(mbuild: Run, project: Path) -> None:
    """<namespace>/<model>/<file>.gguf, as LM Studio's documentation asks."""
    ok(mbuild("cp", "mario", "me/mario:v2"))
    ok(mbuild("export", "me/mario:v2", "--lmstudio", "-o", "models"))
    found = [str(p.relative_to(project / "models")) for p in (project / "models").rglob("*.gguf")]
    assert sorted(found) == [
        "me/mario/mario-v2-adapter.gguf",
        "me/mario/mario-v2-draft.gguf",
        "me/mario/mario-v2.gguf",
    ]


def test_link_shares_the_stores_file(mbuild: Run, project: Path) -> None:
    """--link makes second names, says what that means, and refuses where it cannot."""
    out = ok(mbuild("export", "mario", "--link", "-o", "out/m.gguf"))
    assert "linked: do not edit it" in out
    digest = hashlib.sha256((project / "out/m.gguf").read_bytes()).hexdigest()
    blob_path = project / "store" / "blobs" / f"sha256-{digest}"
    assert (project / "out/m.gguf").samefile(blob_path)
    assert mbuild("export", "mario", "--link", "-o", "m.tar").returncode == 2
    shm = Path("/dev/shm")
    if shm.is_dir() and shm.stat().st_dev != project.stat().st_dev:
        done = mbuild("export", "mario", "--link", "-o", shm / f"mbuild-{os.getpid()}.gguf")
        assert done.returncode == 1
        assert "cannot be a hard link" in done.stderr


def test_existing_files_are_kept_unless_forced(mbuild: Run, project: Path) -> None:
    """Nothing is overwritten without --force, and then in one piece."""
    for output in ("mario.gguf", "mario.tar"):
        (project / output).write_text("mine")
        done = mbuild("export", "mario", "-o", output)
        assert done.returncode == 1
        assert "--force" in done.stderr
        assert (project / output).read_text() == "mine"
        ok(mbuild("export", "mario", "-o", output, "--force"))
        assert (project / output).stat().st_size > 1000
    assert mbuild("export", "mario", "-o", "mario.tar.gz").returncode == 2
    assert mbuild("export", "mario", "-o", "x.gguf", "--lmstudio").returncode == 2


def test_a_damaged_blob_is_never_exported(mbuild: Run, project: Path) -> None:
    """The error names the blob, and nothing is left at the place."""
    weights = max((project / "store" / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"!")
    (project / "to").mkdir()
    for output in ("m.gguf", "m.tar", "out"):
        for options in ([], ["--raw"], ["--link"]):
            done = mbuild("export", "mario", "-o", f"to/{output}", *options)
            if options == ["--link"] and output == "m.tar":
                assert done.returncode == 2
                continue
            assert done.returncode == 1
            assert weights.name.replace("-", ":") in done.stderr
            assert "mbuild verify" in done.stderr
            assert [p for p in (project / "to").rglob("*") if p.is_file()] == []


def test_models_without_gguf_leave_as_tar_only(tmp_path: Path, mbuild: Run) -> None:
    """Weights of another format are refused for GGUF and taken by the archive."""
    (tmp_path / "good.tar").write_bytes(archive(model_files()))
    ok(mbuild("import", "good.tar"))
    done = mbuild("export", "m", "-o", "m.gguf")
    assert done.returncode == 1
    assert "no GGUF weights" in done.stderr
    ok(mbuild("export", "m", "-o", "m.tar"))
    assert mbuild("export", "nope", "-o", "x.tar").returncode == 1


@pytest.fixture
def reflink_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that shares extents."""
    need("mkfs.xfs", "mount", "umount")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    commands = (["mkfs.xfs", "-q", "-m", "reflink=1", image], ["mount", "-o", "loop", image, place])
    if any(subprocess.run(c, capture_output=True, check=False).returncode for c in commands):
        pytest.skip("no loop mounts of XFS here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=False)


def test_exports_share_blocks_with_the_store(
    mbuild: Run, tmp_path: Path, reflink_disk: Path
) -> None:
    """On XFS a GGUF with new metadata, a tar, and an import take next to no room."""
    data = os.urandom(32 << 20)
    weights = Tensor("token_embd.weight", (4096, 2048), GGMLType.F32, lambda: data)
    tiny_gguf(tmp_path / "model.gguf", tensors=[weights])
    store = reflink_disk / "store"
    text = "FROM ./model.gguf\nSYSTEM hi\n"
    ok(mbuild("-f", "-", "-t", "m", "--store", store, input=text))

    def used() -> int:
        os.sync()
        info = os.statvfs(reflink_disk)
        return (info.f_blocks - info.f_bfree) * info.f_frsize

    before = used()
    for name in ("m.gguf", "m.tar", "out"):
        done = ok(mbuild("export", "m", "-o", reflink_disk / name, "--store", store))
        assert "shared with the store" in done
    ok(mbuild("import", reflink_disk / "m.tar", "--store", reflink_disk / "other"))
    assert used() - before < 4 << 20
    assert check_promise(reflink_disk / "other") == 1
    with open_gguf(reflink_disk / "m.gguf") as file:
        assert file.get("ollama.system") == "hi"
        assert bytes(file.model().tensors[0].load()) == data


# What others read.


@pytest.mark.oracle
def test_llama_cpp_loads_the_export_with_template_and_settings(mbuild: Run, tmp_path: Path) -> None:
    """llama.cpp serves the file: its chat template, its sampling settings, its stop token."""
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="xllamacpp (llama.cpp for Python) is not installed"
    )
    copy_tiny_store(tmp_path / "store")
    assert mbuild("export", "tiny", "--raw", "-o", "tiny.gguf").returncode == 0
    with open_gguf(tmp_path / "tiny.gguf") as file:
        model = file.model()
        template = entry(
            "tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        added = type(model)((*model.metadata, template), model.tensors)
        (tmp_path / "model.gguf").write_bytes(gguf_bytes(added))
    text = (
        'FROM ./model.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER temperature 0.25\n'
        "PARAMETER top_k 3\nPARAMETER repeat_penalty 1.5\nPARAMETER stop </s>\n"
    )
    ok(mbuild("-f", "-", "-t", "m", input=text))
    ok(mbuild("export", "m", "-o", "m.gguf"))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(tmp_path / "m.gguf")
    parameters.n_ctx, parameters.warmup = 64, False
    server = xllamacpp.Server(parameters)
    with urllib.request.urlopen(f"{server.listening_address}/props", timeout=20) as answer:
        properties = json.loads(answer.read())
    assert properties["chat_template"].startswith("{% for m in messages %}")
    sampling = properties["default_generation_settings"]["params"]
    assert (sampling["temperature"], sampling["top_k"]) == (0.25, 3)
    assert sampling["repeat_penalty"] == 1.5
    answer = server.handle_completions({"prompt": "a", "max_tokens": 2})
    assert "choices" in answer or "content" in answer
    del server


def test_the_documented_session(tmp_path: Path) -> None:
    """Each command of docs/export.md prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented("export.md", tmp_path)
