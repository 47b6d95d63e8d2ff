"""Servers for tests that talk HTTP: in a thread, or ``mbuild serve`` in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from mbuild.server import run
from mbuild.server.security import AccessPolicy
from mbuild.server.service import Service, ServiceOptions
from mbuild.store import Store


class Server:
    """A running server as its clients see it, and its store."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False)

    @property
    def store(self) -> Store:
        """The server's store, looked at from outside."""
        return Store(self.root)

    def create(self, **fields: Any) -> httpx.Response:
        """POST /api/create."""
        return self.http.post("/api/create", json=fields)

    def upload(self, data: bytes) -> str:
        """Upload a blob; its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        assert self.http.post(f"/api/blobs/{digest}", content=data).status_code in (200, 201)
        return digest

    def raw(self, request: bytes, timeout: float = 10) -> bytes:
        """What the server answers to these very bytes, until it closes or is silent."""
        headers_alone = request.startswith(b"HEAD ")
        with socket.create_connection(("127.0.0.1", self.port), timeout) as sock:
            sock.sendall(request)
            received = b""
            try:
                while piece := sock.recv(65536):
                    received += piece
                    if _complete(received, headers_alone):
                        break
            except (TimeoutError, ConnectionResetError):
                pass
            return received


class LiveServer(Server):
    """``mbuild serve`` in a process of its own."""

    def __init__(self, store: Path, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "mbuild", "serve", "--store", str(store)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MBUILD_"))}
        self.process = subprocess.Popen(
            [*command, *(arguments or ("--port", "0"))],
            stderr=subprocess.PIPE,
            env={**clean, **environment},
        )
        url = self._wait()
        self._errors: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        super().__init__(store, url)

    def _read(self) -> None:
        """Take what the server says: it must not wait for a reader."""
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            self._errors += iter(lambda: pipe.read(4096), b"")

    def _wait(self) -> str:
        assert self.process.stderr is not None
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.process.stderr], [], [], 1)[0]:
                line = self.process.stderr.readline().decode()
                found = re.search(r"http://\S+", line)
                if found:
                    return found[0]
                raise AssertionError(f"the server said {line!r}")
        raise AssertionError("the server did not start")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it; the exit status and what it wrote to standard error since it began."""
        self.http.close()
        self.process.send_signal(number)
        self.process.wait(30)
        self._reader.join(10)
        return self.process.returncode, b"".join(self._errors).decode()

    def worked(self) -> float:
        """Seconds that processors have worked for the server and the processes that it has ended.

        What the clock says, where that cannot be known.
        """
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return time.monotonic()
        ticks = stat.rpartition(")")[2].split()[11:15]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident bytes of the server (Linux), 0 where that cannot be known."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class _Server(uvicorn.Server):
    """Ends soon after it is told to: uvicorn itself looks ten times a second."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextmanager
def serving_here(root: Path, **options: Any) -> Iterator[Server]:
    """A server in a thread of this process; ``options`` as for it and for its service."""
    policy, upstream = options.pop("policy", AccessPolicy()), options.pop("upstream", None)
    service = Service(root, policy, upstream, ServiceOptions(**options))
    sock = run.listen("127.0.0.1", 0)
    config = run.configuration(service)
    config.timeout_graceful_shutdown = 1
    server = _Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
    thread.start()
    client = Server(root, run.url_of(sock))
    try:
        client.http.get("/")
        yield client
    finally:
        client.http.close()
        server.should_exit = True
        thread.join(30)
        sock.close()


def _complete(answer: bytes, headers_alone: bool) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found or headers_alone:
        return bool(found)
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(length) and len(body) >= int(length[1])


@contextmanager
def serving(store: Path, *arguments: str, **environment: str) -> Iterator[LiveServer]:
    """A server for a ``with`` block; it must end in time and say nothing of bugs."""
    server = LiveServer(store, *arguments, **environment)
    try:
        yield server
    finally:
        status, errors = server.stop()
    assert "internal error" not in errors and "Traceback" not in errors, errors
    assert status == 0


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The lines of a stream."""
    return [json.loads(line) for line in response.text.splitlines()]


def files_below(folder: Path) -> set[str]:
    """All files of a folder, by their paths in it."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def example_models(folder: Path) -> Path:
    """The models of the examples: ``tiny-chat``, ``tiny-lora``, ``tiny-embed``, ``tiny.gguf``."""
    script = Path(__file__).parent.parent / "examples" / "make_models.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120)
    return folder


def upload_folder(server: Server, folder: Path) -> dict[str, str]:
    """Upload every file of a folder; names and digests as ``files`` takes them."""
    return {path.name: server.upload(path.read_bytes()) for path in sorted(folder.iterdir())}
