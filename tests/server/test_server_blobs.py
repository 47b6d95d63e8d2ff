"""Uploads: streamed, verified, kept for a day, and never lost to a collector."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import Server, files_below, serving_here

from mbuild.core.digest import Digest
from mbuild.server.blobs import sweep
from mbuild.store import Store
from mbuild.store.uploads import LIFETIME


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_here(tmp_path / "store") as server:
        yield server


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_upload_then_present(server: Server) -> None:
    """201 the first time, then 200; asked for, 404 before and 200 after."""
    digest = digest_of(b"hello")
    assert server.http.head(f"/api/blobs/{digest}").status_code == 404
    assert server.http.post(f"/api/blobs/{digest}", content=b"hello").status_code == 201
    assert server.http.post(f"/api/blobs/{digest}", content=b"hello").status_code == 200
    assert server.http.head(f"/api/blobs/{digest}").status_code == 200
    assert server.http.head(f"/api/blobs/{digest.replace(':', '-')}").status_code == 200


def test_a_wrong_digest_leaves_nothing(server: Server) -> None:
    """400 with both digests, and not a byte stays."""
    wrong, right = digest_of(b"a"), digest_of(b"b")
    answer = server.http.post(f"/api/blobs/{wrong}", content=b"b")
    assert answer.status_code == 400
    assert answer.json() == {"error": f'digest mismatch, expected "{wrong}", got "{right}"'}
    assert not [path for path in files_below(server.root) if "sha256" in path or "tmp-" in path]


def test_a_present_blob_is_not_changed(server: Server) -> None:
    """Other bytes sent to an existing digest are dropped."""
    digest = server.upload(b"right")
    assert server.http.post(f"/api/blobs/{digest}", content=b"wrong").status_code == 200
    assert (server.root / "blobs" / digest.replace(":", "-")).read_bytes() == b"right"


def test_a_damaged_blob_heals(server: Server) -> None:
    """A blob that was cut short is replaced by the next upload."""
    digest = server.upload(b"whole")
    path = server.root / "blobs" / digest.replace(":", "-")
    path.write_bytes(b"who")
    server.upload(b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("piece", [1, 1000])
def test_chunked_uploads(server: Server, piece: int) -> None:
    """Go's client sends chunks of any size, with JSON's content type."""
    data = os.urandom(3000)
    head = f"POST /api/blobs/{digest_of(data)} HTTP/1.1\r\nHost: localhost\r\n"
    fields = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    chunks = (data[i : i + piece] for i in range(0, len(data), piece))
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    answer = server.raw((head + fields).encode() + body + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201")


def test_an_interrupted_upload_leaves_nothing(server: Server) -> None:
    """A client that breaks off leaves no file, and another one's upload works meanwhile."""
    data = os.urandom(3 << 20)
    head = f"POST /api/blobs/{digest_of(data)} HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall((head + f"Content-Length: {len(data)}\r\n\r\n").encode() + data[: 2 << 20])
        server.upload(b"meanwhile")
    _until(lambda: not list((server.root / ".mbuild" / "tmp").iterdir()))
    assert server.http.head(f"/api/blobs/{digest_of(data)}").status_code == 404


def _until(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_unused_uploads_are_collected_after_a_day(server: Server) -> None:
    """What a create used stays with its model; what none used goes, with its mark."""
    used = server.upload(gguf_bytes(tiny_model()))
    unused = server.upload(b"never used")
    assert server.create(model="m", files={"m.gguf": used}, stream=False).is_success
    _age_marks(server.store, LIFETIME / 2)
    sweep(server.store)
    assert server.http.head(f"/api/blobs/{unused}").status_code == 200  # which refreshes it
    _age_marks(server.store, LIFETIME + 1)
    sweep(server.store)
    assert server.http.head(f"/api/blobs/{unused}").status_code == 404
    assert server.http.head(f"/api/blobs/{used}").status_code == 200
    assert not list((server.root / ".mbuild" / "uploads").iterdir())


def _age_marks(store: Store, seconds: float) -> None:
    for path in (store.private / "uploads").iterdir():
        then = time.time() - seconds
        os.utime(path, (then, then))


def test_deleting_a_model_spares_another_clients_upload(server: Server) -> None:
    """Two clients upload the same file; one creates and deletes, the other can still create."""
    data = gguf_bytes(tiny_model())
    digest = server.upload(data)
    server.upload(data)
    for name in ("first", "second"):
        assert server.create(model=name, files={"m.gguf": digest}, stream=False).is_success
        server.http.request("DELETE", "/api/delete", json={"model": name}).raise_for_status()
    assert server.http.head(f"/api/blobs/{digest}").status_code == 404


def test_a_collector_spares_marked_blobs(tmp_path: Path) -> None:
    """A blob on the list of garbage stays while an upload marks it, and goes afterwards."""
    store = Store(tmp_path / "store")
    store.begin()
    blob = store.blobs.put(b"data")
    store.uploads.add(blob.digest, is_new=True)
    store.discard([blob.digest])
    store.end()
    assert store.blobs.has(blob.digest, 4)
    assert store.uploads.held() == {blob.digest: True}
    store.uploads.settle([blob.digest])
    store.begin()
    store.end()
    assert not store.blobs.has(blob.digest, 4)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:abc",
        "sha256:" + "A" * 64,
        "SHA256:" + "0" * 64,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 65,
        "sha256:" + "0" * 63 + "%00",
        "sha256:" + "0" * 64 + "%0a",
        "nope",
    ],
)
def test_bad_digests_are_refused_everywhere(server: Server, text: str) -> None:
    """In the path, in files and in adapters: 400 or 404, nothing written."""
    before = files_below(server.root)
    answer = server.http.post(f"/api/blobs/{text}", content=b"x")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid digest format"})
    assert server.http.head(f"/api/blobs/{text}").status_code == 400
    given = text.replace("%00", "\0").replace("%0a", "\n")
    for fields in ({"files": {"a.gguf": given}}, {"from": "x", "adapters": {"a.gguf": given}}):
        assert server.create(model="x", **fields).status_code == 400
    assert files_below(server.root) - before <= {".mbuild/lock"}


def test_a_digest_is_parsed_once() -> None:
    """The digest of a path or body becomes a value that can be a file's name."""
    assert Digest.parse("sha256-" + "0" * 64).filename == "sha256-" + "0" * 64
