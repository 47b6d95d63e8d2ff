"""Many at once: clients that create, copy and delete; lists of a thousand; large uploads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import LiveServer, serving
from stores import copy_tiny_store

from mbuild.core.errors import DamagedError
from mbuild.core.names import ModelName
from mbuild.server.catalogue import Catalogue
from mbuild.store import Store

SECONDS = float(os.environ.get("MBUILD_LOAD_SECONDS", "8"))
UPLOAD = int(os.environ.get("MBUILD_UPLOAD_MIB", "96")) << 20
CLIENTS = 50


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with serving(copy_tiny_store(tmp_path / "store")) as server:
        yield server


async def one_client(url: str, number: int, end: float, answers: Counter[str]) -> None:
    """Creates, copies and deletes a few shared names until the time is over."""
    chance = random.Random(number)
    data = gguf_bytes(tiny_model(seed=number % 3))
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False) as http:
        while time.monotonic() < end:
            name = f"m{chance.randrange(8)}"
            match chance.randrange(5):
                case 0:
                    await http.post(f"/api/blobs/{digest}", content=data)
                    body = {"model": name, "files": {"m.gguf": digest}}
                    answer = await http.post("/api/create", json=body)
                case 1 | 2:
                    system = f"system {chance.randrange(4)}"
                    body = {"model": name, "from": "tiny", "system": system}
                    answer = await http.post("/api/create", json=body)
                case 3:
                    body = {"source": name, "destination": f"m{chance.randrange(8)}"}
                    answer = await http.post("/api/copy", json=body)
                case _:
                    body = {"model": name}
                    answer = await http.request("DELETE", "/api/delete", json=body)
            lines = answer.text.splitlines()
            if answer.status_code == 200 and lines and '"error"' in lines[-1]:
                answers[f"error line: {lines[-1]}"] += 1
            else:
                text = answer.text if answer.status_code not in (200, 404) else ""
                answers[f"{answer.status_code}{text}"] += 1


def dangling(store: Store) -> list[str]:
    """Blobs that a model names and the store has not."""
    found = []
    for stored in store.list():
        assert not isinstance(stored, DamagedError), stored
        found += [
            f"{stored.name}: {layer.digest}"
            for layer in stored.manifest.blobs()
            if not store.blobs.has(layer.digest, layer.size)
        ]
    return found


def test_fifty_clients(server: LiveServer) -> None:
    """Nothing but success and 404, and every model that is left is whole."""
    answers: Counter[str] = Counter()
    end = time.monotonic() + SECONDS

    async def all_clients() -> None:
        await asyncio.gather(*(one_client(server.url, n, end, answers) for n in range(CLIENTS)))

    asyncio.run(all_clients())
    print(dict(answers))
    assert set(answers) <= {"200", "404"}, answers
    assert answers["200"] > 50
    assert not dangling(server.store)


def test_a_large_upload_holds_memory_flat(server: LiveServer) -> None:
    """Bytes go to disk as they come: the server grows by a few MiB, whatever is sent."""
    piece = os.urandom(1 << 20)
    digest = hashlib.sha256()
    for _ in range(UPLOAD >> 20):
        digest.update(piece)
    server.http.get("/api/tags")
    before, peak = server.memory(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(UPLOAD >> 20):
            yield piece
            peak = max(peak, server.memory())

    began = time.monotonic()
    headers = {"Content-Length": str(UPLOAD)}
    url = f"/api/blobs/sha256:{digest.hexdigest()}"
    answer = server.http.post(url, content=pieces(), headers=headers, timeout=600)
    assert answer.status_code == 201
    grown = max(0, peak - before) >> 20
    print(f"{UPLOAD >> 20} MiB in {time.monotonic() - began:.1f} s, grown by {grown} MiB")
    assert grown < 32


def many_models(root: Path, count: int) -> Store:
    """A store with that many names of one model."""
    store = Store(copy_tiny_store(root))
    data = store.manifests.read_bytes(ModelName.parse("tiny"))
    assert data is not None
    for number in range(count):
        path = root / "manifests/registry.ollama.ai/library" / f"n{number}" / "latest"
        path.parent.mkdir()
        path.write_bytes(data)
    return store


def test_the_list_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with nothing new reads no manifest; a changed one is read again, alone."""
    store = many_models(tmp_path / "store", 100)
    catalogue, read = Catalogue(), []
    real = catalogue._read
    monkeypatch.setattr(catalogue, "_read", lambda *a: read.append(a[1]) or real(*a))
    first = catalogue.tags(store)
    assert len(read) == 101
    read.clear()
    assert catalogue.tags(store) == first
    assert not read
    path = tmp_path / "store/manifests/registry.ollama.ai/library/n7/latest"
    path.write_bytes(path.read_bytes() + b"\n")
    assert catalogue.tags(store) != first
    assert read == [str(path)]


@pytest.mark.slow
def test_a_thousand_models_in_fifty_milliseconds(tmp_path: Path) -> None:
    """``/api/tags`` when it has been asked before, over HTTP."""
    many_models(tmp_path / "store", 1000)
    with serving(tmp_path / "store") as server:
        assert len(server.http.get("/api/tags").json()["models"]) == 1001
        times = []
        for _ in range(20):
            began = time.perf_counter()
            server.http.get("/api/tags")
            times.append(time.perf_counter() - began)
    print(f"best {min(times) * 1000:.1f} ms, middle {sorted(times)[10] * 1000:.1f} ms")
    assert min(times) < 0.05
