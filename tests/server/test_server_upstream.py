"""Forwarding to a server that runs models: bodies, headers, statuses and streams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from http_in_thread import answering
from live_server import serving_here

from mbuild.core.errors import UsageError
from mbuild.server.security import AccessPolicy
from mbuild.server.upstream import Upstream

PIECES = 5


class _Runner(BaseHTTPRequestHandler):
    """Answers a chat with a slow stream, anything else with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/missing"):
            self.send_error(404)
            return
        self.send_response(418 if b"teapot" in body else 200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Path", self.path)
        self.send_header("X-Authorization", self.headers.get("Authorization", ""))
        self.end_headers()
        for number in range(PIECES):
            line = json.dumps({"n": number, "got": len(body)}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def runner() -> Iterator[str]:
    with answering(_Runner) as host:
        yield f"http://{host}"


def test_streams_come_through_piece_by_piece(runner: str, tmp_path: Path) -> None:
    """The first piece is there before the last is made; path, query and status are kept."""
    upstream = Upstream.parse(f"{runner}/base", drops_authorization=False)
    with serving_here(tmp_path / "store", upstream=upstream) as server:
        began = time.monotonic()
        headers = {"Authorization": "Bearer mine"}
        request = server.http.stream("POST", "/api/chat?x=1", content=b"hi", headers=headers)
        with request as answer:
            times = [(time.monotonic() - began, line) for line in answer.iter_lines()]
        assert answer.headers["x-path"] == "/base/api/chat?x=1"
        assert answer.headers["x-authorization"] == "Bearer mine"
        assert [json.loads(line)["n"] for _, line in times] == list(range(PIECES))
        assert times[-1][0] - times[0][0] > 0.1
        for path in ("/api/generate", "/api/embed", "/v1/completions"):
            assert server.http.post(path, content=b"teapot").status_code == 418


def test_the_servers_own_token_is_not_passed_on(runner: str, tmp_path: Path) -> None:
    """The token that lets a client in is not the upstream's business."""
    upstream = Upstream.parse(runner, drops_authorization=True)
    policy = AccessPolicy(token="secret")
    with serving_here(tmp_path / "store", upstream=upstream, policy=policy) as server:
        headers = {"Authorization": "Bearer secret"}
        answer = server.http.post("/api/embed", content=b"hi", headers=headers)
        assert (answer.status_code, answer.headers["x-authorization"]) == (200, "")


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    """502 that names it."""
    upstream = Upstream.parse("127.0.0.1:9", drops_authorization=False)
    with serving_here(tmp_path / "store", upstream=upstream) as server:
        answer = server.http.post("/api/chat", content=b"{}")
        assert answer.status_code == 502 and "127.0.0.1:9" in answer.json()["error"]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:x", "http://h:99999", "foo"])
def test_urls_that_lead_nowhere(url: str) -> None:
    """They are refused when the server starts."""
    with pytest.raises(UsageError):
        Upstream.parse(url, drops_authorization=False)
