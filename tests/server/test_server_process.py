"""``mbuild serve`` as a process: where it listens, who may ask, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import LiveServer, Server, serving, serving_here
from stores import copy_tiny_store

from mbuild.core.errors import UsageError
from mbuild.server.security import (
    AccessPolicy,
    address_of,
    host_of,
    is_loopback,
    make_policy,
    parse_host,
)


def run_serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected not to start."""
    return subprocess.run(
        [sys.executable, "-m", "mbuild", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """No traceback: what is wrong and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_serve("--port", port, "--store", str(tmp_path))
    assert ended.returncode == 1  # nothing is wrong with the command line
    assert ended.stderr.splitlines()[0] == f"error: 127.0.0.1:{port} is in use"


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    """Any address but loopback is refused without a token or the explicit option."""
    ended = run_serve("--host", "0.0.0.0", "--port", "0", "--store", str(tmp_path))
    assert ended.returncode == 2 and "--token" in ended.stderr
    for options in ({"token": "x"}, {"insecure": True}):
        make_policy("0.0.0.0", options.get("token", ""), (), insecure="insecure" in options)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        make_policy(host, "", (), insecure=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        assert not is_loopback(host)


def test_host_variable_is_honoured(tmp_path: Path) -> None:
    """``OLLAMA_HOST`` says where to listen, ``--port`` overrules it; SIGINT ends the server."""
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    with serving(tmp_path / "a", "--store", str(tmp_path / "a"), OLLAMA_HOST=f"{host}:0") as server:
        assert server.url.startswith(f"http://{host}:")
        assert server.http.get("/").text == "Ollama is running"
    server = LiveServer(tmp_path / "b", "--port", "0", OLLAMA_HOST="127.0.0.1:1")
    assert server.stop(signal.SIGINT) == (0, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("127.0.0.1", 11434)),
        ("example.com", ("example.com", 11434)),
        ("example.com:1234", ("example.com", 1234)),
        (":1234", ("127.0.0.1", 1234)),
        ("http://example.com", ("example.com", 80)),
        ("https://example.com", ("example.com", 443)),
        ("http://example.com:1234/path", ("example.com", 1234)),
        ("[::1]", ("::1", 11434)),
        ("[::1]:1234", ("::1", 1234)),
        ("::1", ("::1", 11434)),
        ('"0.0.0.0"', ("0.0.0.0", 11434)),
    ],
)
def test_host_variable_is_read_as_ollama_reads_it(text: str, expected: tuple[str, int]) -> None:
    """Scheme, brackets, missing parts and quotes."""
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        (None, None, ("10.0.0.1", 1)),
        (None, 5, ("10.0.0.1", 5)),
        ("::1", None, ("::1", 1)),
        ("127.0.0.1:7", None, ("127.0.0.1", 7)),
        ("[::1]:7", None, ("::1", 7)),
        (":7", None, ("10.0.0.1", 7)),
        ("127.0.0.1:7", 5, ("127.0.0.1", 5)),
        ("127.0.0.1", 0, ("127.0.0.1", 0)),
    ],
)
def test_the_option_is_read_as_the_variable_is(
    host: str | None, port: int | None, expected: tuple[str, int]
) -> None:
    """``--host`` overrules ``OLLAMA_HOST`` and may have a port, too; ``--port`` overrules both."""
    assert address_of("10.0.0.1:1", host, port) == expected


def test_host_and_port_may_be_one_option(tmp_path: Path) -> None:
    """The address that is in use is the one that the option names."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_serve("--host", address, "--store", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == f"error: {address} is in use"


def test_a_bad_port_is_an_error() -> None:
    """A port that is none is said, not replaced."""
    for text in ("h:70000", "h:x", "h:-1"):
        with pytest.raises(UsageError, match="is not a port"):
            parse_host(text)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:11434", True),
        ("LOCALHOST.", True),
        ("127.0.0.1:11434", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("[::1]:11434", True),
        ("", True),
        ("my.localhost", True),
        ("box.local", True),
        ("host.docker.internal:11434", True),
        ("192.168.0.10", True),
        ("evil.com", False),
        ("evil.com:11434", False),
        ("127.0.0.1.evil.com", False),
        ("localhost.evil.com", False),
        ("8.8.8.8", False),
        ("local", False),
        ("[2001:4860:4860::8888]", False),
    ],
)
def test_host_header(host: str, allowed: bool) -> None:
    """Names that a stranger's name server can point at this machine are refused."""
    assert AccessPolicy().allows_host(host) is allowed


def test_further_hosts_and_the_bound_one() -> None:
    """The address bound to and --allow-host are names of the server."""
    policy = AccessPolicy("203.0.113.5", ("models.example.com",))
    assert policy.allows_host("203.0.113.5:1") and policy.allows_host("Models.Example.com:443")
    assert host_of("[::1]:80") == "::1" and host_of("a.b:80") == "a.b"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("", True),
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:1", True),
        ("http://[::1]:3000", True),
        ("app://obsidian.md", True),
        ("vscode-webview://abc", True),
        ("tauri://localhost", True),
        ("http://own.host:1", True),
        ("https://allowed.example", True),
        ("http://evil.com", False),
        ("null", False),
        ("http://localhost.evil.com", False),
        ("http://localhost@evil.com", False),
        ("http://evil.com/localhost", False),
    ],
)
def test_origin(origin: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of this machine, of programs' own schemes, and of OLLAMA_ORIGINS may ask."""
    monkeypatch.setenv("OLLAMA_ORIGINS", "https://allowed.example, https://*.more.example")
    policy = make_policy("127.0.0.1", "", (), insecure=False)
    assert policy.allows_origin(origin, "own.host:1") is allowed


def test_cross_site_requests_are_refused_before_the_body(tmp_path: Path) -> None:
    """A form on a foreign page cannot build, delete or look: 403 with no body, nothing done."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        evil: dict[str, Any] = {"headers": {"Origin": "http://evil.com"}}
        body = '{"model":"tiny"}'
        for method, path in (("DELETE", "/api/delete"), ("POST", "/api/show"), ("GET", "/")):
            answer = server.http.request(method, path, content=body, **evil)
            assert (answer.status_code, answer.content) == (403, b""), path
            assert "access-control-allow-origin" not in answer.headers
        foreign = server.http.get("/api/tags", headers={"Host": "evil.com"})
        assert (foreign.status_code, foreign.content) == (403, b"")
        head = "POST /api/create HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n"
        early = server.raw((head + "Content-Length: 1000000000\r\n\r\n").encode(), timeout=5)
        assert early.startswith(b"HTTP/1.1 403")
        good = server.http.get("/api/tags", headers={"Origin": "http://localhost:3000"})
        assert good.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert good.json()["models"][0]["name"] == "tiny:latest"


def test_the_token_is_asked_for(tmp_path: Path) -> None:
    """With a token every request needs it; a wrong one is 401 with JSON."""
    with serving_here(tmp_path / "store", policy=AccessPolicy(token="secret")) as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = server.http.get("/api/tags", headers=headers)
            assert answer.status_code == 401 and "unauthorized" in answer.json()["error"]
            refused = server.http.post("/api/create", json={"model": "x"}, headers=headers)
            assert refused.status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert server.http.get("/api/tags", headers=right).json() == {"models": []}
    assert "secret" not in repr(AccessPolicy(token="secret"))


SLOW = """
import os, time
from mbuild.build.steps.gguf import ImportGGUF
from mbuild.core.events import Code
run = ImportGGUF.run
def slow(self, context, inputs):
    context.status(Code.PARSING_GGUF, {})
    try:
        for _ in range(600):
            context.report(1, 2)
            time.sleep(0.05)
    except BaseException:
        with open(os.environ["STOPPED"], "a") as file:
            file.write(self.file.name + " stopped\\n")
        raise
    return run(self, context, inputs)
ImportGGUF.run = slow
"""
"""Makes every import take half a minute, and note in a file when it is stopped."""


@pytest.fixture
def slow_server(tmp_path: Path) -> Any:
    """A server whose imports take long."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "STOPPED": str(tmp_path / "stopped")}
    with serving(tmp_path / "store", **environment) as server:
        yield server


def _begin(server: Server, name: str) -> httpx.Response:
    digest = server.upload(gguf_bytes(tiny_model()))
    body = {"model": name, "files": {"m.gguf": digest}}
    request = server.http.build_request("POST", "/api/create", json=body)
    return server.http.send(request, stream=True)


def test_sigterm_during_a_build_ends_soon_with_nothing_half_done(slow_server: LiveServer) -> None:
    """Under five seconds; the client gets an error line, the store no model and no file."""
    response = _begin(slow_server, "half")
    lines = response.iter_lines()
    assert next(lines) == '{"status":"parsing GGUF"}'
    began = time.monotonic()
    slow_server.process.send_signal(signal.SIGTERM)
    rest = list(lines)
    slow_server.process.wait(10)
    assert time.monotonic() - began < 5
    assert "error" in rest[-1]
    response.close()
    assert not list((slow_server.root / "manifests").rglob("half"))
    assert not list((slow_server.root / ".mbuild" / "tmp").iterdir())


def test_a_client_that_leaves_stops_its_build(slow_server: LiveServer) -> None:
    """The step that runs is stopped soon, and the model is not made."""
    response = _begin(slow_server, "left")
    lines = response.iter_lines()
    next(lines)
    progress = next(line for line in lines if "completed" in line)
    assert '"total":2' in progress
    response.close()
    stopped = slow_server.root.parent / "stopped"
    end = time.monotonic() + 10
    while not stopped.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert stopped.read_text() == "m.gguf stopped\n"
    assert slow_server.http.get("/api/tags").json() == {"models": []}


def test_an_answer_waits_for_no_acknowledgement() -> None:
    """asyncio turns Nagle's algorithm off for sockets of which it is told that they are TCP."""
    from mbuild.server.run import listen

    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.proto == socket.IPPROTO_TCP
