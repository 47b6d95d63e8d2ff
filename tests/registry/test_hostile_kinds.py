"""What servers, proxies and token servers send that no specification has: healed or refused.

Each row is one kind. None ends in a traceback, none goes on for ever, and nothing wrong is kept.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from pulling import pulled, refused
from registries import digest_of
from stand_in import Handler, StandIn, stand_in
from stores import check_promise

from mbuild.registry.client import attempts
from mbuild.registry.transfer import download
from mbuild.store import Store

RANGE = 64 << 10
WEIGHTS = random.Random(5).randbytes(3 * RANGE + 321)
DIGEST = digest_of(WEIGHTS)

Answer = Callable[[Handler], object]
"""Answers a request that it is for."""


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logins, short waits, and ranges so small that a small blob has several."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.002)
    monkeypatch.setattr(download, "RANGE", RANGE)
    monkeypatch.setattr(download, "NEAR_RANGE", RANGE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def asks_weights(handler: Handler) -> bool:
    return handler.path.endswith(DIGEST) and handler.command == "GET"


def asks_manifest(handler: Handler) -> bool:
    return "/manifests/" in handler.path


def answers(registry: StandIn, applies: Callable[[Handler], bool], answer: Answer) -> None:
    """Have requests answered so, the others rightly; None of ``answer`` ends a request."""
    registry.model("a/m:v1", WEIGHTS)

    def before(handler: Handler) -> bool:
        return applies(handler) and answer(handler) is not False

    registry.before = before


def span(handler: Handler) -> tuple[int, int]:
    """The first and the last byte that were asked for."""
    first, _, last = handler.headers["range"].removeprefix("bytes=").partition("-")
    return int(first), int(last)


def part(handler: Handler, first: int, last: int) -> None:
    said = f"bytes {first}-{last}/{len(WEIGHTS)}"
    handler.answer(206, WEIGHTS[first : last + 1], content_range=said)


def raw(handler: Handler, data: bytes) -> None:
    handler.wfile.write(data)
    handler.close_connection = True


# --- what heals ---------------------------------------------------------------------------


def shorter(handler: Handler) -> None:
    first, last = span(handler)
    part(handler, first, min(last, first + 40_000))


def longer(handler: Handler) -> None:
    part(handler, span(handler)[0], len(WEIGHTS) - 1)


def chunked(handler: Handler) -> None:
    first, last = span(handler)
    data = WEIGHTS[first : last + 1]
    said = f"Content-Range: bytes {first}-{last}/{len(WEIGHTS)}"
    head = f"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n{said}\r\n\r\n{len(data):x};x=1\r\n"
    handler.wfile.write(head.encode() + data + b"\r\n0\r\nX-Trailer: 1\r\n\r\n")


def interim(status: bytes) -> Answer:
    def answer(handler: Handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 " + status + b"\r\nLink: </x>\r\n\r\n")
        return False

    return answer


HEALED = [
    ("ranges shorter than asked for", asks_weights, shorter),
    ("ranges longer than asked for", asks_weights, longer),
    ("chunks, with a trailer", asks_weights, chunked),
    ("100 before the answer", asks_manifest, interim(b"100 Continue")),
    ("103 before the answer", asks_weights, interim(b"103 Early Hints")),
]


@pytest.mark.parametrize(
    ("applies", "answer"), [row[1:] for row in HEALED], ids=[row[0] for row in HEALED]
)
def test_what_is_odd_and_allowed(
    store: Store, applies: Callable[[Handler], bool], answer: Answer
) -> None:
    """Comes in whole."""
    with stand_in() as (registry, host):
        answers(registry, applies, answer)
        pulled(store, host)
        assert check_promise(store.root) == 1


def test_a_whole_that_begins_with_other_bytes_than_the_ranges_before(store: Store) -> None:
    """Changes nothing of what is there: it is digested already, and would be wrong unseen."""
    with stand_in() as (registry, host):
        seen: list[str] = []

        def answer(handler: Handler) -> bool:
            seen.append(handler.headers.get("range", ""))
            if seen[-1].startswith("bytes=0-"):
                return False
            registry.ranges = False
            handler.answer(200, bytes(RANGE) + WEIGHTS[RANGE:])
            return True

        answers(registry, asks_weights, answer)
        pulled(store, host)
        assert "" in seen
        assert check_promise(store.root) == 1


TOKENS = [
    {"token": "good", "expires_in": -1},
    {"token": "good", "expires_in": 10**400},
    {"token": "good", "expires_in": float("inf")},
    {"token": "good", "expires_in": float("nan")},
    {"token": "good", "expires_in": "300"},
    {"token": "", "access_token": "good"},
]


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: str(token)[:40])
def test_a_token_with_an_odd_end(store: Store, token: dict[str, object]) -> None:
    """Is one: how long it lasts is only a hint."""
    with stand_in() as (registry, host):
        log_in(registry, host, lambda handler: handler.answer(200, json.dumps(token).encode()))
        pulled(store, host)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_server_that_is_busy(store: Store, status: int) -> None:
    """Is asked again."""
    with stand_in() as (registry, host):
        asked: list[str] = []

        def answer(handler: Handler) -> None:
            asked.append(handler.path)
            if len(asked) == 1:
                handler.answer(status, retry_after="0")
            else:
                handler.answer(200, b'{"token": "good"}')

        log_in(registry, host, answer)
        pulled(store, host)
        assert len(asked) == 2


def log_in(registry: StandIn, host: str, token: Answer, realm: str = "") -> None:
    """Want the token ``good``, which another path of the same host gives."""
    registry.model("a/m:v1", WEIGHTS)
    asked = f'Bearer realm="{realm or f"http://{host}/token"}",service="s"'

    def before(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            token(handler)
        elif handler.headers.get("authorization") == "Bearer good":
            return False
        else:
            handler.answer(401, www_authenticate=asked)
        return True

    registry.before = before


ABOUT = [
    b"<html>",
    b'{"tags": [1, null], "manifests": [1]}',
    b'{"manifests": [{"digest": 5, "artifactType": []}], "tags": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", ABOUT, ids=lambda data: str(data[:30]))
def test_lists_about_a_model_that_are_none(store: Store, data: bytes) -> None:
    """Cost the model nothing."""
    with stand_in() as (registry, host):

        def listed(handler: Handler) -> bool:
            return "/referrers/" in handler.path or "/tags/list" in handler.path

        answers(registry, listed, lambda handler: handler.answer(200, data))
        pulled(store, host)


# --- what is refused ----------------------------------------------------------------------


def zipped(handler: Handler) -> None:
    first, last = span(handler)
    data = gzip.compress(WEIGHTS[first : last + 1], 1)
    said = f"bytes {first}-{last}/{len(WEIGHTS)}"
    handler.answer(206, data, content_encoding="gzip", content_range=said)


def drops(handler: Handler) -> None:
    first, last = span(handler)
    said = f"bytes {first}-{last}/{len(WEIGHTS)}"
    handler.answer(206, WEIGHTS[first : first + 10], content_range=said)


def chunks_of(length: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        first, last = span(handler)
        said = f"Content-Range: bytes {first}-{last}/{len(WEIGHTS)}\r\n\r\n".encode()
        raw(handler, b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n" + said + length)

    return answer


def leads(location: str) -> Answer:
    return lambda handler: handler.answer(307, location=location)


NO_NUMBER = "0" * 5000
CUT, RANGED, LED = (
    r"the connection (to \S+ )?was",
    "a different range",
    "redirects to no usable address",
)
REFUSED = [
    ("ranges of gzip", asks_weights, zipped, "compressed"),
    ("a few bytes of each range", asks_weights, drops, CUT),
    ("chunks without a length", asks_weights, chunks_of(b"zz\r\nabc"), CUT),
    ("chunks of negative length", asks_weights, chunks_of(b"-5\r\nabc"), CUT),
    ("a chunk longer than any", asks_weights, chunks_of(b"f" * 3000 + b"\r\nabc"), CUT),
    (
        "a range with 5000 digits",
        asks_weights,
        lambda h: h.answer(206, b"x", content_range=f"bytes {NO_NUMBER}-9/{len(WEIGHTS)}"),
        RANGED,
    ),
    (
        "several ranges at once",
        asks_weights,
        lambda h: h.answer(206, b"--x", content_type="multipart/byteranges; boundary=x"),
        RANGED,
    ),
    ("no range for a range", asks_weights, lambda h: h.answer(416), "status 416"),
    (
        "interim answers for ever",
        asks_manifest,
        lambda h: raw(h, b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
        CUT,
    ),
    (
        "a header for ever",
        asks_manifest,
        lambda h: raw(h, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000),
        CUT,
    ),
    (
        "headers for ever",
        asks_manifest,
        lambda h: raw(h, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500),
        CUT,
    ),
    ("to half an address", asks_weights, leads("http://[::1"), LED),
    ("to another protocol", asks_manifest, leads("ftp://127.0.0.1/x"), LED),
    ("to a page of a script", asks_manifest, leads("javascript:1"), LED),
    ("to an address as a number", asks_weights, leads("http://2852039166/latest"), "link-local"),
    ("to one in IPv6", asks_weights, leads("http://[::ffff:169.254.169.254]/"), "link-local"),
    ("to one behind a login", asks_weights, leads("http://a:b@169.254.169.254/"), "link-local"),
]


@pytest.mark.parametrize(
    ("applies", "answer", "match"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_wrong(
    store: Store, applies: Callable[[Handler], bool], answer: Answer, match: str
) -> None:
    """Is refused with what is wrong, soon."""
    with stand_in() as (registry, host):
        answers(registry, applies, answer)
        refused(store, host, match)


def test_a_place_for_tokens_that_is_half_an_address(store: Store) -> None:
    """Is none."""
    with stand_in() as (registry, host):
        log_in(registry, host, lambda handler: None, realm="http://[::1/token")
        refused(store, host, "does not say where to get tokens")
