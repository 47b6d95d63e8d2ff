"""``/v2/`` with ``--writable``: pushes by mbuild and as Ollama sends them, in parts, cut, wrong."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from inprocess import in_process
from live_server import Server, serving_here
from stores import check_promise, copy_tiny_store

from mbuild.core.names import ModelName
from mbuild.core.transfers import Transferred
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer import upload
from mbuild.registry.transfer.push import push
from mbuild.server import incoming, pushes
from mbuild.server.service import Service
from mbuild.store import Store
from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE
from mbuild.store.media import MODEL

TINY = ModelName.parse("tiny")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that accepts pushes, with an empty store."""
    with serving_here(tmp_path / "there", writable=True) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with ``tiny``."""
    return Store(copy_tiny_store(tmp_path / "here"))


def pushed(server: Server, store: Store, path: str = "org/tiny:v1") -> Transferred:
    reference = ModelReference.parse(f"127.0.0.1:{server.port}/{path}")
    *_, last = push(TINY, reference, store, Access())
    assert isinstance(last, Transferred)
    return last


def test_mbuild_pushes_to_mbuild(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one request and in parts; the model keeps its id, and is sent once."""
    first = pushed(server, store)
    assert first.moved == 156339
    assert pushed(server, store).moved == 0
    there = server.store.manifests.read(ModelName.parse("org/tiny:v1"))
    assert there.id == store.manifests.read(TINY).id
    assert check_promise(server.root) == 1
    assert server.store.uploads.held() == {}
    server.http.request("DELETE", "/api/delete", json={"model": "org/tiny:v1"})
    monkeypatch.setattr(upload, "ONE_REQUEST", 1000)
    monkeypatch.setattr(upload, "PART", 50_000)
    assert pushed(server, store, "library/other:v2").moved == 156339
    assert check_promise(server.root) == 1


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def begin(server: Server, path: str = "org/m") -> str:
    answer = server.http.post(f"/v2/{path}/blobs/uploads/")
    assert (answer.status_code, answer.headers["range"]) == (202, "0-0")
    return str(answer.headers["location"])


def put(server: Server, data: bytes, path: str = "org/m") -> dict[str, Any]:
    """A blob in one request; what a layer says of it."""
    answer = server.http.put(begin(server, path), params={"digest": digest_of(data)}, content=data)
    assert answer.status_code == 201, answer.text
    return {"digest": digest_of(data), "size": len(data)}


def test_as_ollama_pushes(server: Server) -> None:
    """Its recorded requests: parts with Content-Range without a unit, an empty PUT with an etag."""
    data = b"x" * 300_000
    location = begin(server)
    for start in (0, 100_000, 200_000):
        headers = {"Content-Range": f"{start}-{start + 99_999}", "X-Redirect-Uploads": "1"}
        answer = server.http.patch(location, content=data[start : start + 100_000], headers=headers)
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{start + 99_999}"
        location = answer.headers["location"]
    query = {"digest": digest_of(data), "etag": "f03e3a969a6b765a6f07f009865a7e06-1"}
    answer = server.http.put(location, params=query)
    assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, digest_of(data))
    assert server.http.head(f"/api/blobs/{digest_of(data)}").status_code == 200


def test_an_upload_that_was_cut_goes_on(server: Server) -> None:
    """What arrived of the part counts, and the status says how much that is."""
    data = bytes(range(256)) * 4000
    location = begin(server)
    head = f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode() + data[:400_000])
    for _ in range(100):
        status = server.http.get(location)
        if status.headers["range"] != "0-0":
            break
    assert status.status_code == 204
    done = int(status.headers["range"].partition("-")[2]) + 1
    assert 0 < done <= 400_000
    headers = {"Content-Range": f"{done}-{len(data) - 1}"}
    query = {"digest": digest_of(data)}
    answer = server.http.put(location, params=query, content=data[done:], headers=headers)
    assert answer.status_code == 201
    path = server.store.blobs.path(incoming_digest(data))
    assert path.read_bytes() == data


def incoming_digest(data: bytes) -> Any:
    from mbuild.core.digest import Digest

    return Digest.of(data)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_what_was_pushed_before_its_manifest_is_not_pushed_twice(server: Server) -> None:
    """A blob that no model names yet is said to be there, and is handed out to nobody."""
    row = put(server, b"x" * 1000)
    place = f"/v2/org/m/blobs/{row['digest']}"
    answer = server.http.head(place)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "1000")
    assert server.http.get(place).status_code == 404


def test_an_upload_can_be_given_up(server: Server) -> None:
    """Then nobody knows it any more, and nothing of it is kept."""
    location = begin(server)
    server.http.patch(location, content=b"x" * 1000)
    assert server.http.delete(location).status_code == 204
    answer = server.http.get(location)
    assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
    assert not list((server.root / "blobs").iterdir())


def test_wrong_uploads(server: Server) -> None:
    """A gap, another digest, no digest, an unknown upload; nothing of them is kept."""
    location = begin(server)
    gap = server.http.patch(location, content=b"x", headers={"Content-Range": "5-5"})
    assert refusal(gap) == (416, "RANGE_INVALID")
    wrong = server.http.put(location, params={"digest": digest_of(b"y")}, content=b"x")
    assert refusal(wrong) == (400, "DIGEST_INVALID")
    assert refusal(server.http.get(location)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert refusal(server.http.put(begin(server), content=b"x")) == (400, "DIGEST_INVALID")
    assert refusal(server.http.get("/v2/org/m/blobs/uploads/x")) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert refusal(server.http.post("/v2/a/b/c/d/blobs/uploads/")) == (404, "NAME_UNKNOWN")
    assert list((server.root / "blobs").iterdir()) == []


def test_a_name_that_the_store_cannot_have_is_refused_with_the_reason(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of four parts, and a namespace with a dot; valid names are said, and who refuses."""
    mbuild, host = in_process(tmp_path, monkeypatch), f"127.0.0.1:{server.port}"
    for path, why in (
        ("a/b/c/d", "it has more parts than host/namespace/model"),
        ("my.org/m", "its namespace 'my.org' is not allowed"),
    ):
        said = server.http.post(f"/v2/{path}/blobs/uploads/").json()["errors"][0]["message"]
        assert said.startswith(f"no model here can be called '{path}': {why}")
        assert said.endswith(" (valid are NAMESPACE/MODEL and HOST/NAMESPACE/MODEL)")
        done = mbuild("push", "tiny", f"{host}/{path}:v1", "--store", store.root)
        assert done.returncode == 1
        assert f"cannot be pushed to {host}: {said}\n" in done.stderr
    assert server.http.post("/v2/a/b/c/blobs/uploads/").status_code == 202


def manifest(server: Server, **changes: Any) -> bytes:
    config = {"mediaType": CONFIG_TYPE, **put(server, b"{}")}
    layers = [{"mediaType": MODEL, **put(server, b"weights")}]
    value = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    return json.dumps({**value, **changes}).encode()


def test_a_manifest_is_last(server: Server) -> None:
    """It is kept byte for byte once all its blobs are here, and only a model's."""
    path = "/v2/org/m/manifests/v1"
    absent = [{"mediaType": MODEL, "digest": digest_of(b"absent"), "size": 6}]
    for data, expected in (
        (manifest(server, layers=absent), (404, "BLOB_UNKNOWN")),
        (manifest(server, layers=[]), (400, "MANIFEST_INVALID")),
        (b"{", (400, "MANIFEST_INVALID")),
        (b'{"schemaVersion":2,"manifests":[]}', (400, "MANIFEST_INVALID")),
    ):
        assert refusal(server.http.put(path, content=data)) == expected
    assert list(server.store.manifests.names()) == []
    assert server.http.put(path, content=b" " * (5 << 20)).status_code == 413
    data = manifest(server)
    answer = server.http.put(path, content=data, headers={"Content-Type": MANIFEST_TYPE})
    assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, digest_of(data))
    assert server.http.get(path).content == data
    by_digest = server.http.put(f"/v2/org/m/manifests/{digest_of(data)}", content=data)
    assert refusal(by_digest) == (400, "MANIFEST_INVALID")
    assert check_promise(server.root) == 1


def test_a_blob_that_is_here_is_mounted(server: Server) -> None:
    """From wherever; what is not here begins an upload."""
    layer = put(server, b"weights")
    query = {"mount": layer["digest"], "from": "org/m"}
    assert server.http.post("/v2/org/n/blobs/uploads/", params=query).status_code == 201
    query["mount"] = digest_of(b"absent")
    assert server.http.post("/v2/org/n/blobs/uploads/", params=query).status_code == 202


def test_a_client_that_is_gone_holds_nothing_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that stops coming is given up; who asks meanwhile hears of all that came."""
    monkeypatch.setattr(pushes, "_STALL_SECONDS", 0.5)
    place = server.http.post("/v2/library/m/blobs/uploads/").headers["location"]
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        head = f"PATCH {place} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        gone.sendall(head.encode() + b"0123456789")
        time.sleep(0.2)
        began = time.monotonic()
        answer = server.http.get(place)
        assert (answer.status_code, answer.headers["range"]) == (204, "0-9")
        assert 0.1 < time.monotonic() - began < 5  # it waited for what might still come
        rest = server.http.patch(place, content=b"abc", headers={"Content-Range": "10-12"})
        assert (rest.status_code, rest.headers["range"]) == (202, "0-12")
        assert gone.recv(100).startswith(b"HTTP/1.1 503 ")


def test_without_writable_nothing_is_taken(tmp_path: Path) -> None:
    """405 with what the operator can do."""
    service = Service(tmp_path, incoming_policy())
    with pytest.raises(Exception, match="read-only"):
        pushes.check_writable(service)
    with serving_here(tmp_path / "store") as server:
        answer = server.http.post("/v2/org/m/blobs/uploads/")
        assert refusal(answer) == (405, "UNSUPPORTED")
        assert "--writable" in answer.text


def incoming_policy() -> Any:
    from mbuild.server.security import AccessPolicy

    return AccessPolicy()


def test_uploads_that_nobody_goes_on_with(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are given up, with their files; there are never too many at once."""
    monkeypatch.setattr(incoming, "MAX_UPLOADS", 3)
    locations = [begin(server) for _ in range(3)]
    answer = server.http.post("/v2/org/m/blobs/uploads/")
    assert answer.status_code == 503 and "retry-after" in answer.headers
    monkeypatch.setattr(incoming.Pushes.expire, "__defaults__", (0.0,))
    begin(server)
    assert server.http.get(locations[0]).status_code == 404
    temporary = list((server.root / ".mbuild/tmp").iterdir())
    assert len(temporary) == 1


def test_a_blob_that_was_cut_there_is_pushed_again(server: Server, store: Store) -> None:
    """Its size is not what it should be, so it counts as absent."""
    pushed(server, store)
    layer = server.store.manifests.read(ModelName.parse("org/tiny:v1")).manifest.layers[0]
    path = server.store.blobs.path(layer.digest)
    path.write_bytes(path.read_bytes()[:-7])
    assert pushed(server, store).moved == layer.size
    assert check_promise(server.root) == 1


def test_a_blob_that_is_made_when_it_is_asked_for_need_not_be_pushed(
    server: Server, store: Store
) -> None:
    """HEAD says that it is there, as part of another form; so a manifest may name it."""
    pushed(server, store)
    shown = server.http.get("/v2/org/tiny/manifests/v1-docker").json()
    row = {"mediaType": CONFIG_TYPE, **{key: shown["config"][key] for key in ("digest", "size")}}
    assert server.http.head(f"/v2/org/tiny/blobs/{row['digest']}").status_code == 200
    model = server.http.get("/v2/org/tiny/manifests/v1").json()
    answer = server.http.put(
        "/v2/org/tiny/manifests/v2",
        content=json.dumps({**model, "config": row}).encode(),
        headers={"Content-Type": MANIFEST_TYPE},
    )
    assert answer.status_code == 201, answer.text
    assert server.http.get(f"/v2/org/tiny/blobs/{row['digest']}").status_code == 200
