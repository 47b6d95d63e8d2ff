"""The parts of a transfer by themselves: spans, partial blobs, answers, tokens, Ollama's key."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import threading
from email.utils import formatdate
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from registries import digest_of
from stand_in import Handler, stand_in

from mbuild.core.digest import Digest
from mbuild.core.errors import (
    ForbiddenHostError,
    RegistryError,
    StoreError,
    UnreachableError,
    UsageError,
)
from mbuild.core.transfers import Direction
from mbuild.registry.auth.challenge import challenges
from mbuild.registry.auth.login import Login
from mbuild.registry.auth.tokens import Authority, BearerTokens
from mbuild.registry.client import web
from mbuild.registry.client.access import PUBLIC, Access, Nearness
from mbuild.registry.client.answers import read_limited, refusal, wait_of
from mbuild.registry.client.registry import Received, Registry
from mbuild.registry.dialects import ollama
from mbuild.registry.dialects.received import document
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer import download, journal, partial
from mbuild.registry.transfer.download import NEAR_RANGE, RANGE, Download
from mbuild.registry.transfer.journal import merged
from mbuild.registry.transfer.moving import connections
from mbuild.registry.transfer.partial import OtherBytesError, PartialBlob
from mbuild.registry.transfer.passing import PassingBlob
from mbuild.store import Store
from mbuild.work.cancel import Cancel
from mbuild.work.cores import THREADS_VARIABLE
from mbuild.work.spread import Part

DATA = random.Random(3).randbytes(3 << 20)
DIGEST = Digest(hashlib.sha256(DATA).hexdigest())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12))
def test_spans_are_merged_as_sets_are(rows: list[tuple[int, int]]) -> None:
    """The same bytes, in order, none twice."""
    found = merged([(start, start + size) for start, size in rows])
    assert {x for start, end in found for x in range(start, end)} == {
        x for start, size in rows for x in range(start, start + size)
    }
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8), st.integers(0, 80))
def test_what_is_missing_is_the_rest(rows: list[tuple[int, int]], start: int) -> None:
    """Of the whole blob and of any stretch of it."""
    blob = object.__new__(PartialBlob)
    blob.size = 80
    blob._lock = threading.Lock()
    blob._spans = merged([(at, at + size) for at, size in rows])
    there = {x for at, size in rows for x in range(at, at + size)}
    found = {x for first, last in blob.missing(start, 80) for x in range(first, last)}
    assert found == set(range(start, 80)) - there


def claimed(store: Store, digest: Digest = DIGEST, size: int = len(DATA)) -> PartialBlob:
    store.prepare()
    blob = PartialBlob(store.blobs, digest, size)
    assert blob.claim()
    blob.begin()
    return blob


def test_a_long_journal_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow line notes little at a time: the file stays short, and tells the same."""
    monkeypatch.setattr(journal, "_LONG_JOURNAL", 500)
    store = Store(tmp_path / "store")
    blob = claimed(store)
    for at in range(0, 200_000, 100):
        blob.write(at, DATA[at : at + 100])
        blob.note(at, at + 100)
    blob.note(300_000, 300_001)
    file = blob._journal.path
    assert file.stat().st_size < 1000
    blob.leave()
    again = PartialBlob(store.blobs, DIGEST, len(DATA))
    assert again.claim()
    assert again.missing() == [(200_000, 300_000), (300_001, len(DATA))]
    assert [path.name for path in file.parent.iterdir() if "tmp" in path.name] == []
    again.discard()


@given(st.integers(1 << 16, 1 << 19), st.floats(0, 10))
def test_pieces_fit_the_line(size: int, seconds: float) -> None:
    """Smaller after a slow one, larger after a fast one, within bounds."""
    after = download._following(size, seconds)
    assert 1 << 16 <= after <= 1 << 19
    assert after <= size if seconds > 0.01 else after >= size
    assert after == size if 0.0025 <= seconds <= 0.01 else True


def test_a_partial_blob_is_taken_up(tmp_path: Path) -> None:
    """Its parts arrive in any order, before and after it was left; one process has it."""
    store = Store(tmp_path / "store")
    first, cut = claimed(store), 1 << 20
    assert not PartialBlob(store.blobs, DIGEST, len(DATA)).claim()
    first.write(2 * cut, DATA[2 * cut :])
    first.note(2 * cut, 3 * cut)
    first.write(0, DATA[:100])  # not noted: it counts for nothing
    first.leave()
    second = claimed(store)
    assert second.missing() == [(0, 2 * cut)]
    assert second.received == cut
    second.write(0, DATA[: 2 * cut])
    second.note(0, 2 * cut)
    second.advance()
    assert second.finish().digest == DIGEST
    assert store.blobs.read(DIGEST, 1 << 30) == DATA


def taken(blob: PartialBlob) -> None:
    """All bytes arrive, in small pieces."""
    for at in range(0, len(DATA), 1 << 18):
        blob.take(at, memoryview(DATA)[at : at + (1 << 18)])
    blob.advance()


def test_the_disk_has_a_download_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that much is there, on another thread, and once all is; not bytes that pass."""
    monkeypatch.setattr(partial, "_FLUSHED", 1 << 20)
    threads = []
    monkeypatch.setattr(partial, "sync", lambda fd: threads.append(threading.current_thread().name))
    store = Store(tmp_path / "store")
    blob = claimed(store)
    taken(blob)
    assert blob.finish().digest == DIGEST
    assert set(threads) == {"mbuild-disk"}
    assert 1 <= len(threads) <= len(DATA) // (1 << 20) + 1
    threads.clear()
    other = PassingBlob(Store(tmp_path / "other").blobs, DIGEST, len(DATA))
    assert other.claim()
    other.begin()
    taken(other)
    assert other.finish().digest == DIGEST
    other.leave()
    other.release()
    assert threads == []


def test_what_the_disk_refuses_is_no_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of an error once: whoever hears of it beside the download passes it on."""
    errors = [OSError(errno.EIO, "Input/output error")]

    def sync(fd: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(partial, "sync", sync)
    store = Store(tmp_path / "store")
    blob = claimed(store)
    with pytest.raises(StoreError, match="Input/output error"):
        taken(blob)
        blob.finish()
    assert not errors and not store.blobs.has(DIGEST, len(DATA))
    blob.discard()


def test_other_bytes_are_forgotten(tmp_path: Path) -> None:
    """And the blob does not get its name."""
    store = Store(tmp_path / "store")
    blob = claimed(store)
    blob.write(0, bytes(len(DATA)))
    blob.note(0, len(DATA))
    with pytest.raises(OtherBytesError):
        blob.finish()
    assert blob.missing() == [(0, len(DATA))]
    assert not store.blobs.has(DIGEST, len(DATA))
    blob.write(0, DATA)
    blob.note(0, len(DATA))
    assert blob.finish().size == len(DATA)


def test_a_blob_of_no_bytes(tmp_path: Path) -> None:
    """Has all of them at once."""
    store = Store(tmp_path / "store")
    blob = claimed(store, Digest.of(b""), 0)
    assert blob.missing() == []
    assert blob.finish().size == 0


def test_a_file_that_became_a_blob_is_not_written_to(tmp_path: Path) -> None:
    """Whoever waited for it finds another file in its place."""
    store = Store(tmp_path / "store")
    first = claimed(store)
    path = store.private / "partial" / f"pull-{DIGEST.hex}"
    first.write(0, DATA)
    first.note(0, len(DATA))
    first.finish()
    assert not path.exists()
    again = claimed(store)
    again.write(0, b"x")
    assert store.blobs.read(DIGEST, 1 << 30) == DATA
    again.discard()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("host", "first", "most"),
    [("192.0.2.1", 0, RANGE), ("127.0.0.1:9", 0, NEAR_RANGE), ("127.0.0.1:9", 5, RANGE)],
)
def test_ranges_are_small_enough_for_the_digest_to_follow(
    tmp_path: Path, host: str, first: int, most: int
) -> None:
    """They cover what is missing, in order; within a machine few are made, unless for a reader."""
    store = Store(tmp_path / "store")
    size = NEAR_RANGE + 3 * RANGE + 5
    blob = claimed(store, DIGEST, size)
    blob.note(RANGE, RANGE + 7)
    registry = Registry(ModelReference.parse(f"{host}/a/b"), Access(), Cancel())
    ranges = Download(registry, blob, Cancel()).ranges(first)
    pieces = [piece for piece in [(0, first), (first, RANGE)] if piece[0] < piece[1]]
    assert ranges[: len(pieces)] == pieces and ranges[len(pieces)][0] == RANGE + 7
    assert ranges[-1][1] == size
    after = ranges[len(pieces) :]
    assert all(end == start for (_, end), (start, _) in pairwise(after))
    assert all(end - start == most for start, end in after[:-1])
    blob.leave()


@pytest.mark.parametrize(
    ("direction", "near", "threads", "expected"),
    [
        (Direction.PULL, Nearness.LOOPBACK, 2, 1),
        (Direction.PULL, Nearness.LOOPBACK, 3, 2),
        (Direction.PUSH, Nearness.LOOPBACK, 2, 2),
        (Direction.PULL, Nearness.PRIVATE, 2, 4),
        (Direction.PUSH, Nearness.PUBLIC, 16, 4),
    ],
)
def test_how_many_connections(
    direction: Direction,
    near: Nearness,
    threads: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A registry on this machine takes its part of the cores."""
    monkeypatch.setenv(THREADS_VARIABLE, str(threads))
    assert connections(direction, near) == expected


def test_a_download_ends_with_its_cancel(tmp_path: Path) -> None:
    """A part that is told to end asks for nothing more."""
    from mbuild.core.errors import CancelledError

    store, cancel = Store(tmp_path / "store"), Cancel()
    blob = claimed(store)
    with stand_in() as (registry, host):
        registry.blobs[digest_of(DATA)] = DATA
        client = Registry(ModelReference.parse(f"{host}/a/b"), Access(), cancel)
        cancel.cancel()
        with pytest.raises(CancelledError):
            Download(client, blob, cancel).fetch(0, len(DATA), Part(cancel))
        assert registry.asked("GET", digest_of(DATA)) == []
    blob.leave()


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("999999", 120, 120),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("", 0, 0),
    ],
)
def test_how_long_to_wait(header: str, least: float, most: float) -> None:
    """A number of seconds, never more than two minutes."""
    answer = urllib3.HTTPResponse(headers={"Retry-After": header})
    assert least <= wait_of(answer) <= most


@pytest.mark.parametrize(("seconds", "least", "most"), [(90, 10, 90), (-30, 0, 0)])
def test_how_long_to_wait_until_a_date(seconds: int, least: float, most: float) -> None:
    """A date that has passed is now."""
    header = formatdate(time() + seconds, usegmt=True)
    answer = urllib3.HTTPResponse(headers={"Retry-After": header})
    assert least <= wait_of(answer) <= most


def test_an_answer_of_a_registry_is_bounded() -> None:
    """Longer than allowed, or in another shape than an error has."""
    with pytest.raises(RegistryError, match=r"x\.io sent an answer of more than 10 bytes"):
        read_limited(urllib3.HTTPResponse(BytesIO(b"x" * 11), preload_content=False), 10, "x.io")
    for body in (b"", b"{", b'{"errors":5}', b'{"errors":[5]}', b"[" * 100_000):
        answer = urllib3.HTTPResponse(BytesIO(body), status=418, preload_content=False)
        assert refusal(answer, "it fails", "x.io").message == "it fails: status 418"


def test_a_host_is_looked_at_before_it_is_asked() -> None:
    """Nothing is sent to an address that a strange host has in this network."""
    with stand_in() as (registry, host):
        asked = web.Web(Cancel())
        with pytest.raises(ForbiddenHostError, match="loopback"):
            asked.ask("GET", f"http://{host}/v2/", {}, reach=PUBLIC)
        assert registry.requests == []
        assert asked.ask("GET", f"http://{host}/v2/", {}).status == 200
        for url in ("http:///x", "ftp://x/y", "x"):
            with pytest.raises(RegistryError, match="no"):
                asked.ask("GET", url, {})


def test_a_proxy_is_asked_in_the_place_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the environment names, but not for hosts that it leaves out."""
    with stand_in() as (proxy, host):
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{host}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert web.Web(Cancel()).ask("GET", "http://example.invalid/v2/", {}).status == 200
        _, target, headers = proxy.requests[0]
        assert target == "http://example.invalid/v2/"
        assert headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
        with pytest.raises(UnreachableError):
            web.Web(Cancel()).ask("GET", "http://127.0.0.1:9/", {})
        with pytest.raises(ForbiddenHostError):
            web.Web(Cancel()).ask("GET", "http://169.254.169.254/", {}, reach=PUBLIC)


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login for a registry here must not go there, whatever the environment leaves out."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with stand_in() as (proxy, host), stand_in() as (registry, here):
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://{host}")
        port = here.rpartition(":")[2]
        for own in (here, f"localhost:{port}", f"LOCALHOST:{port}"):
            asked = web.Web(Cancel())
            login = {"Authorization": "Basic eDp5"}
            assert asked.ask("GET", f"http://{own}/v2/", login).status == 200
            assert not asked.has_proxy("https", own.partition(":")[0])
        assert len(registry.requests) == 3 and proxy.requests == []
        assert not web.Web.has_proxy("http", "::1") and not web.Web.has_proxy("http", "127.9.9.9")
        assert web.Web.has_proxy("http", "192.0.2.1")


@pytest.mark.parametrize(
    ("scheme", "host", "proxy", "shown"),
    [
        ("http", "10.0.0.7", "", True),
        ("http", "10.0.0.7", "http://10.0.0.1:3128", True),
        ("http", "10.0.0.7", "8.8.8.8:3128", False),
        ("http", "10.0.0.7", "http://proxy.invalid:3128", False),
        ("http", "127.0.0.1", "http://8.8.8.8:3128", True),
        ("https", "10.0.0.7", "http://8.8.8.8:3128", True),
    ],
)
def test_no_login_is_shown_to_a_proxy_on_the_internet(
    monkeypatch: pytest.MonkeyPatch, scheme: str, host: str, proxy: str, shown: bool
) -> None:
    """Over http it reads what a registry in this network is sent."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    reference = ModelReference.parse(f"{scheme}://{host}/a/b")
    registry = Registry(reference, Access(), Cancel(), Login("me", "secret"))
    if shown:
        assert registry._login == Login("me", "secret")
        return
    with pytest.raises(UsageError, match="nor to a proxy there"):
        assert registry._login


def test_the_hubs_token_is_not_shown_to_a_proxy_on_the_internet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a mirror is asked over http."""
    from mbuild.registry.hub.hub import Hub
    from mbuild.registry.hub.reference import HubReference

    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://10.0.0.7")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:3128")
    hub = Hub(HubReference.parse("hf.co/a/b"), Access(), Cancel())
    assert hub._login is not None and hub._login.bearer == "hf_secret"
    monkeypatch.setenv("http_proxy", "http://8.8.8.8:3128")
    hub = Hub(HubReference.parse("hf.co/a/b"), Access(), Cancel())
    with pytest.raises(UsageError, match="nor to a proxy there"):
        assert hub._login


def test_an_interrupted_wait_ends() -> None:
    """The connection is cut from another thread."""
    from mbuild.core.errors import CancelledError

    with stand_in() as (registry, host):
        waiting, go = threading.Event(), threading.Event()

        def hang(handler: Handler) -> bool:
            waiting.set()
            go.wait(30)
            return False

        registry.before = hang
        asked = web.Web(Cancel())
        threading.Thread(target=lambda: (waiting.wait(30), asked.interrupt())).start()
        with pytest.raises(CancelledError):
            asked.ask("GET", f"http://{host}/v2/", {})
        go.set()


def tokens_of(host: str, login: Login | None = None) -> BearerTokens:
    authority = Authority("http", host, Nearness.LOOPBACK, Access(), login)
    return BearerTokens(web.Web(Cancel()), authority)


def test_tokens_are_kept_and_renewed() -> None:
    """One request for many threads; a refused one is not given again."""
    with stand_in() as (registry, host):
        count = 0

        def give(handler: Handler) -> bool:
            nonlocal count
            count += 1
            handler.answer(
                200, json.dumps({"access_token": f"t{count}", "expires_in": 300}).encode()
            )
            return True

        registry.before = give
        asked = challenges(f'Bearer realm="http://{host}/t",service="s",scope="repository:a:pull"')
        found = tokens_of(host, Login("u", "p"))
        given: list[str] = []
        scopes = ("repository:a:pull,push",)
        threads = [
            threading.Thread(target=lambda: given.append(found.header(asked, scopes, "")))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert given == ["Bearer t1"] * 8
        assert found.header(asked, scopes, "Bearer t1") == "Bearer t2"
        assert found.header(asked, ("repository:b:pull",), "") == "Bearer t3"
        query = urlsplit(registry.requests[0][1]).query
        assert query == "service=s&scope=repository%3Aa%3Apull%2Cpush&account=u"


KEY_SEED = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
NONCE = "0Ga9-evhuqJAklZiDC-iTw"
SIGNED = (
    "AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4:"
    "jN7l+nATRH50Q+95NHDKAKsrRSL9ESMibQ70AD5wWHrJ5HADYRLURCqVFs0zLOlCtGzCwxJqSISW9p6ZGynyDg=="
)
"""What the real Ollama sent with that key."""


@pytest.mark.filterwarnings("ignore")
def test_ollama_signature(tmp_path: Path) -> None:
    """Is Ollama's own, byte for byte."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from mbuild.registry.auth.ollama_key import signed

    key: Any = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(KEY_SEED))
    file = tmp_path / "id_ed25519"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    url, header = signed(
        file,
        "http://127.0.0.1:25103/token",
        "mbuild-test",
        ["repository:lib/mario:pull"],
        nonce=NONCE,
        now=1795728415,
    )
    assert header == SIGNED
    assert urlsplit(url).query == (
        f"nonce={NONCE}&scope=repository%3Alib%2Fmario%3Apull&service=mbuild-test&ts=1795728415"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_key_that_is_none(tmp_path: Path) -> None:
    """Is named, with what it has to be."""
    pytest.importorskip("cryptography")
    from mbuild.core.errors import UsageError
    from mbuild.registry.auth.ollama_key import signed

    file = tmp_path / "id_ed25519"
    file.write_bytes(os.urandom(100))
    with pytest.raises(UsageError, match="id_ed25519"):
        signed(file, "http://x/t", "s", [])


def test_a_manifest_of_another_dialect() -> None:
    """Is told from Ollama's by its layers."""
    with stand_in() as (registry, _):
        value = registry.model("a/m:v1", b"weights")
    reference = ModelReference.parse("x.io/a/m")
    found = document(Received(json.dumps(value).encode(), DIGEST, ""), reference)
    assert ollama.fits(found)
    assert ollama.manifest(found, reference).layers[0].size == 7
    for layer in value["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
    found = document(Received(json.dumps(value).encode(), DIGEST, ""), reference)
    assert not ollama.fits(found)
