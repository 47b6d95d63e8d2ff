"""Storages for tests of shared caches: real servers on this machine, each empty at its start."""

from __future__ import annotations

import http.server
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import httpx
import pytest
from http_in_thread import answering
from live_server import LiveServer
from registries import docker_registry, free_port

TOKEN = "a-token-of-a-team"

KINDS = ("folder", "s3", "registry", "serve", "plain-http", "sftp")
"""What :func:`storage` makes; ``plain-http`` is a stand-in for bazel-remote."""

LEASING = ("folder", "s3", "serve")
"""Those of them that can tell who was first."""


@contextmanager
def storage(kind: str, folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A URL for ``--cache-to``, and the environment that its users need."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if kind == "folder":
            yield str(folder / "shared"), {}
        elif kind == "s3":
            yield bucket()
        elif kind == "registry":
            host = stack.enter_context(docker_registry(folder, deletes=True))
            yield f"oci://{host}/team/cache", {}
        elif kind == "serve":
            arguments = ("--port", "0", "--no-run", "--cache", str(folder / "cache"))
            server = LiveServer(folder / "store", *arguments, MBUILD_TOKEN=TOKEN)
            stack.callback(server.stop)
            yield f"{server.url}/cache", {"MBUILD_CACHE_TOKEN": TOKEN}
        elif kind == "sftp":
            yield stack.enter_context(ssh_server(folder))
        else:
            yield stack.enter_context(bazel_stand_in()), {}


def bucket() -> tuple[str, Mapping[str, str]]:
    """An empty bucket on moto's server; skips where that is not installed."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    url, _ = _moto()
    with httpx.Client(base_url=url, timeout=5, trust_env=False, verify=False) as client:
        client.post("/moto-api/reset").raise_for_status()
        client.put("/team").raise_for_status()
    return (
        "s3://team/models",
        {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        },
    )


MOTO = """
import os, sys, threading
from moto.server import main

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""
"""It ends with the process that holds the other end of its standard input."""


@cache
def _moto() -> tuple[str, subprocess.Popen[bytes]]:
    """moto's server, which takes seconds to start, and so runs as long as the tests; its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", MOTO, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        assert process.poll() is None, "moto has ended"
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}", process


SSH = """
import asyncio, sys
import asyncssh

async def main(port, folder):
    keys = [folder + "/.ssh/host"]
    files = lambda channel: asyncssh.SFTPServer(channel, chroot=folder)
    await asyncssh.listen("127.0.0.1", port, server_host_keys=keys, sftp_factory=files,
                          authorized_client_keys=folder + "/.ssh/id_ed25519.pub")
    await asyncio.Event().wait()

asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""


def know(home: Path, port: int, key: str) -> None:
    """Write down the one key by which the SSH server on that port is known, or none."""
    line = f"[127.0.0.1]:{port} {key}" if key else ""
    (home / ".ssh" / "known_hosts").write_text(line, encoding="utf-8")


@contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A folder over SSH, and the home with the key that opens it; skips without the packages."""
    asyncssh = pytest.importorskip("asyncssh")
    pytest.importorskip("paramiko")
    port, home = free_port(), folder / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / "srv").mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(home / ".ssh" / "id_ed25519"))
    key.write_public_key(str(home / ".ssh" / "id_ed25519.pub"))
    host = asyncssh.generate_private_key("ssh-ed25519")
    host.write_private_key(str(home / ".ssh" / "host"))
    know(home, port, host.export_public_key().decode())
    process = subprocess.Popen([sys.executable, "-c", SSH, str(port), str(home)])
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the SSH server has ended"
            time.sleep(0.1)
        yield f"sftp://mario@127.0.0.1:{port}/srv", {"HOME": str(home)}
    finally:
        process.terminate()
        process.wait(10)


class _Bazel(http.server.BaseHTTPRequestHandler):
    """bazel-remote's layout with its habits: no conditions, no ranges, no DELETE."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def _answer(self, status: int, data: bytes = b"", body: bool = True) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_GET(self) -> None:
        data = self.objects.get(self.path)
        status = 404 if data is None else 200
        self._answer(status, data or b"", self.command == "GET")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if not re.fullmatch(r"/cache/(ac|cas)/[0-9a-f]{64}", self.path):
            self._answer(400)
            return
        self.objects[self.path] = data
        self._answer(200)

    def do_DELETE(self) -> None:
        self._answer(405)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def bazel_stand_in() -> Iterator[str]:
    """A stand-in for bazel-remote, which no registry of packages has."""
    handler = type("Handler", (_Bazel,), {"objects": {}})
    with answering(handler) as host:
        yield f"http://{host}/cache"


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would change a build, and some more."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "MBUILD_", "AWS_"))
    }
    return {**kept, "NO_PROXY": "127.0.0.1", **extra}
