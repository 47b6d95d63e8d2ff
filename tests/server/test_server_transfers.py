"""``/api/pull`` and ``/api/push``: Ollama's lines, and only registries that the operator allows."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import Server, lines_of, serving_here
from registries import digest_of, docker_registry
from stand_in import StandIn, stand_in
from stores import check_promise, copy_tiny_store

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.core.transfers import BlobDone, BlobProgress, Direction, Phase, PhaseStarted
from mbuild.server import transfers
from mbuild.server.wording import PHASES, TransferLines
from mbuild.store import Store

WEIGHTS = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def server(host: str, tmp_path: Path) -> Iterator[Server]:
    """A server with ``tiny`` that may ask it."""
    root = copy_tiny_store(tmp_path / "store")
    with serving_here(root, registries=[f"http://{host}"]) as found:
        yield found


def names(server: Server) -> list[str]:
    return sorted(row["name"] for row in server.http.get("/api/tags").json()["models"])


def blob_line(verb: str, digest: str, size: int) -> dict[str, Any]:
    short = digest.removeprefix("sha256:")[:12]
    return {"status": f"{verb} {short}", "digest": digest, "total": size, "completed": size}


def test_the_lines_are_ollamas(server: Server, host: str, tmp_path: Path) -> None:
    """As recorded from Ollama: a push, a pull of what is there, a pull without a stream."""
    name = f"{host}/lib/tiny:v1"
    body = {"source": "tiny", "destination": name}
    assert server.http.post("/api/copy", json=body).status_code == 200
    stored = server.store.manifests.read(ModelName.parse(name)).manifest
    blobs = [(str(layer.digest), layer.size) for layer in stored.blobs()]
    answer = server.http.post("/api/push", json={"model": name, "insecure": True})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = lines_of(answer)
    assert lines[0] == {"status": "retrieving manifest"}
    assert lines[-2:] == [{"status": "pushing manifest"}, {"status": "success"}]
    for digest, size in blobs:
        assert blob_line("pushing", digest, size) in lines
    go = {"model": "", "name": name, "insecure": True}  # as Ollama's own command line writes it
    assert lines_of(server.http.post("/api/push", json=go))[-1] == {"status": "success"}
    again = lines_of(server.http.post("/api/pull", json=go))
    assert again[0] == {"status": "pulling manifest"}
    assert again[-3:] == [
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    assert sorted(map(str, again[1:-3])) == sorted(
        str(blob_line("pulling", digest, size)) for digest, size in blobs
    )
    for path in ("/api/pull", "/api/push"):
        answer = server.http.post(path, json={"model": name, "stream": False})
        assert (answer.status_code, answer.json()) == (200, {"status": "success"})
        assert answer.headers["content-type"] == "application/json"
    with serving_here(tmp_path / "other", registries=[f"http://{host}"]) as other:
        assert lines_of(other.http.post("/api/pull", json={"model": name}))[-1] == {
            "status": "success"
        }
        assert names(other) == [name]
        identity = other.store.manifests.read(ModelName.parse(name)).id
        assert identity == server.store.manifests.read(ModelName.parse(name)).id
        assert check_promise(tmp_path / "other") == 1


def test_what_is_absent(server: Server, host: str) -> None:
    """In a stream a line with the error, without one 500, in Ollama's words, without a path."""
    name = f"{host}/lib/nope:v1"
    answer = server.http.post("/api/pull", json={"model": name})
    error = {"error": "pull model manifest: file does not exist"}
    assert (answer.status_code, lines_of(answer)) == (200, [{"status": "pulling manifest"}, error])
    answer = server.http.post("/api/pull", json={"model": name, "stream": False})
    assert (answer.status_code, answer.json()) == (500, error)
    pushed = server.http.post("/api/push", json={"model": name})
    assert lines_of(pushed) == [
        {"status": "retrieving manifest"},
        {"status": "couldn't retrieve manifest"},
        {"error": f"model '{name}' not found"},
    ]
    assert str(server.root) not in pushed.text
    assert server.http.post("/api/push", json={"model": name, "stream": False}).status_code == 404


@pytest.mark.parametrize("body", [{}, {"model": "a//b"}, {"model": "x", "name": "../x"}])
def test_bad_names(server: Server, body: dict[str, str]) -> None:
    """400, as Ollama; of two names the first counts."""
    for path in ("/api/pull", "/api/push"):
        if body.get("model") == "x":
            continue
        answer = server.http.post(path, json=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid model name"})


STRANGERS = ["127.0.0.1:9", "localhost:9", "169.254.169.254", "ghcr.io", "[::1]:9", "10.0.0.1:5000"]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nobody_is_asked_whom_the_operator_did_not_allow(server: Server, stranger: str) -> None:
    """Whatever ``insecure`` says: 403, and how to allow it."""
    for path in ("/api/pull", "/api/push"):
        for insecure in (True, False):
            body = {"model": f"{stranger}/a/b", "insecure": insecure}
            answer = server.http.post(path, json=body)
            assert answer.status_code in (400, 403), answer.text
            if answer.status_code == 403:
                assert f"--registry {stranger}" in answer.json()["error"]


def test_https_is_not_left_because_a_client_says_so(tmp_path: Path) -> None:
    """``insecure`` from a client is no more than a wish: the operator named the host for https."""
    with stand_in() as (registry, there):
        registry.model("a/m:v1", WEIGHTS)
        with serving_here(tmp_path / "store", registries=[there]) as server:
            body = {"model": f"{there}/a/m:v1", "insecure": True, "stream": False}
            answer = server.http.post("/api/pull", json=body)
            assert answer.status_code == 500
            assert "does not speak https" in answer.json()["error"]
            assert f"mbuild serve --registry http://{there}" in answer.json()["error"]
        assert registry.requests == []


def test_a_registry_leads_to_nobody_else_here(tmp_path: Path) -> None:
    """Neither to another port of this machine nor to its files."""
    with stand_in() as (secret, inside), stand_in() as (registry, there):
        registry.model("a/m:v1", WEIGHTS)

        def lead(handler: Any) -> bool:
            if "/blobs/" not in handler.path:
                return False
            handler.answer(307, location=f"http://{inside}/secret")
            return True

        registry.before = lead
        with serving_here(tmp_path / "store", registries=[f"http://{there}"]) as server:
            answer = server.http.post("/api/pull", json={"model": f"{there}/a/m:v1"})
            assert "loopback address" in lines_of(answer)[-1]["error"]
            assert names(server) == []
        assert secret.requests == []


def slow(registry: StandIn, pause: float = 0.05) -> None:
    registry.model("a/m:v1", WEIGHTS)
    registry.pause = pause


def test_clients_share_one_transfer(tmp_path: Path) -> None:
    """And each sees how far it is."""
    with stand_in() as (registry, there):
        slow(registry, 0.02)
        with serving_here(tmp_path / "store", registries=[f"http://{there}"]) as server:
            answers: list[Any] = []

            def ask() -> None:
                answers.append(server.http.post("/api/pull", json={"model": f"{there}/a/m:v1"}))

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for answer in answers:
                lines = lines_of(answer)
                assert lines[-1] == {"status": "success"}
                parts = [line["completed"] for line in lines if line.get("completed", 0) > 0]
                assert any(0 < part < len(WEIGHTS) for part in parts)
                assert all(isinstance(part, int) for part in parts)
        assert registry.sent[digest_of(WEIGHTS)] == len(WEIGHTS)


def test_a_client_that_goes_away_stops_the_pull(tmp_path: Path) -> None:
    """What has arrived is kept, and the next pull goes on."""
    with stand_in() as (registry, there):
        slow(registry)
        with serving_here(tmp_path / "store", registries=[f"http://{there}"]) as server:
            body = {"model": f"{there}/a/m:v1"}
            with server.http.stream("POST", "/api/pull", json=body) as answer:
                for line in answer.iter_lines():
                    if "completed" in line:
                        break
            time.sleep(1)
            before = sum(registry.sent.values())
            time.sleep(0.5)
            assert sum(registry.sent.values()) == before < len(WEIGHTS)
            registry.pause = 0
            assert names(server) == []
            assert lines_of(server.http.post("/api/pull", json=body))[-1] == {"status": "success"}
            assert registry.sent[digest_of(WEIGHTS)] < len(WEIGHTS) * 1.3
        assert check_promise(tmp_path / "store") == 1


def test_every_phase_has_its_words() -> None:
    """In both directions, where there is such a phase; progress counts whole bytes."""
    digest = Digest("ab" * 32)
    lines = TransferLines()
    assert len(PHASES) == 6
    for direction, phase in PHASES:
        assert lines.of(PhaseStarted(direction, phase)) == [{"status": PHASES[direction, phase]}]
    assert (Direction.PULL, Phase.ABSENT) not in PHASES
    assert lines.of(BlobProgress(Direction.PULL, digest, 0, 7)) == [
        {"status": "pulling abababababab", "digest": str(digest), "total": 7}
    ]
    assert lines.of(BlobDone(Direction.PUSH, digest, 7, 0)) == [
        blob_line("pushing", str(digest), 7)
    ]
    assert lines.last == blob_line("pushing", str(digest), 7)


def test_names_are_read_as_ollama_reads_them(tmp_path: Path) -> None:
    """A host of Ollama's, a scheme, a path of many parts; what is none has Ollama's words."""
    read = transfers._reference
    assert str(read("http://x.io/a/b:v1")) == "x.io/a/b:v1"
    assert read("llama3.2").endpoint == "registry.ollama.ai"
    assert read("x.io/a/b/c").path == "a/b/c"
    assert Store(tmp_path).manifests.resolve(read("x.io/a/b/c").local).namespace == "a___b"
    with pytest.raises(Exception, match=r"^invalid model name$"):
        read("x.io/A b")
