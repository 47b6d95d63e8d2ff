"""``mbuild verify --rebuild`` builds a model again elsewhere and compares the two bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import generator, set_value, settle
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.build import build
from mbuild.build.rebuild import first_difference, place_in_gguf
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.registry.client.access import Access
from mbuild.server.create import read_creation
from mbuild.server.shapes import CREATE, check
from mbuild.store import Store
from mbuild.store.files import temporary_folder


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Modelfile FROM a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    settle()
    return tmp_path


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A Modelfile FROM a checkpoint, with an adapter and an importance matrix beside it."""
    generator().write_chat(tmp_path / "chat")
    generator().write_lora(tmp_path / "lora")
    (tmp_path / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\nSYSTEM hi\n")
    name = b"blk.0.attn_q.weight"
    row = struct.pack("<ii", 1, 256) + struct.pack("<256f", *range(1, 257))
    (tmp_path / "imatrix.dat").write_bytes(struct.pack("<ii", 1, len(name)) + name + row)
    settle()
    return tmp_path


def leftovers(folder: Path) -> list[str]:
    """What is left under construction in the store."""
    return os.listdir(folder / "store/.mbuild/tmp")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """The store's own files: blobs and manifests by path, with inode and change time."""
    found = {}
    for part in ("blobs", "manifests"):
        for path in (folder / "store" / part).rglob("*"):
            if path.is_file():
                info = path.stat()
                found[str(path)] = (info.st_ino, info.st_ctime_ns)
    return found


def test_a_model_is_built_again_to_the_same_bits(project: Path, mbuild: Run) -> None:
    """Every step runs again; nothing in the store is touched, nothing is left."""
    assert mbuild("-t", "mario").returncode == 0
    before = files(project)
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 0, done.stderr
    assert "mario:latest: built again, bit for bit the same (" in done.stdout
    assert "parsing GGUF" in done.stderr
    assert files(project) == before
    assert leftovers(project) == []
    assert len(json.loads(mbuild("history", "--format", "json", "-n", "1").stdout)["steps"]) > 0


def test_a_variant_is_built_again_alone_with_its_options(chat: Path, mbuild: Run) -> None:
    """Of two types built in one go that of the model; companions and relative paths are known."""
    options = [
        "-q",
        "q8_0",
        "-q",
        "q4_0",
        "--imatrix",
        "imatrix.dat",
        "--tensor-type",
        "attn_v=f16",
    ]
    assert mbuild(*options, "-t", "m", "-t", "n:{quant}").returncode == 0
    os.chdir("/")
    for name, target in (("m:q8_0", "Q8_0"), ("n:q4_0", "Q4_0")):
        done = mbuild("verify", "--rebuild", name, "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        (found,) = json.loads(done.stdout)["rebuilt"]
        assert found["old"] == found["new"]
        assert found["differences"] == []
        other = mbuild("verify", "--rebuild", name)
        assert f"model to {target}" in other.stderr
        assert other.stderr.count("quantizing") == 1


def test_a_base_model_is_lent_and_not_copied(
    project: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FROM a stored model works under a disk limit that a copy of its weights would break."""
    assert mbuild("-t", "base").returncode == 0
    (project / "Modelfile").write_text("FROM base\nSYSTEM derived\n")
    assert mbuild("-t", "derived").returncode == 0
    before = files(project)
    free = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=(1 << 20) + 1000))
    done = mbuild("verify", "--rebuild", "derived")
    assert done.returncode == 0, done.stderr
    assert files(project) == before


def test_a_disk_without_room_is_told_before_anything_is_built(
    project: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes and what is free, and no step runs."""
    assert mbuild("-t", "mario").returncode == 0
    free = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=1000))
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 1
    assert "bytes on this disk, but only 1,000 are free" in done.stderr
    assert "parsing" not in done.stderr
    assert leftovers(project) == []


def test_a_copy_of_a_model_is_found_by_its_content(project: Path, mbuild: Run) -> None:
    """The build that made it gave it another name."""
    assert mbuild("-t", "mario").returncode == 0
    assert mbuild("cp", "mario", "luigi").returncode == 0
    assert mbuild("rm", "mario").returncode == 0
    assert mbuild("verify", "--rebuild", "luigi").returncode == 0


def test_sources_that_changed_are_named(chat: Path, mbuild: Run) -> None:
    """A changed and a missing file, and a base model that is another now."""
    assert mbuild("-t", "mario").returncode == 0
    config = chat / "chat/tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 1
    assert "tokenizer_config.json" in done.stderr
    assert "->" in done.stderr
    assert "have changed since" in done.stderr
    adapter = chat / "lora/adapter_model.safetensors"
    config.write_text(config.read_text()[:-1])
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    assert "adapter_model.safetensors" in mbuild("verify", "--rebuild", "mario").stderr
    shutil.rmtree(chat / "lora")
    done = mbuild("verify", "--rebuild", "mario")
    assert "ADAPTER ./lora: no such file or directory" in done.stderr
    assert done.returncode == 1
    assert leftovers(chat) == []


def test_a_base_model_that_changed_is_told(project: Path, mbuild: Run) -> None:
    """The model is FROM a name that means something else by now."""
    assert mbuild("-t", "base").returncode == 0
    (project / "derived").mkdir()
    (project / "derived/Modelfile").write_text("FROM base\nPARAMETER top_k 1\n")
    assert mbuild("derived").returncode == 0
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM other\n")
    assert mbuild("-t", "base").returncode == 0
    done = mbuild("verify", "--rebuild", "derived")
    assert done.returncode == 1
    assert "layer of the base model" in done.stderr


def test_a_model_that_nobody_remembers_building_needs_a_modelfile(
    project: Path, mbuild: Run
) -> None:
    """One that came by another way, and one whose name was given to something else since."""
    assert mbuild("-t", "mario").returncode == 0
    (project / "store/.mbuild/history.jsonl").unlink()
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 1
    assert "the history of this store has no build of mario:latest" in done.stderr
    assert mbuild("verify", "--rebuild", "mario", "-f", "Modelfile").returncode == 0
    (project / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM other\n")
    assert mbuild("-t", "luigi").returncode == 0
    assert mbuild("cp", "mario", "luigi").returncode == 0
    done = mbuild("verify", "--rebuild", "luigi")
    assert done.returncode == 2
    assert "is not what was built under that name" in done.stderr


def test_what_differs_is_named_down_to_the_tensor(chat: Path, mbuild: Run) -> None:
    """Other weights: the manifest, the layer, the first tensor and its byte; exit status 1."""
    assert mbuild("-t", "mario").returncode == 0
    set_value(chat / "chat/model.safetensors", "model.layers.1.mlp.up_proj.weight", 0.5)
    (chat / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\nSYSTEM ho\n")
    done = mbuild("verify", "--rebuild", "mario", "-f", "Modelfile")
    assert done.returncode == 1
    assert "mario:latest: built again, and it differs" in done.stdout
    assert "manifest: sha256:" in done.stdout
    assert "layer 1 (model): sha256:" in done.stdout
    assert "in tensor blk.1.ffn_up.weight at its byte 0" in done.stdout
    assert "(system): sha256:" in done.stdout
    assert "(adapter)" not in done.stdout
    assert leftovers(chat) == []
    rows = json.loads(
        mbuild("verify", "--rebuild", "mario", "-f", "Modelfile", "--format", "json").stdout
    )["rebuilt"][0]["differences"]
    assert [row["what"] for row in rows] == ["manifest", "layer 1 (model)", "layer 4 (system)"]


def test_a_lock_says_how_to_build(chat: Path, mbuild: Run) -> None:
    """With -f the options come from the lock beside the Modelfile, and drift from it is refused."""
    options = [
        "-q",
        "q8_0",
        "-q",
        "q4_0",
        "--imatrix",
        "imatrix.dat",
        "--tensor-type",
        "attn_v=f16",
    ]
    assert mbuild("lock", *options, "-t", "m").returncode == 0
    (chat / "store/.mbuild/history.jsonl").unlink()
    done = mbuild("verify", "--rebuild", "m:q4_0", "-f", "Modelfile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model to Q4_0" in done.stderr
    (chat / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\nSYSTEM ho\n")
    done = mbuild("verify", "--rebuild", "m:q4_0", "-f", "Modelfile")
    assert done.returncode == 1
    assert "SYSTEM changed" in done.stderr


def posted(folder: Path, **fields: Any) -> None:
    """Build a model as ``POST /api/create`` does; values that are paths are uploaded."""
    store = Store(folder / "store")
    store.prepare()

    def uploaded(value: Any) -> Any:
        if isinstance(value, Path):
            return str(store.blobs.put(value.read_bytes()).digest)
        return {k: uploaded(v) for k, v in value.items()} if isinstance(value, dict) else value

    creation = read_creation(check(CREATE, uploaded(fields)), store)
    list(build(creation.build(store, Access.of_operator(())), store))
    store.database.close()


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder, by name."""
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def test_a_model_that_came_over_http_is_built_again(chat: Path, mbuild: Run) -> None:
    """From a checkpoint's files with an adapter and options; from a text; from a stored model."""
    imatrix = {"imatrix.dat": chat / "imatrix.dat"}
    posted(
        chat,
        model="mario",
        files=files_of(chat / "chat"),
        adapters=files_of(chat / "lora"),
        quantize="q8_0",
        imatrix=imatrix,
        tensor_type=["attn_v=q4_0"],
        system="hi",
        messages=[{"role": "user", "content": "a", "images": ["AAAA"]}],
    )
    posted(chat, model="luigi", **{"from": "mario"}, parameters={"top_k": 3})
    posted(chat, model="toad", modelfile="FROM mario\nSYSTEM toad\n")
    before = files(chat)
    for name in ("mario", "luigi", "toad"):
        done = mbuild("verify", "--rebuild", name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{name}:latest: built again, bit for bit the same (" in done.stdout
    assert files(chat) == before
    shown = mbuild("history", "mario").stdout
    assert "a request to the API" in shown
    assert "--imatrix imatrix.dat" in shown


def test_what_an_http_build_was_made_of_is_named_when_it_is_gone(chat: Path, mbuild: Run) -> None:
    """A kept blob is brought back; of one that is nowhere the client's name and the digest."""
    posted(chat, model="mario", files=files_of(chat / "chat"))
    store = Store(chat / "store")
    weights = chat / "chat/model.safetensors"
    digest = Digest.of(weights.read_bytes())
    store.blobs.path(digest).unlink()
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 1
    assert "mario:latest cannot be built again: the store no longer has model" in done.stderr
    assert str(digest) in done.stderr
    assert "POST /api/blobs" in done.stderr
    store.blobs.put(weights.read_bytes())
    assert mbuild("verify", "--rebuild", "mario").returncode == 0


def test_a_request_that_the_cache_lost_is_told(project: Path, mbuild: Run) -> None:
    """The log has only its digest."""
    posted(project, model="mario", files={"model.gguf": project / "model.gguf"})
    (project / "store/.mbuild/cache.db").unlink()
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 2
    assert "the cache no longer has the request that it was built from" in done.stderr


def test_a_damaged_model_is_told_before_it_is_built_again(project: Path, mbuild: Run) -> None:
    """What the store holds is rehashed first: its own bytes are one side of the comparison."""
    assert mbuild("-t", "mario").returncode == 0
    manifest = json.loads(
        (project / "store/manifests/registry.ollama.ai/library/mario/latest").read_text()
    )
    blob = project / "store/blobs" / manifest["layers"][0]["digest"].replace(":", "-")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    done = mbuild("verify", "--rebuild", "mario")
    assert done.returncode == 1
    assert "damaged" in done.stdout
    assert "parsing" not in done.stderr


def test_wrong_usage(project: Path, mbuild: Run) -> None:
    """--rebuild wants names, -f wants one name."""
    assert mbuild("verify", "--rebuild").returncode == 2
    assert mbuild("verify", "-f", "Modelfile").returncode == 2
    assert mbuild("verify", "--rebuild", "-f", "Modelfile", "a", "b").returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_rebuild_leaves_nothing(project: Path, mbuild: Run, how: signal.Signals) -> None:
    """Ctrl-C and SIGTERM remove the throw-away store; after a kill the next build does."""
    with (project / "model.gguf").open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.truncate(file.tell() + (192 << 20))  # sparse: takes a while to copy
    assert mbuild("-t", "mario", "--link").returncode == 0
    command = [sys.executable, "-m", "mbuild", "verify", "--rebuild", "mario", "-f", "Modelfile"]
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, cwd=project, stdout=quiet, stderr=quiet)
    deadline = time.monotonic() + 60
    while not leftovers(project) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(how)
    running.wait(60)
    if how is signal.SIGKILL:
        assert len(leftovers(project)) == 1
        assert mbuild("-t", "mario", "--link").returncode == 0
    assert leftovers(project) == []


def test_a_killed_rebuild_is_seen_and_pruned(project: Path, mbuild: Run) -> None:
    """``du`` counts what it left behind, ``prune`` removes it; one that goes on is left alone."""
    assert mbuild("-t", "mario").returncode == 0
    left = project / "store/.mbuild/tmp/tmp-1-dead"
    (left / "store/blobs").mkdir(parents=True)
    (left / "store/blobs/sha256-x").write_bytes(bytes(5000))
    with temporary_folder(left.parent) as running:
        assert re.search("files under construction +5.0 KB", mbuild("du").stdout)
        assert "5.0 KB freed" in mbuild("prune").stdout
        assert running.is_dir()
        assert os.listdir(left.parent) == [running.name]
    assert leftovers(project) == []


def test_files_that_are_read_beforehand_are_told(project: Path) -> None:
    """Only those whose digest nobody remembers, with their sizes."""
    store, told = Store(project / "store"), list[tuple[str, int]]()
    store.prepare()
    for _ in range(2):
        context = LocalContext(
            project, store, hash_files=True, on_read=lambda *file: told.append(file)
        )
        context.model("./model.gguf")
        store.database.flush()
    assert told == [("model.gguf", (project / "model.gguf").stat().st_size)]


def test_the_first_difference_of_two_files(tmp_path: Path) -> None:
    """Its offset, also beyond the piece that is read at once; the end of the shorter file."""
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(bytes(3 << 20))
    for offset in (0, 5, (1 << 20) - 1, 1 << 20, (3 << 20) - 1):
        data = bytearray(3 << 20)
        data[offset] = 1
        two.write_bytes(data)
        assert first_difference(one, two) == offset
    two.write_bytes(bytes(100))
    assert first_difference(one, two) == first_difference(two, one) == 100
    assert first_difference(one, one) is None


def test_places_in_a_gguf_file(tmp_path: Path) -> None:
    """A byte of the header, of a metadata value, of a tensor."""
    path = tiny_gguf(tmp_path / "model.gguf")
    data = path.read_bytes()
    assert place_in_gguf(path, 0) == ", in the header"
    assert place_in_gguf(path, data.index(b"tiny")) == ", in the value of general.name"
    assert place_in_gguf(path, len(data) - 256).startswith(", in tensor output_norm.weight")
    (tmp_path / "no.gguf").write_bytes(b"no")
    assert place_in_gguf(tmp_path / "no.gguf", 0) == ""
