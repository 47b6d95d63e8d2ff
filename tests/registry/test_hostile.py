"""A registry that cuts, lies, leads astray: refused or healed, and nothing wrong in the store."""

from __future__ import annotations

import gzip
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pulling import pulled, refused
from registries import digest_of
from stand_in import Handler, StandIn, stand_in
from stores import check_promise

from mbuild.core.errors import (
    DeniedError,
    ForbiddenHostError,
    MbuildError,
    RegistryError,
    UnreachableError,
)
from mbuild.registry.auth.keeping import keep
from mbuild.registry.auth.login import Login
from mbuild.registry.client import attempts, web
from mbuild.registry.client.access import Access
from mbuild.registry.client.registry import OCI_INDEX
from mbuild.registry.transfer import download
from mbuild.store import Store

WEIGHTS = os.urandom((40 << 20) + 321)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logins, no long waits between tries, and ranges as from a registry far away."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(download, "NEAR_RANGE", download.RANGE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# --- what heals ---------------------------------------------------------------------------


def test_a_blob_that_is_cut_again_and_again(store: Store) -> None:
    """Each time the rest is asked for, and nothing that arrived."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        registry.cuts, registry.cut_after = 25, 3 << 20
        assert pulled(store, host).moved == len(WEIGHTS) + 24 + 14
        assert registry.sent[digest_of(WEIGHTS)] <= len(WEIGHTS) * 1.05
        assert check_promise(store.root) == 1


def test_a_registry_without_ranges(store: Store) -> None:
    """Sends the blob as a whole, once."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        registry.ranges = False
        pulled(store, host)
        whole = [h for h in registry.asked("GET", digest_of(WEIGHTS)) if "range" not in h]
        assert len(whole) == 1
        assert check_promise(store.root) == 1


def test_wrong_bytes_once(store: Store) -> None:
    """Found out by the digest, fetched again from the first byte."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        digest = digest_of(WEIGHTS)
        registry.blobs[digest] = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
        count = 0

        def repair(handler: Handler) -> bool:
            nonlocal count
            count += handler.path.endswith(digest) and handler.command == "GET"
            if count > 3:  # as many ranges as it has
                registry.blobs[digest] = WEIGHTS
            return False

        registry.before = repair
        pulled(store, host)
        assert check_promise(store.root) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_by_itself(store: Store, status: int) -> None:
    """Is asked for again: the manifest, each range, and where documents about it could be."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        seen: set[str] = set()

        def busy(handler: Handler) -> bool:
            if handler.path in seen or "/v2/a/" not in handler.path:
                return False
            seen.add(handler.path)
            handler.answer(status, b"later", retry_after="0")
            return True

        registry.before = busy
        pulled(store, host)
        about = {path for path in seen if "/referrers/" in path or "/tags/list" in path}
        assert (len(seen - about), len(about)) == (4, 2)


def test_a_registry_that_says_how_long_to_wait(store: Store) -> None:
    """Is not asked before."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        first: list[float] = []

        def busy(handler: Handler) -> bool:
            if first or "manifests" not in handler.path:
                return False
            first.append(time.monotonic())
            handler.answer(429, retry_after="1")
            return True

        registry.before = busy
        pulled(store, host)
        assert time.monotonic() - first[0] >= 1


def test_storage_whose_addresses_expire(store: Store) -> None:
    """The registry is asked for a new one; the storage never sees a login."""
    with stand_in() as (storage, there), stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        storage.blobs = registry.blobs
        there = there.replace("127.0.0.1", "localhost")
        keep(host, Login("mario", "secret"))
        served: dict[str, int] = {}

        def lead(handler: Handler) -> bool:
            if handler.headers.get("authorization") is None:
                handler.answer(401, www_authenticate='Basic realm="x"')
                return True
            if "/blobs/" in handler.path:
                address = f"http://{there}{handler.path}?sign=a%2Fb&n={len(registry.requests)}"
                handler.answer(307, location=address)
                return True
            return False

        def expire(handler: Handler) -> bool:
            served[handler.path] = served.get(handler.path, 0) + 1
            assert "sign=a%2Fb" in handler.path  # as it was signed
            if served[handler.path] > 2:
                handler.answer(403, b"<Error><Message>Request has expired</Message></Error>")
                return True
            return False

        registry.before, storage.before = lead, expire
        pulled(store, host)
        assert check_promise(store.root) == 1
        assert storage.requests
        assert not any("authorization" in headers for _, _, headers in storage.requests)


def test_a_registry_that_falls_silent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a blob: it is given up after a while, and the rest is asked for again."""
    monkeypatch.setattr(web, "STALL_SECONDS", 0.3)
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        quiet: list[str] = []

        def stall(handler: Handler) -> bool:
            asked = handler.headers.get("range")
            if asked and len(quiet) < 2:
                quiet.append(asked)
                start, _, end = asked.removeprefix("bytes=").partition("-")
                size = int(end) + 1 - int(start)
                part = WEIGHTS[int(start) : int(start) + (1 << 20)]
                handler.send_response(206)
                handler.send_header("content-range", f"bytes {start}-{end}/{len(WEIGHTS)}")
                handler.send_header("content-length", str(size))
                handler.end_headers()
                handler.wfile.write(part)
                registry.sent[digest_of(WEIGHTS)] += len(part)
                time.sleep(1)
                handler.close_connection = True
                return True
            return False

        registry.before = stall
        pulled(store, host)
        assert len(quiet) == 2
        assert registry.sent[digest_of(WEIGHTS)] <= len(WEIGHTS) * 1.05
        assert check_promise(store.root) == 1


# --- what is refused ----------------------------------------------------------------------


def test_wrong_bytes_always(store: Store) -> None:
    """After the second time nothing of them is kept."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        registry.blobs[digest_of(b"weights")] = b"WEIGHTS"
        refused(store, host, "sent the wrong bytes")
        with pytest.raises(RegistryError) as caught:
            pulled(store, host)
        assert "remove it in the registry first" in caught.value.hint
        left = {path.name for path in (store.private / "partial").iterdir()}
        assert not any(digest_of(b"weights")[7:] in name for name in left)


def changed(**changes: Any) -> Callable[[StandIn], None]:
    """A manifest with other values for some keys; None leaves a key out."""

    def change(registry: StandIn) -> None:
        value = registry.model("a/m:v1", b"weights")
        for key, item in changes.items():
            value[key] = item
            if item is None:
                del value[key]
        registry.put("a/m:v1", json.dumps(value).encode())

    return change


def bytes_of(data: bytes, media_type: str = "application/json") -> Callable[[StandIn], None]:
    return lambda registry: registry.put("a/m:v1", data, media_type)


def layer(**changes: Any) -> Callable[[StandIn], None]:
    """A manifest whose first layer says something else."""

    def change(registry: StandIn) -> None:
        value = registry.model("a/m:v1", b"weights")
        value["layers"][0].update(changes)
        registry.put("a/m:v1", json.dumps(value).encode())

    return change


LIES = [
    ("not JSON", bytes_of(b"<html>log in</html>", "text/html"), "it is not JSON"),
    ("null", bytes_of(b"null"), "not a JSON object"),
    ("a list", bytes_of(b"[]"), "not a JSON object"),
    ("nothing", bytes_of(b""), "it is not JSON"),
    ("an empty object", bytes_of(b"{}"), "schemaVersion"),
    ("deep JSON", bytes_of(b"[" * 200_000), "it is not JSON"),
    ("schema 1", changed(schemaVersion=1), "schemaVersion is 1"),
    ("no layers", changed(layers=None), "no layers"),
    ("empty layers", changed(layers=[]), "no layers"),
    ("layers of numbers", changed(layers=[1, 2]), "not an object"),
    ("no config", changed(config=None), "not an object"),
    ("an index", bytes_of(b'{"schemaVersion":2,"manifests":[]}', OCI_INDEX), "index of several"),
    ("a short digest", layer(digest="sha256:aa"), "invalid digest"),
    ("a digest with a path", layer(digest="sha256:../../../../etc/passwd"), "invalid digest"),
    ("another algorithm", layer(digest="sha512:" + "a" * 128), "invalid digest"),
    ("upper case", layer(digest="sha256:" + "A" * 64), "invalid digest"),
    ("a negative size", layer(size=-1), "size -1"),
    ("a size of another kind", layer(size="7"), "size '7'"),
    ("a size too small", layer(size=3), "bytes, the manifest says 3|a different range"),
    ("a size too large", layer(size=70), "bytes, the manifest says 70|a different range"),
    (
        "a container",
        layer(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip"),
        "unknown",
    ),
    ("more than the disk", layer(size=1 << 60), "will not fit"),
    ("too long", bytes_of(b" " * (5 << 20)), "more than 4194304 bytes"),
]


@pytest.mark.parametrize(("change", "match"), [row[1:] for row in LIES], ids=[r[0] for r in LIES])
def test_a_manifest_that_lies(store: Store, change: Callable[[StandIn], None], match: str) -> None:
    """Is refused with what is wrong, before or while its blobs come."""
    with stand_in() as (registry, host):
        change(registry)
        refused(store, host, match, MbuildError)


def test_a_compressed_answer_is_not_unpacked(store: Store) -> None:
    """A megabyte of zeros is a kilobyte of gzip, and a bomb is many of them."""
    with stand_in() as (registry, host):
        bomb = gzip.compress(bytes(64 << 20))

        def answer(handler: Handler) -> bool:
            handler.answer(200, bomb, content_encoding="gzip")
            return "manifests" in handler.path

        registry.before = answer
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(store, host, "compressed")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_a_manifest_with_another_digest(store: Store) -> None:
    """Than the registry says."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")

        def lie(handler: Handler) -> bool:
            if "manifests" in handler.path:
                data = registry.manifests["a/m:v1"]
                handler.answer(200, data, docker_content_digest="sha256:" + "0" * 64)
                return True
            return False

        registry.before = lie
        refused(store, host, "the registry says")


@pytest.mark.parametrize(
    "said",
    ["bytes 1-6/7", "bytes 0-6/8", "", "items 0-6/7"],
    ids=["moved", "longer", "none", "odd"],
)
def test_another_range_than_was_asked_for(store: Store, said: str) -> None:
    """Is not put where the right one belongs."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)

        def lie(handler: Handler) -> bool:
            if "range" in handler.headers:
                handler.answer(206, b"weights", content_range=said)
                return True
            return False

        registry.before = lie
        refused(store, host, "a different range")


REDIRECTS = [
    ("to a file", "file:///etc/passwd", "redirects to no usable address"),
    ("to nothing", "", "redirects to no usable address"),
    ("in a circle", "/v2/a/m/blobs/{digest}", "too many times"),
    ("to the cloud's own address", "http://169.254.169.254/latest/meta-data", "link-local"),
    ("into a network", "http://10.255.255.1/blob", "private"),
]


@pytest.mark.parametrize(
    ("location", "match"), [r[1:] for r in REDIRECTS], ids=[r[0] for r in REDIRECTS]
)
def test_a_redirect_that_goes_wrong(store: Store, location: str, match: str) -> None:
    """Is not followed."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")

        def lead(handler: Handler) -> bool:
            if "/blobs/" in handler.path:
                place = location.format(digest=handler.path.rpartition("/")[2])
                handler.answer(307, location=place)
                return True
            return False

        registry.before = lead
        refused(store, host, match)


def test_for_a_server_only_named_hosts_are_near(store: Store) -> None:
    """A registry that the operator named leads to nobody else on this machine."""
    with stand_in() as (other, there), stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")
        other.blobs = registry.blobs

        def lead(handler: Handler) -> bool:
            if "/blobs/" in handler.path:
                handler.answer(307, location=f"http://{there}{handler.path}")
                return True
            return False

        registry.before = lead
        named = Access.of_operator([f"http://{host}"])
        with pytest.raises(ForbiddenHostError, match="loopback"):
            pulled(store, host, access=named)
        assert other.requests == []
        both = Access.of_operator([f"http://{host}", f"http://{there}"])
        assert pulled(store, host, access=both).moved


CHALLENGES = [
    ("no challenge", "", DeniedError),
    ("no realm", "Bearer realm=", RegistryError),
    ("a file", 'Bearer realm="file:///etc/passwd"', RegistryError),
    ("another scheme", "Negotiate", DeniedError),
    ("a bad port", 'Bearer realm="https://x:99999999/t"', RegistryError),
    ("a strange host over http", 'Bearer realm="http://8.8.8.8/token"', RegistryError),
    ("the cloud's own address", 'Bearer realm="https://169.254.169.254/token"', ForbiddenHostError),
]


@pytest.mark.parametrize(
    ("header", "kind"), [r[1:] for r in CHALLENGES], ids=[r[0] for r in CHALLENGES]
)
def test_a_challenge_that_goes_wrong(store: Store, header: str, kind: type[MbuildError]) -> None:
    """Is an error, and no login goes anywhere but to its registry."""
    with stand_in() as (registry, host):
        keep(host, Login("mario", "secret"))

        def ask(handler: Handler) -> bool:
            handler.answer(401, **({"www_authenticate": header} if header else {}))
            return True

        registry.before = ask
        refused(store, host, ".", kind)
        assert not any("authorization" in headers for _, _, headers in registry.requests)


def test_a_login_is_tried_once(store: Store) -> None:
    """A registry that refuses it for ever is not asked for ever."""
    with stand_in() as (registry, host):
        keep(host, Login("mario", "secret"))

        def refuse(handler: Handler) -> bool:
            handler.answer(401, www_authenticate='Basic realm="x"')
            return True

        registry.before = refuse
        refused(store, host, "requires a login", DeniedError)
        assert len(registry.asked("GET", "manifests/v1")) == 2


TOKENS = [b"", b"{}", b"null", b"[1]", b'{"token": 5}', b'{"token": "a\\nb"}', b"x" * (2 << 20)]


@pytest.mark.parametrize("answer", TOKENS, ids=[str(t[:20]) for t in TOKENS])
def test_a_token_that_is_none(store: Store, answer: bytes) -> None:
    """Is not shown to anybody."""
    with stand_in() as (registry, host):

        def ask(handler: Handler) -> bool:
            if handler.path.startswith("/token"):
                handler.answer(200, answer)
            else:
                realm = f'Bearer realm="http://{host}/token",service="s"'
                handler.answer(401, www_authenticate=realm)
            return True

        registry.before = ask
        refused(store, host, "no token|more than")


def test_what_a_registry_says_obeys_no_terminal(store: Store) -> None:
    """Its words are shortened and made harmless."""
    with stand_in() as (registry, host):
        text = "\x1b[31mgo away\x1b[0m\n" + "x" * 5000

        def refuse(handler: Handler) -> bool:
            handler.answer(403, json.dumps({"errors": [{"message": text}]}).encode())
            return True

        registry.before = refuse
        with pytest.raises(DeniedError) as caught:
            pulled(store, host)
        assert "go away" in caught.value.message
        assert caught.value.message.isprintable() and len(caught.value.message) < 500


def test_nobody_listens(store: Store) -> None:
    """The host is named, and no traceback shown."""
    with stand_in() as (_, host):
        pass
    refused(store, host, "does not answer", UnreachableError)
    with pytest.raises(UnreachableError) as caught:
        pulled(store, host)
    assert "check the host and its port" in caught.value.hint


def test_a_registry_that_is_gone_in_the_middle(store: Store) -> None:
    """It is said that what arrived is kept; the next pull goes on with it."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", WEIGHTS)
        registry.cuts, registry.cut_after = 1 << 30, 1 << 20

        def gone(handler: Handler) -> bool:
            if sum(registry.sent.values()) > 8 << 20:
                handler.close_connection = True
                return True
            return False

        registry.before = gone
        with pytest.raises(UnreachableError) as caught:
            pulled(store, host)
        assert "what arrived is kept" in caught.value.hint
        registry.before, registry.cuts = lambda handler: False, 0
        registry.sent.clear()
        pulled(store, host)
        assert registry.sent[digest_of(WEIGHTS)] < len(WEIGHTS)


def test_a_pull_that_failed_before_its_first_byte_leaves_no_file(store: Store) -> None:
    """Nor does one that found no room; whatever arrived stays for the next pull."""
    partial = store.private / "partial"
    with stand_in() as (registry, host):
        value = registry.model("a/m:v1", WEIGHTS)
        whole = dict(registry.blobs)
        registry.blobs.clear()
        refused(store, host, "cannot be pulled")
        assert list(partial.iterdir()) == []
        too_large = {**value, "layers": [{**value["layers"][0], "size": 1 << 60}]}
        registry.put("a/m:v1", json.dumps(too_large).encode())
        refused(store, host, "the pull will not fit on this disk: .* free in .*blobs", MbuildError)
        assert list(partial.iterdir()) == []
        registry.put("a/m:v1", json.dumps(value).encode())
        registry.blobs[digest_of(WEIGHTS)] = whole[digest_of(WEIGHTS)]
        registry.cuts, registry.cut_after = 1 << 30, 1 << 20

        def refuse(handler: Handler) -> bool:
            if sum(registry.sent.values()) > 4 << 20:
                handler.answer(404)
                return True
            return False

        registry.before = refuse
        refused(store, host, "cannot be pulled")
    left = {path.name for path in partial.iterdir()}
    name = f"pull-{digest_of(WEIGHTS)[7:]}"
    assert left == {name, f"{name}.journal"}


def test_an_answer_that_is_cut_off_names_its_host(store: Store) -> None:
    """A manifest that ends too soon, and a blob that never comes whole."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", b"weights")

        def cut(handler: Handler) -> bool:
            if "manifests" not in handler.path:
                return False
            handler.answer(200, b"{", content_length="100")
            handler.close_connection = True
            return True

        registry.before = cut
        refused(store, host, f"the answer of {host} was cut off", UnreachableError)
        registry.before = lambda handler: False
        registry.cuts, registry.cut_after = 1 << 30, 0
        refused(store, host, f"the connection to {host} was lost", UnreachableError)


def test_the_memory_is_bounded(store: Store) -> None:
    """However large the blob is."""
    with stand_in() as (registry, host):
        registry.model("a/m:v1", bytes(200 << 20))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pulled(store, host)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 64 << 10, f"{grown} KiB"
