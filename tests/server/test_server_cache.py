"""``mbuild serve --cache``: bazel-remote's layout, put if absent, and only the right bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_server import Server, serving_here

from mbuild.core.errors import RegistryError
from mbuild.server import teamcache
from mbuild.server.security import AccessPolicy
from mbuild.shared.web import LISTING_TYPE, WebStorage, listed
from mbuild.store.shared import LARGEST_SMALL, StoredObject

DATA = bytes(range(256)) * 5000
CAS = f"/cache/cas/{hashlib.sha256(DATA).hexdigest()}"
AC = f"/cache/ac/{'ab' * 32}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with a cache."""
    with serving_here(tmp_path / "store", cache=tmp_path / "cache") as found:
        yield found


def test_bytes_are_kept_by_their_sha256(server: Server, tmp_path: Path) -> None:
    """Others are refused and leave nothing; ranges and HEAD are answered."""
    http = server.http
    assert http.get(CAS).status_code == 404
    wrong = http.put(CAS, content=DATA + b"1")
    assert wrong.status_code == 400 and "a different SHA-256" in wrong.text
    assert http.get(CAS).status_code == 404
    assert http.put(CAS, content=DATA).status_code == 201
    assert http.put(CAS, content=DATA).status_code == 201
    assert http.get(CAS).content == DATA
    part = http.get(CAS, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, DATA[10:20])
    head = http.head(CAS)
    assert (head.headers["content-length"], head.content) == (str(len(DATA)), b"")
    assert list((tmp_path / "cache" / "v1" / "tmp").iterdir()) == []
    assert [http.delete(CAS).status_code for _ in range(2)] == [204, 204]
    assert http.get(CAS).status_code == 404


def test_small_objects_are_written_over_or_only_once(server: Server) -> None:
    """``If-None-Match: *`` is what leases are made of."""
    http, once = server.http, {"If-None-Match": "*"}
    assert http.put(AC, content=b"1").status_code == 201
    assert http.put(AC, content=b"2").status_code == 201
    assert http.get(AC).content == b"2"
    assert http.put(AC, content=b"3", headers=once).status_code == 412
    assert http.get(AC).content == b"2"
    assert http.delete(AC).status_code == 204
    assert http.delete(AC).status_code == 204
    assert http.get(AC).status_code == 404
    statuses: list[int] = []

    def put() -> None:
        statuses.append(
            httpx.put(server.url + AC, content=b"4", headers=once, verify=False).status_code
        )

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, *[412] * 7]


def test_what_cannot_be_is_refused(server: Server) -> None:
    """Names that are no digests, and objects that are too large for a record."""
    for path in ("/cache/ac/x", "/cache/cas/" + "A" * 64, "/cache/cas/" + "0" * 63):
        assert server.http.get(path).status_code == 404
        assert server.http.put(path, content=b"").status_code == 404
    large = server.http.put(AC, content=b"x" * (LARGEST_SMALL + 1))
    assert large.status_code == 413
    assert server.http.get(AC).status_code == 404


def test_what_it_holds_is_listed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON line each, as many as there are, and each can be removed by its name."""
    monkeypatch.setattr(teamcache, "_LINES_AT_ONCE", 3)
    for number in range(8):
        assert server.http.put(f"/cache/ac/{number:064x}", content=b"12").status_code == 201
    assert server.http.put(CAS, content=DATA).status_code == 201
    answer = server.http.get("/cache/objects")
    assert answer.headers["content-type"] == LISTING_TYPE
    rows = [json.loads(line) for line in answer.text.splitlines()]
    sizes = {name: size for name, size, _ in rows}
    assert len(rows) == 9 and sizes[f"blob/sha256-{CAS[-64:]}"] == len(DATA)
    assert sizes[f"record/ac/{7:064x}"] == 2 and all(when > 1e9 for _, _, when in rows)
    storage = WebStorage(f"{server.url}/cache", "")
    assert [each.name for each in storage.objects()] == [name for name, _, _ in rows]
    storage.remove([each.name for each in storage.objects()])
    assert [*storage.objects()] == []
    storage.close()


def test_a_list_that_is_none_is_an_error() -> None:
    """Lines that are no objects, endless ones, and one that was cut off."""
    for data, words in (
        (b"[1]\n", "not an object"),
        (b'["lease/x", "many", 0]\n', "not an object"),
        (b"x" * 5000, "more than"),
        (b'["lease', "cut off"),
    ):
        with pytest.raises(RegistryError, match=words):
            list(listed([data], "http://host/cache"))
    name = f"lease/{'a' * 64}"
    lines = f'["{name}", 2, 1.5]\n["../../etc/passwd", 2, 1]\n'.encode()
    assert list(listed([lines[:9], lines[9:]], "x")) == [StoredObject(name, 2, 1.5)]


def test_a_server_without_a_cache_says_so(tmp_path: Path) -> None:
    """With what its operator can do."""
    with serving_here(tmp_path / "store") as server:
        http = server.http
        for answer in (http.get(CAS), http.put(AC, content=b""), http.get("/cache/objects")):
            assert answer.status_code == 404 and "--cache DIR" in answer.text


def test_the_token_counts_here_too(tmp_path: Path) -> None:
    """Whoever has it may read and write; nobody else may."""
    options = {"policy": AccessPolicy(token="t"), "cache": tmp_path / "cache"}
    with serving_here(tmp_path / "store", **options) as server:
        for method in ("GET", "PUT", "DELETE"):
            assert server.http.request(method, AC).status_code == 401
        assert server.http.get("/cache/objects").status_code == 401
        right = {"Authorization": "Bearer t"}
        assert server.http.put(AC, content=b"1", headers=right).status_code == 201
        assert server.http.get(AC, headers=right).content == b"1"
    assert teamcache.__doc__
