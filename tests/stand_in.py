"""A registry in a thread that does what a test wants: cut, lie, lead elsewhere, count.

What it does right is as distribution 3 does it: ranges, uploads in parts that survive a cut.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from http_in_thread import answering
from registries import digest_of

from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE
from mbuild.store.media import MODEL, SYSTEM

_PIECE = 64 << 10


class StandIn:
    """What the registry has and does; tests change it while it runs.

    ``before`` may answer a request in its own way: it gets the handler and returns whether it
    did. ``cut_after`` ends a blob's answer after so many bytes, as often as ``cuts`` says.
    ``subjects``: it lists manifests under their subjects, and says so when it takes them.
    ``pause`` is seconds for each 64 KiB. ``sent`` counts bytes of blobs by digest, ``taken`` those
    of uploads.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.before: Callable[[Handler], bool] = lambda handler: False
        self.ranges = True
        self.parts = True
        self.largest_part = 1 << 40
        self.keeps_cut_parts = True
        self.subjects = False
        self.cut_after = 0
        self.cuts = 0
        self.cut_upload_after = 0
        self.pause = 0.0
        self.uploads: dict[str, bytearray] = {}
        self.sent: Counter[str] = Counter()
        self.taken = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()

    def add(self, data: bytes) -> dict[str, Any]:
        """A blob; what a layer says of it, but for its type."""
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    def model(self, name: str, weights: bytes, **changes: Any) -> dict[str, Any]:
        """A model of Ollama's dialect under ``PATH:TAG``; its manifest's JSON, perhaps changed."""
        config = b'{"model_format":"gguf"}\n'
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **self.add(config)},
            "layers": [
                {"mediaType": MODEL, **self.add(weights)},
                {"mediaType": SYSTEM, **self.add(b"You are Mario.")},
            ],
            **changes,
        }
        self.put(name, json.dumps(value).encode())
        return value

    def put(self, name: str, data: bytes, media_type: str = MANIFEST_TYPE) -> None:
        """A manifest under ``PATH:TAG``, and under its digest."""
        path = name.rpartition(":")[0]
        for key in (name, f"{path}:{digest_of(data)}"):
            self.manifests[key], self.types[key] = data, media_type

    def asked(self, method: str, ending: str = "") -> list[dict[str, str]]:
        """The headers of the requests so far with that method whose path ends so."""
        return [
            headers
            for verb, path, headers in self.requests
            if verb == method and path.partition("?")[0].endswith(ending)
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    registry: StandIn

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(60)

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        """A whole answer; underscores in headers are dashes."""
        self.send_response(status)
        for name, value in {"content_length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        """Note the request, then answer it in the test's way or in the right one."""
        found = self.registry
        headers = {key.lower(): value for key, value in self.headers.items()}
        with found.lock:
            found.requests.append((self.command, self.path, headers))
        with suppress(ConnectionError, TimeoutError):
            if not found.before(self):
                self.route()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def body(self) -> bytes:
        """The whole body."""
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def route(self) -> None:
        """The right answer."""
        path = urlsplit(self.path).path
        if path == "/v2/":
            self.answer(200, b"{}")
        elif match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            self.manifest(f"{match[1]}:{match[2]}")
        elif match := re.fullmatch(r"/v2/(.+)/tags/list", path):
            self.tags(match[1])
        elif re.search(r"/blobs/uploads/", path):
            self.upload(path)
        elif match := re.fullmatch(r"/v2/.+/blobs/(.+)", path):
            self.blob(match[1])
        else:
            self.answer(404)

    def manifest(self, key: str) -> None:
        """One that is there, or is put there."""
        found = self.registry
        if self.command == "PUT":
            data = self.body()
            found.put(key, data, self.headers["content-type"])
            named = {"docker_content_digest": digest_of(data)}
            subject = json.loads(data).get("subject")
            if found.subjects and subject:
                named["oci_subject"] = subject["digest"]
            self.answer(201, **named)
        elif key in found.manifests:
            data = found.manifests[key]
            headers = {"content_type": found.types[key]}
            self.answer(200, data, docker_content_digest=digest_of(data), **headers)
        else:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self.answer(404, json.dumps(error).encode())

    def tags(self, repository: str) -> None:
        """The tags of a repository in their order, as ``n`` and ``last`` want them."""
        query = parse_qs(urlsplit(self.path).query)
        names = (key.rpartition(":") for key in self.registry.manifests)
        found = sorted(tag for path, _, tag in names if path == repository)
        left = [tag for tag in found if tag > query.get("last", [""])[0]]
        page = left[: int(query.get("n", [len(left)])[0])]
        more = {"link": f'<{self.path}&more>; rel="next"'} if len(page) < len(left) else {}
        self.answer(200, json.dumps({"name": repository, "tags": page}).encode(), **more)

    def blob(self, digest: str) -> None:
        """A blob's bytes, in whole or a range of them."""
        data = self.registry.blobs.get(digest)
        if data is None:
            self.answer(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked and self.registry.ranges and self.command == "GET":
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("content-range", f"bytes {start}-{end - 1}/{len(data)}")
            part = memoryview(data)[start:end]
        else:
            self.send_response(200)
            part = memoryview(data)
        self.send_header("content-length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.pour(digest, part)

    def pour(self, digest: str, part: memoryview) -> None:
        """Send bytes, perhaps not all of them."""
        found = self.registry
        with found.lock:
            limit = len(part)
            if found.cuts > 0 and found.cut_after < limit:
                found.cuts -= 1
                limit = found.cut_after
        for at in range(0, limit, _PIECE):
            piece = part[at : min(at + _PIECE, limit)]
            self.wfile.write(piece)
            with found.lock:
                found.sent[digest] += len(piece)
            if found.pause:
                time.sleep(found.pause)
        if limit < len(part):
            self.close_connection = True

    def upload(self, path: str) -> None:
        """Begin an upload, take a part, tell how far it is, end it."""
        found = self.registry
        query = parse_qs(urlsplit(self.path).query)
        if self.command == "POST":
            self.body()
            source = query.get("from", [""])[0]
            if query.get("mount", [""])[0] in found.blobs and source:
                self.answer(201)
                return
            key = uuid.uuid4().hex
            found.uploads[key] = bytearray()
            self.answer(202, location=f"{path}{key}?state=0", range="0-0")
            return
        key = path.rpartition("/")[2]
        data = found.uploads.get(key)
        if data is None:
            self.answer(404)
        elif self.command == "GET":
            self.stands(204, path, data)
        elif self.command == "DELETE":
            del found.uploads[key]
            self.answer(204)
        elif self.command == "PATCH":
            self.part(path, key, data)
        else:
            self.end(query["digest"][0], key, data)

    def stands(self, status: int, path: str, data: bytearray) -> None:
        """An answer that says how far an upload is."""
        location = f"{path}?state={uuid.uuid4().hex}"
        self.answer(status, location=location, range=f"0-{max(len(data) - 1, 0)}")

    def part(self, path: str, key: str, data: bytearray) -> None:
        """Take a part as its bytes come."""
        found = self.registry
        size = int(self.headers.get("content-length") or 0)
        if not found.parts:
            self.body()
            self.answer(405)
            return
        said = self.headers.get("content-range") or f"{len(data)}-"
        if not said[0].isdigit():
            self.body()
            self.answer(500)
            return
        start = int(said.partition("-")[0])
        if size > found.largest_part or start != len(data):
            self.body()
            self.answer(413 if size > found.largest_part else 416)
            return
        if self.take(key, size, data):
            self.stands(202, path, data)

    def take(self, key: str, size: int, data: bytearray) -> bool:
        """Read bytes of an upload; False if the connection was cut, by either side."""
        found = self.registry
        left = size
        while left:
            piece = self.rfile.read1(min(left, _PIECE))  # type: ignore[attr-defined]
            with found.lock:
                found.taken += len(piece)
                cut = not piece
                data += piece
                left -= len(piece)
                if found.cut_upload_after and len(data) >= found.cut_upload_after:
                    found.cut_upload_after = 0
                    cut = True
            if found.pause:
                time.sleep(found.pause)
            if cut:
                if not found.keeps_cut_parts:
                    found.uploads.pop(key, None)
                self.close_connection = True
                return False
        return True

    def end(self, digest: str, key: str, data: bytearray) -> None:
        """Take the last bytes and keep the blob, if it is what it is called."""
        found = self.registry
        size = int(self.headers.get("content-length") or 0)
        start = (self.headers.get("content-range") or f"{len(data)}-").partition("-")[0]
        if size > found.largest_part or start != str(len(data)):
            self.body()
            self.answer(413 if size > found.largest_part else 416)
            return
        if not self.take(key, size, data):
            return
        del found.uploads[key]
        if digest_of(bytes(data)) != digest:
            error = {"errors": [{"code": "DIGEST_INVALID", "message": "not that digest"}]}
            self.answer(400, json.dumps(error).encode())
            return
        found.blobs[digest] = bytes(data)
        self.answer(201, docker_content_digest=digest)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def stand_in(registry: StandIn | None = None) -> Iterator[tuple[StandIn, str]]:
    """A registry for a ``with`` block, and ``127.0.0.1:PORT``."""
    registry = registry or StandIn()
    handler = type("Bound", (Handler,), {"registry": registry})
    with answering(handler) as host:
        yield registry, host
