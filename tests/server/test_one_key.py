"""A source has one key: what one front end built, the other finds in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Run
from example_models import generator, settle
from gguf_files import tiny_gguf, tiny_shards
from inprocess import in_process
from live_server import Server, serving_here

from mbuild.build.history import History
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.names import ModelName
from mbuild.store import Store

CARD = "---\nlicense: mit\n---\n# A model\n"


class Case(NamedTuple):
    """One build, as both front ends say it.

    ``parts`` are the fields of a request, each with the folders or files that it sends.
    """

    modelfile: str
    parts: dict[str, tuple[str, ...]]
    quantize: str = ""


CASES = {
    "checkpoint": Case("FROM ./chat", {"files": ("chat",)}),
    "shards": Case("FROM ./sharded", {"files": ("sharded",)}),
    "quantized": Case("FROM ./chat", {"files": ("chat",)}, "q8_0"),
    "GGUF": Case("FROM ./m.gguf", {"files": ("m.gguf",)}),
    "quantized GGUF": Case("FROM ./big.gguf", {"files": ("big.gguf",)}, "q8_0"),
    "split GGUF": Case("FROM ./split/s-00001-of-00002.gguf", {"files": ("split",)}),
    "PEFT adapter": Case(
        "FROM ./chat\nADAPTER ./lora", {"files": ("chat",), "adapters": ("lora",)}
    ),
    "GGUF adapter": Case(
        "FROM ./m.gguf\nADAPTER ./a.gguf", {"files": ("m.gguf",), "adapters": ("a.gguf",)}
    ),
    "draft": Case("FROM ./m.gguf\nDRAFT ./chat", {"files": ("m.gguf",), "draft_files": ("chat",)}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a model card and without, in shards, as GGUF, and adapters."""
    folder, models = tmp_path_factory.mktemp("sources"), generator()
    models.write_chat(folder / "chat")
    models.write_lora(folder / "lora")
    models.write_gguf(folder / "chat", folder / "big.gguf")
    (folder / "chat/README.md").write_text(CARD)
    (folder / "chat/training.log").write_text("step 1\n")
    (folder / "chat/additional_chat_templates").mkdir()
    (folder / "chat/additional_chat_templates/tool_use.jinja").write_text("{{ messages }}")
    in_shards(folder / "chat", folder / "sharded")
    tiny_gguf(folder / "m.gguf")
    tiny_gguf(folder / "a.gguf", kind="adapter")
    (folder / "split").mkdir()
    tiny_shards(folder / "split", "s", (2, 3))
    return folder


def in_shards(checkpoint: Path, target: Path) -> None:
    """The checkpoint with its tensors in two files and an index."""
    import json

    shutil.copytree(checkpoint, target)
    whole = target / "model.safetensors"
    raw = whole.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    promised = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        rows, data = {}, bytearray()
        for name in part:
            start, end = header[name]["data_offsets"]
            rows[name] = {**header[name], "data_offsets": [len(data), len(data) + end - start]}
            data += raw[8 + length + start : 8 + length + end]
            promised[name] = shard
        text = json.dumps(rows).encode()
        text += b" " * (-len(text) % 8)
        (target / shard).write_bytes(len(text).to_bytes(8, "little") + text + data)
    whole.unlink()
    index = {"metadata": {}, "weight_map": promised}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """The sources, in files of their own that nobody has read yet."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    settle()
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(project, monkeypatch)


@pytest.fixture
def server(project: Path) -> Iterator[Server]:
    with serving_here(project / "store") as server:
        yield server


def by_command_line(mbuild: Run, project: Path, case: Case) -> bytes:
    """Build ``m``; its manifest."""
    (project / "Modelfile").write_text(case.modelfile + "\n")
    options = ("-q", case.quantize) if case.quantize else ()
    done = mbuild("--progress", "quiet", "-t", "m", *options)
    assert done.returncode == 0, done.stderr
    return manifest(project)


def by_http(server: Server, project: Path, case: Case) -> bytes:
    """Upload what is not there yet, and create ``m``; its manifest."""
    fields: dict[str, Any] = {"quantize": case.quantize} if case.quantize else {}
    for field, sources in case.parts.items():
        fields[field] = {}
        for source in sources:
            path = project / source
            files = sorted(p for p in path.rglob("*") if p.is_file()) or [path]
            for file in files:
                name = file.relative_to(project).as_posix()
                fields[field][name] = sent(server, file.read_bytes())
    answer = server.create(model="m", stream=False, **fields)
    assert answer.json() == {"status": "success"}
    return manifest(project)


def sent(server: Server, data: bytes) -> str:
    """Upload a blob as Ollama's client does: only if the server does not have it."""
    digest = str(Digest.of(data))
    if server.http.head(f"/api/blobs/{digest}").status_code == 404:
        server.upload(data)
    return digest


def manifest(project: Path) -> bytes:
    """The manifest of ``m``."""
    data = Store(project / "store").manifests.read_bytes(ModelName.parse("m"))
    assert data
    return data


def ran(project: Path) -> list[str]:
    """The kinds of the steps that the last build ran."""
    last = next(History(Store(project / "store")).newest_first())
    return [step.kind for step in last.steps if step.status == "ran"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_build_of_the_command_line_is_found_over_http(
    mbuild: Run, server: Server, project: Path, case: Case
) -> None:
    """The same files, uploaded, are the same source: 0 steps run, and the model is the same."""
    made = by_command_line(mbuild, project, case)
    assert ran(project)
    assert by_http(server, project, case) == made
    assert ran(project) == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_build_over_http_is_found_by_the_command_line(
    mbuild: Run, server: Server, project: Path, case: Case
) -> None:
    """Files that the command line never saw are those that were uploaded: 0 steps run."""
    made = by_http(server, project, case)
    assert ran(project)
    assert by_command_line(mbuild, project, case) == made
    assert ran(project) == []


def test_another_text_of_the_card_is_the_same_source(
    mbuild: Run, server: Server, project: Path
) -> None:
    """Only the front matter of README.md counts, at both front ends."""
    case = CASES["checkpoint"]
    by_command_line(mbuild, project, case)
    (project / "chat/README.md").write_text(CARD + "More words.\n")
    by_http(server, project, case)
    assert ran(project) == []
    (project / "chat/README.md").write_text(CARD.replace("mit", "bsd"))
    by_http(server, project, case)
    assert "convert" in ran(project)


def test_a_blob_that_nobody_read_is_read_beside_the_conversion(
    mbuild: Run, server: Server, project: Path
) -> None:
    """Blobs that came without a BLAKE3 get it when they are used, and it is remembered."""
    store = Store(project / "store")
    for file in (project / "chat").rglob("*"):
        if file.is_file():
            store.prepare()
            store.blobs.put(file.read_bytes())
    weights = (project / "chat/model.safetensors").read_bytes()
    assert store.database.alias(Digest.of(weights)) is None
    case = CASES["checkpoint"]
    by_http(server, project, case)
    assert Store(store.root).database.alias(Digest.of(weights)) == Digest.of(weights, BLAKE3)
    by_http(server, project, case)
    assert ran(project) == []
    by_command_line(mbuild, project, case)
    assert ran(project) == []


def test_a_damaged_blob_is_no_source(server: Server, project: Path) -> None:
    """A blob that is not what its name says is refused by it when it is read for its BLAKE3."""
    store = Store(project / "store")
    store.prepare()
    files = {}
    for file in (project / "chat").iterdir():
        if file.is_file():
            files[file.name] = str(store.blobs.put(file.read_bytes()).digest)
    blob = store.blobs.path(Digest.parse(files["model.safetensors"]))
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    answer = server.create(model="m", files=files, stream=False)
    assert answer.status_code == 500
    assert f"blob {files['model.safetensors']} is damaged" in answer.json()["error"]
