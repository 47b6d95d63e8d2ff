"""Small requests that would cost much, and forms of requests that are seldom seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from live_server import files_below, serving_here
from stores import copy_tiny_store

from mbuild.core.errors import UsageError
from mbuild.server.security import AccessPolicy, make_policy


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"license": ["x"] * 200_000}, "200000 licenses; the limit is 1024"),
        ({"license": ["x" * 1000] * 5 + ["y" * 5_000_000]}, "'license' has 5005000 characters"),
        ({"system": "\U0001f600" + "x" * 10_000_000}, "'system' has 10000001 characters"),
        ({"messages": [{"role": "user", "content": "x" * 9_000_000}] * 2}, "'messages' has"),
        ({"parameters": {f"p{n}": 1 for n in range(100_000)}}, "100000 unknown parameters: 'p0'"),
        ({"from": "", "modelfile": "FROM tiny\n" * 40_000}, "40000 FROM lines"),
        ({"from": "", "modelfile": "FROM tiny\n" + "LICENSE x\n" * 40_000}, "40000 licenses"),
    ],
    ids=["licenses", "license", "system", "messages", "parameters", "FROM", "LICENSE"],
)
def test_too_much_is_refused_before_anything_is_written(
    fields: dict[str, Any], text: str, tmp_path: Path
) -> None:
    """400 with the count and the limit in a short text, and no file more in the store."""
    root = copy_tiny_store(tmp_path / "store")
    with serving_here(root) as server:
        before = files_below(root)
        answer = server.create(model="new", **{"from": "tiny", **fields})
        assert answer.status_code == 400 and text in answer.json()["error"]
        assert len(answer.content) < 4000
        assert files_below(root) == before


def test_one_answer_names_twenty_problems(tmp_path: Path) -> None:
    """A Modelfile's text with 1,000 problems is answered with 20 of them and the number left."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        text = "FROM tiny\n" + "".join(f"PARAMETER p{n} 1\n" for n in range(1000))
        answer = server.create(model="new", modelfile=text)
        assert answer.status_code == 400 and len(answer.content) < 8000
        assert answer.json()["error"].endswith(" more problems")


def test_many_unread_fields_are_not_all_compared(tmp_path: Path) -> None:
    """100,000 fields of no meaning cost no search each."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        began = time.monotonic()
        more = {f"modle{n}": 1 for n in range(100_000)}
        answer = server.create(model="new", **{"from": "tiny"}, stream=False, **more)
        assert answer.status_code == 200 and time.monotonic() - began < 5


def test_an_upload_that_no_disk_holds_is_refused(tmp_path: Path) -> None:
    """A declared length beyond the free space is 507 before a byte is sent."""
    with serving_here(tmp_path / "store") as server:
        head = f"POST /api/blobs/sha256:{'0' * 64} HTTP/1.1\r\nHost: localhost\r\n"
        answer = server.raw(f"{head}Content-Length: 99999999999999999999\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 507 ") and b"has room for" in answer


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/api/version", "localhost", 200),
        ("HTTP://127.0.0.1:99/api/version?a=b", "localhost", 200),
        ("http://localhost", "localhost", 200),
        ("http://evil.com/api/version", "localhost", 403),
        ("http://localhost/api/version", "evil.com", 200),
        ("http://localhost@evil.com/api/version", "localhost", 404),
        ("ftp://localhost/api/version", "localhost", 404),
    ],
)
def test_a_whole_url_is_a_target(target: str, host: str, status: int, tmp_path: Path) -> None:
    """Its path is served; its host counts in place of the Host header (RFC 9112, 3.2.2)."""
    with serving_here(tmp_path / "store") as server:
        answer = server.raw(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


def test_an_unknown_expectation_is_417(tmp_path: Path) -> None:
    """Only 100-continue can be met, in any case of letters."""
    with serving_here(tmp_path / "store") as server:
        for value, status in (("junk", 417), ("100-Continue", 200)):
            head = f"GET /api/version HTTP/1.1\r\nHost: localhost\r\nExpect: {value}\r\n\r\n"
            assert server.raw(head.encode()).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:80@evil.com",
        "http://localhost:evil.com",
        "http://localhost:80/path",
        "http://localhost:80?x",
        "http://localhost:",
        "http://localhost:123456",
        "https://127.0.0.1:80#x",
        "http://[::1]:80@evil.com",
        "app://x@evil.com",
    ],
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    """The star of a pattern stands for a port where one is expected, not for anything."""
    assert not AccessPolicy().allows_origin(origin, "localhost:11434")


def test_a_token_that_no_header_carries_is_refused_at_start() -> None:
    """Letters outside ASCII and control characters never reach the server as they were typed."""
    for token in ("geheimß", "密码", "a\nb"):
        with pytest.raises(UsageError, match="the token has characters"):
            make_policy("127.0.0.1", token, (), insecure=False)
    make_policy("127.0.0.1", "a-b_c.~+/=", (), insecure=False)
