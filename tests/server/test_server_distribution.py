"""``/v2/``: skopeo, Ollama by its recorded requests, and mbuild itself pull from it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Server, serving_here
from programs import need
from stores import check_promise, copy_tiny_store

from mbuild.core.errors import RegistryError
from mbuild.core.names import ModelName
from mbuild.registry.auth.keeping import keep
from mbuild.registry.auth.login import Login
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.registry.transfer.push import push
from mbuild.server import distribution
from mbuild.server.security import AccessPolicy
from mbuild.store import Store
from mbuild.store.manifest import MANIFEST_TYPE

TINY = ModelName.parse("tiny")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with ``tiny``."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as found:
        yield found


def manifest(server: Server) -> bytes:
    data = server.store.manifests.read_bytes(TINY)
    assert data is not None
    return data


@pytest.mark.parametrize("accept", [MANIFEST_TYPE, "*/*", "Accept: application/x", ""])
def test_a_manifest_whatever_a_client_accepts(server: Server, accept: str) -> None:
    """By tag and by digest; its bytes are the store's, so that the id is."""
    data = manifest(server)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    for reference in ("latest", digest):
        for method in ("GET", "HEAD"):
            answer = server.http.request(
                method, f"/v2/library/tiny/manifests/{reference}", headers={"Accept": accept}
            )
            assert answer.status_code == 200
            assert answer.headers["content-type"] == MANIFEST_TYPE
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["content-length"] == str(len(data))
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
            assert answer.content == (data if method == "GET" else b"")


def test_a_blob_and_its_ranges(server: Server) -> None:
    """In whole, from the middle, the end, and beyond; HEAD tells the size."""
    layer = server.store.manifests.read(TINY).manifest.layers[0]
    data = server.store.blobs.read(layer.digest, 1 << 20)
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    whole = server.http.get(path)
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["location"] == path  # what Ollama wants to see
    assert whole.headers["etag"] == f'"{layer.digest}"'
    assert whole.headers["accept-ranges"] == "bytes"
    head = server.http.head(path)
    assert (head.headers["content-length"], head.content) == (str(layer.size), b"")
    for text, start, end in (("5-9", 5, 10), ("0-0", 0, 1), ("-7", len(data) - 7, len(data))):
        part = server.http.get(path, headers={"Range": f"bytes={text}"})
        assert (part.status_code, part.content) == (206, data[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    beyond = server.http.get(path, headers={"Range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"


ABSENT = [
    ("/v2/library/tiny/manifests/v9", "MANIFEST_UNKNOWN"),
    ("/v2/library/none/manifests/latest", "MANIFEST_UNKNOWN"),
    (f"/v2/library/tiny/manifests/sha256:{'0' * 64}", "MANIFEST_UNKNOWN"),
    ("/v2/library/tiny/manifests/sha256:12", "MANIFEST_UNKNOWN"),
    (f"/v2/library/tiny/blobs/sha256:{'0' * 64}", "BLOB_UNKNOWN"),
    ("/v2/library/none/tags/list", "NAME_UNKNOWN"),
    ("/v2/a/b/c/d/manifests/x", "NAME_UNKNOWN"),
    ("/v2/library/tiny/manifests/..%2f..%2fx", "MANIFEST_UNKNOWN"),
]


@pytest.mark.parametrize(("path", "code"), ABSENT)
def test_what_is_absent(server: Server, path: str, code: str) -> None:
    """404 in the OCI's form, with its code and without a path of this machine."""
    answer = server.http.get(path)
    assert answer.status_code == 404, answer.text
    if code == "MANIFEST_UNKNOWN" and "%2f" in path:
        return  # the router knows no such path
    assert answer.json()["errors"][0]["code"] == code
    assert str(server.root) not in answer.text


def test_a_digest_that_is_none_is_no_absent_blob(server: Server) -> None:
    """400, as other registries answer it."""
    answer = server.http.get("/v2/library/tiny/blobs/sha256:12")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


def test_only_blobs_of_the_repository(server: Server) -> None:
    """An upload that no model names is for whoever builds from it."""
    digest = server.upload(b"secret")
    assert server.http.get(f"/v2/library/tiny/blobs/{digest}").status_code == 404
    layer = server.store.manifests.read(TINY).manifest.layers[0]
    assert server.http.get(f"/v2/library/none/blobs/{layer.digest}").status_code == 404
    server.store.blobs.path(layer.digest).write_bytes(b"cut")
    assert server.http.get(f"/v2/library/tiny/blobs/{layer.digest}").status_code == 404


def test_names_and_tags(server: Server) -> None:
    """A model of another registry has its host in the path; one without a namespace is Ollama's."""
    for name in ("tiny:v2", "ghcr.io/org/tiny:v3"):
        server.http.post("/api/copy", json={"source": "tiny", "destination": name})
    for path, tags in (
        ("library/tiny", ["latest", "v2"]),
        ("tiny", ["latest", "v2"]),
        ("registry.ollama.ai/library/tiny", ["latest", "v2"]),
        ("ghcr.io/org/tiny", ["v3"]),
    ):
        answer = server.http.get(f"/v2/{path}/tags/list")
        assert answer.json() == {"name": path, "tags": tags}
    assert [str(name) for name in distribution._names(server.store, "org/none")] == []


def test_nothing_can_be_written(server: Server) -> None:
    """Pushes are refused by the method."""
    for method, path in (
        ("POST", "/v2/library/tiny/blobs/uploads/"),
        ("PUT", "/v2/library/tiny/manifests/latest"),
        ("DELETE", "/v2/library/tiny/manifests/latest"),
    ):
        answer = server.http.request(method, path, content=b"{}")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")
        assert method != "DELETE" or answer.headers["allow"] == "GET, HEAD, PUT"
    reference = ModelReference.parse(f"127.0.0.1:{server.port}/library/mine")
    with pytest.raises(RegistryError, match="this registry is read-only"):
        list(push(TINY, reference, Store(server.root), Access()))
    assert check_promise(server.root) == 1


def test_what_ollama_sends(server: Server) -> None:
    """Its recorded requests in their order: the manifest, then of each blob HEAD, GET and a range.

    The GET without a range is left in the middle; ``Location`` of its answer is where the
    range is asked for.
    """
    agent = {"User-Agent": "ollama/0.33.0-rc2 (amd64 linux) Go/go1.27.3"}
    accept = {"Accept": MANIFEST_TYPE, "Accept-Encoding": "gzip"}
    path = "/v2/library/tiny/manifests/latest"
    found = json.loads(server.http.get(path, headers={**agent, **accept}).content)
    for layer in (*found["layers"], found["config"]):
        place, size = f"/v2/library/tiny/blobs/{layer['digest']}", layer["size"]
        assert server.http.head(place, headers=agent).headers["content-length"] == str(size)
        with server.http.stream("GET", place, headers=agent) as answer:
            assert answer.status_code == 200
            location = answer.headers["location"]
        ranged = {"User-Agent": "Go-http-client/1.1", "Range": f"bytes=0-{size - 1}"}
        part = server.http.get(location, headers=ranged)
        assert part.status_code == 206
        assert "sha256:" + hashlib.sha256(part.content).hexdigest() == layer["digest"]


def pulled(server: Server, path: str, store: Store) -> None:
    reference = ModelReference.parse(f"127.0.0.1:{server.port}/{path}")
    list(pull(reference, ModelName.parse("mine"), store, Access()))


def test_mbuild_pulls_from_mbuild(server: Server, tmp_path: Path) -> None:
    """With the same id."""
    store = Store(tmp_path / "other")
    pulled(server, "library/tiny", store)
    assert store.manifests.read_bytes(ModelName.parse("mine")) == manifest(server)
    assert check_promise(store.root) == 1


def test_a_token_is_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any user; without it the challenge says how to log in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    root = copy_tiny_store(tmp_path / "store")
    with serving_here(root, policy=AccessPolicy(token="s3cret")) as server:
        for path in ("/v2/", "/v2/library/tiny/manifests/latest"):
            answer = server.http.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
            assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
            assert server.http.get(path, auth=("me", "s3cret")).status_code == 200
            assert server.http.get(path, auth=("me", "wrong")).status_code == 401
            for bad in ("Basic ???", "Basic", "Digest s3cret"):
                headers = {"Authorization": bad}
                assert server.http.get(path, headers=headers).status_code == 401
        store = Store(tmp_path / "other")
        with pytest.raises(Exception, match="requires a login"):
            pulled(server, "library/tiny", store)
        keep(f"127.0.0.1:{server.port}", Login("me", "s3cret"))
        pulled(server, "library/tiny", store)


def skopeo(*arguments: str) -> subprocess.CompletedProcess[str]:
    need("skopeo")
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_skopeo_reads_it(server: Server) -> None:
    """Manifest and tags; it copies no layer whose type it does not know, from any registry."""
    place = f"docker://127.0.0.1:{server.port}/library/tiny"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"{place}:latest")
    assert raw.stdout.encode() == manifest(server), raw.stderr
    listed = skopeo("list-tags", "--tls-verify=false", place)
    assert json.loads(listed.stdout)["Tags"] == ["latest"], listed.stderr
    absent = skopeo("inspect", "--raw", "--tls-verify=false", f"{place}:v9")
    assert absent.returncode != 0 and "manifest unknown" in absent.stderr


NO_RANGES = ["lines=0-5", "bytes=abc", "bytes=5-2", "bytes", "bytes=", "bytes=-", "bytes=0-1,x"]


@pytest.mark.parametrize("text", NO_RANGES)
def test_what_is_no_range_counts_as_absent(server: Server, text: str) -> None:
    """Another unit, and a range that cannot be: the whole comes (RFC 9110, 14.1.1 and 14.2)."""
    layer = server.store.manifests.read(TINY).manifest.layers[0]
    answer = server.http.get(f"/v2/library/tiny/blobs/{layer.digest}", headers={"Range": text})
    assert (answer.status_code, len(answer.content)) == (200, layer.size)


def test_a_range_is_for_get_only(server: Server) -> None:
    """HEAD tells of the whole; several ranges are parts of one answer."""
    layer = server.store.manifests.read(TINY).manifest.layers[0]
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    head = server.http.head(path, headers={"Range": "bytes=0-5"})
    assert (head.status_code, head.headers["content-length"]) == (200, str(layer.size))
    assert "content-range" not in head.headers
    several = server.http.get(path, headers={"Range": "bytes=0-1, 5-6,"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
