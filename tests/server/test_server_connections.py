"""Clients that are silent, slow or too many: others are served all the same."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from live_server import serving_here

from mbuild.server import connections
from mbuild.server.connections import Connection


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of parts of a second."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.8)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)


HEAD = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n", HEAD + b"\r\n{"],
    ids=["nothing", "half a line", "half a header", "half a body"],
)
def test_a_request_that_does_not_arrive_is_answered_408(sent: bytes, tmp_path: Path) -> None:
    """The connection is closed soon after the deadline, whatever was sent."""
    with serving_here(tmp_path / "store") as server:
        began = time.monotonic()
        answer = server.raw(sent, timeout=10)
        assert answer.startswith(b"HTTP/1.1 408 ") and b'{"error":"the request' in answer
        assert 0.3 < time.monotonic() - began < 5


@pytest.mark.usefixtures("hurry")
def test_dripping_bytes_do_not_prolong_a_header(tmp_path: Path) -> None:
    """The deadline of a header counts from its first byte, also on a used connection."""
    with serving_here(tmp_path / "store") as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            first = b""
            while not first.endswith(b"Ollama is running"):
                first += sock.recv(4096)
            assert first.startswith(b"HTTP/1.1 200")
            time.sleep(0.8)  # silence between requests is no header
            answer = b""
            sock.settimeout(0.1)
            began = time.monotonic()
            while not answer and time.monotonic() - began < 5:
                try:
                    sock.sendall(b"G")
                    answer = sock.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    answer = b"HTTP/1.1 408 was lost"  # bytes crossed the closing
        assert answer.startswith(b"HTTP/1.1 408 ") and 0.3 < time.monotonic() - began < 4


@pytest.mark.usefixtures("hurry")
def test_a_slow_body_may_take_its_time(tmp_path: Path) -> None:
    """Only silence ends a body: one that keeps coming takes longer than the deadline."""
    with (
        serving_here(tmp_path / "store") as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as sock,
    ):
        sock.sendall(HEAD + b"\r\n")
        for letter in b'{"model":1':
            time.sleep(0.2)
            sock.sendall(bytes([letter]))
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")


def test_the_longest_idle_connection_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit a new client is served; when all are busy it gets 503 and when to retry."""
    monkeypatch.setattr(Connection, "limit", 5)
    with serving_here(tmp_path / "store") as server:
        server.http.close()
        address = ("127.0.0.1", server.port)
        silent = [socket.create_connection(address, 10) for _ in range(20)]
        for _ in range(10):
            assert (
                httpx.get(f"{server.url}/api/version", trust_env=False, verify=False).status_code
                == 200
            )
        assert silent[0].recv(1) == b"" or silent[0].recv(1) == b""
        busy = [socket.create_connection(address, 10) for _ in range(5)]
        for sock in busy:
            sock.sendall(HEAD + b"\r\n{")
        time.sleep(0.5)
        refused = server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 5\r\n" in refused
        for sock in [*silent, *busy]:
            sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted on Linux")
def test_more_silent_clients_than_descriptors(tmp_path: Path) -> None:
    """With 256 descriptors and 400 silent clients a request is answered, the log stays short."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256))

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mbuild", "serve", "--store", str(tmp_path), "--port", "0"],
            stderr=log,
            preexec_fn=limit,
        )
    held = []
    try:
        end = time.monotonic() + 60
        while not (text := (tmp_path / "log").read_text()).endswith("\n"):
            assert time.monotonic() < end
            time.sleep(0.05)
        port = int(text.rpartition(":")[2])
        files = Path(f"/proc/{process.pid}/limits").read_text()
        assert next(x for x in files.splitlines() if "open files" in x).split()[3] == "256"
        held = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(400)]
        answer = httpx.get(
            f"http://127.0.0.1:{port}/api/version", trust_env=False, verify=False, timeout=30
        )
        assert answer.status_code == 200
    finally:
        for sock in held:
            sock.close()
        process.terminate()
        process.wait(30)
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text and len(log_text.splitlines()) < 10
