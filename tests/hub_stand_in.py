"""The Hub in a thread, for mbuild and for the official client: repositories, LFS, commits.

It answers as https://huggingface.co does to huggingface_hub 2.4 (its file API, its LFS batch API,
its commit API). Large files are on another host, as the Hub's are, which refuses a login.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from http_in_thread import answering

from mbuild.registry.hub.listing import git_oid

TOKEN = "hf_testing"
_PIECE = 64 << 10
_LATE_SECONDS = 0.1  # that a sender that did not get to run is given back


@lru_cache(maxsize=256)
def sha256_of(data: bytes) -> str:
    """The SHA-256 of a file, taken once: the Hub knows it, too, and does not compute it again."""
    return hashlib.sha256(data).hexdigest()


blob_id = lru_cache(maxsize=256)(git_oid)


def commit_of(number: int) -> str:
    """The name of a repository's commit of that number, from 1."""
    return hashlib.sha1(f"commit {number}".encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Commits in order, each all of its files by name; ``refs`` name some."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    renamed: str = ""

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """A new commit with exactly these files; its name."""
        sha = commit_of(len(self.commits) + 1)
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha


class HubStandIn:
    """What the Hub has and does; tests change it while it runs.

    ``large`` is the size in bytes from which a file is in LFS. ``sent`` counts the bytes of
    files sent, by name, ``requests`` lists method, path and headers. ``pause`` is seconds for
    each 64 KiB of a large file, ``rate`` the bytes a second of all of them together (0: as many
    as there are), ``cut_after`` ends such an answer after so many bytes, ``cuts``
    times. ``lie`` changes the last byte of weights that the storage sends,
    ``lies`` times.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large = 1000
        self.lfs: dict[str, bytes] = {}
        self.sent: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.pause = 0.0
        self.rate = 0.0
        self._due = 0.0
        self.cut_after = 0
        self.cuts = 0
        self.busy = 0
        self.lie = False
        self.lies = 1 << 30
        self.lock = threading.Lock()
        self.url = ""
        self.storage = ""

    def put(self, name: str, files: dict[str, bytes], ref: str = "main") -> str:
        """A commit of a repository, which is made; its name."""
        repository = self.repositories.setdefault(name, Repository())
        for data in files.values():
            if self.is_large(data):
                self.lfs[sha256_of(data)] = data
        return repository.commit(files, ref)

    def is_large(self, data: bytes) -> bool:
        """Whether the Hub keeps a file in LFS."""
        return len(data) >= self.large

    def pace(self, count: int) -> None:
        """Wait as the line does that so many bytes take; what was late is caught up with."""
        if self.rate:
            with self.lock:
                now = time.monotonic()
                self._due = max(self._due, now - _LATE_SECONDS) + count / self.rate
                wait = self._due - now
            if wait > 0:
                time.sleep(wait)

    def weight_bytes(self) -> int:
        """Bytes of weights that were sent."""
        return sum(n for name, n in self.sent.items() if name.endswith((".safetensors", ".gguf")))

    def forget(self) -> None:
        """Count from here."""
        self.sent.clear()
        self.taken.clear()
        self.requests.clear()

    def row(self, name: str, data: bytes) -> dict[str, Any]:
        """What a list of files says of one."""
        row: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
        if self.is_large(data):
            sha256 = sha256_of(data)
            row["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return row


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _route(self) -> None:
        hub = self.hub
        with hub.lock:
            hub.requests.append((self.command, self.path, dict(self.headers.items())))
            busy = hub.busy > 0
            hub.busy -= busy
        self.body = self._read()
        if busy:
            self.answer(429, b"", {"RateLimit": '"api";r=0;t=1'})
            return
        self.path_only, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        for pattern, name in _ROUTES:
            if found := re.fullmatch(pattern, self.path_only):
                getattr(self, name)(*map(unquote, found.groups()))
                return
        self.answer(404, b"{}", {})

    def _read(self) -> bytes:
        if self.headers.get("transfer-encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def json(self, value: Any, status: int = 200) -> None:
        """Send JSON."""
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        """Send an error as the Hub does."""
        headers = {"X-Error-Code": code, "X-Error-Message": f"{code} here"}
        self.answer(status, json.dumps({"error": code}).encode(), headers)

    def repository(self, name: str) -> Repository | None:
        """The repository for whoever asks; None after an error or a redirect was sent."""
        found = self.hub.repositories.get(name)
        known = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if found is not None and found.renamed:
            self.answer(307, b"", {"Location": self.path.replace(name, found.renamed, 1)})
            return None
        if found is None or (found.private and not known):
            self.refuse(404 if known else 401, "RepoNotFound")
            return None
        return found

    def revision(self, repository: Repository, revision: str) -> str | None:
        """The commit of a revision; None after an error was sent."""
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit

    # Reading.

    def model(self, name: str, revision: str = "main") -> None:
        """The commit and its files."""
        repository = self.repository(name)
        commit = repository and self.revision(repository, revision)
        if not repository or not commit:
            return
        files = repository.commits[commit]
        rows = [self.hub.row(path, data) for path, data in files.items()]
        if "blobs" not in self.query:
            rows = [{"rfilename": row["rfilename"]} for row in rows]
        gated = "manual" if repository.gated else False
        value = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": rows}
        self.json({**value, "private": repository.private, "gated": gated, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        """The same as the API of trees has it."""
        repository = self.repository(name)
        commit = repository and self.revision(repository, revision)
        if not repository or not commit:
            return
        rows = []
        for path, data in repository.commits[commit].items():
            row = self.hub.row(path, data)
            lfs = {"lfs": {"oid": row["lfs"]["sha256"], **row["lfs"]}} if "lfs" in row else {}
            rows.append(
                {"type": "file", "oid": row["blobId"], "size": len(data), "path": path, **lfs}
            )
        self.json(rows)

    def resolve(self, name: str, revision: str, path: str) -> None:
        """A file: small ones at once, large ones on the other host."""
        repository = self.repository(name)
        if repository is None:
            return
        known = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository.gated and not known:
            self.refuse(403 if "authorization" in self.headers else 401, "GatedRepo")
            return
        commit = self.revision(repository, revision)
        if commit is None:
            return
        data = repository.commits[commit].get(path)
        if data is None:
            self.refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(data)}"'}
        if not self.hub.is_large(data):
            if self.command == "GET":
                self.hub.sent[path] += len(data)
            self.answer(200, data, headers)
            return
        sha256 = sha256_of(data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256}"'}
        location = f"{self.hub.storage}/get/{sha256}?name={path}&expires={time.time()}"
        self.answer(302, b"", {**headers, "Location": location})

    def stored(self, sha256: str) -> None:
        """A large file, or a range of it; a login does not belong here."""
        hub = self.hub
        if "authorization" in self.headers:
            self.answer(400, b"Only one auth mechanism allowed", {})
            return
        if sha256 not in hub.lfs:
            self.answer(404, b"", {})
            return
        data, path = hub.lfs[sha256], self.query["name"][0]
        start, end, status = 0, len(data), 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            start, status = int(found[1]), 206
            end = min(int(found[2]) + 1, end) if found[2] else end
        with hub.lock:
            lie = hub.lie and hub.lies > 0 and path.endswith(".safetensors") and end == len(data)
            hub.lies -= lie
        if lie:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with hub.lock:
            cut = hub.cuts > 0 and end - start > hub.cut_after > 0
            hub.cuts -= cut
        last = start + hub.cut_after if cut else end
        for at in range(start, last, _PIECE):
            piece = data[at : min(at + _PIECE, last)]
            hub.pace(len(piece))
            self.wfile.write(piece)
            with hub.lock:
                hub.sent[path] += len(piece)
            time.sleep(hub.pause)
        if cut:
            self.close_connection = True

    # Writing.

    def create(self) -> None:
        """A new repository."""
        asked = json.loads(self.body)
        owner = asked.get("organization") or "me"
        name = f"{owner}/{asked['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.put(name, {})
            self.hub.repositories[name].private = asked.get("visibility") == "private" or bool(
                asked.get("private")
            )
        self.json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if exists else 200)

    def preupload(self, name: str, revision: str) -> None:
        """Which files go to LFS."""
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.refuse(403, "Forbidden")
            return
        rows = json.loads(self.body)["files"]
        files = [
            {
                "path": row["path"],
                "uploadMode": "lfs" if row["size"] >= self.hub.large else "regular",
                "shouldIgnore": False,
            }
            for row in rows
        ]
        self.json({"files": files})

    def batch(self, name: str) -> None:
        """Where large files go; those that are here are not wanted."""
        objects = []
        for row in json.loads(self.body)["objects"]:
            actions = {}
            if row["oid"] not in self.hub.lfs:
                actions = {"upload": {"href": f"{self.hub.storage}/put/{row['oid']}"}}
            objects.append({**row, **({"actions": actions} if actions else {})})
        self.answer(
            200,
            json.dumps({"transfer": "basic", "objects": objects}).encode(),
            {"Content-Type": "application/vnd.git-lfs+json"},
        )

    def store(self, sha256: str) -> None:
        """A large file that is sent."""
        if hashlib.sha256(self.body).hexdigest() != sha256:
            self.answer(400, b"", {})
            return
        self.hub.lfs[sha256] = self.body
        self.hub.taken[sha256] += len(self.body)
        self.answer(200, b"", {})

    def commit(self, name: str, revision: str) -> None:
        """A commit, as lines of JSON."""
        repository = self.repository(name)
        if repository is None:
            return
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "RepoNotFound")
            return
        files = dict(repository.commits[repository.refs[revision]])
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.taken[value["path"]] += len(files[value["path"]])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def whoami(self) -> None:
        """Who the token belongs to."""
        known = self.headers.get("authorization") == f"Bearer {TOKEN}"
        self.json({"name": "me", "orgs": []} if known else {"error": "?"}, 200 if known else 401)

    def yaml(self) -> None:
        """The Hub checks the card's front matter before a commit."""
        self.json({"errors": [], "warnings": []})


_NAME = r"([^/]+/[^/]+)"
_ROUTES = (
    (rf"/api/models/{_NAME}/revision/([^/]+)", "model"),
    (rf"/api/models/{_NAME}/tree/([^/]+)", "tree"),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", "preupload"),
    (rf"/api/models/{_NAME}/commit/([^/]+)", "commit"),
    (rf"/api/models/{_NAME}", "model"),
    (r"/api/repos/create", "create"),
    (r"/api/whoami-v2", "whoami"),
    (r"/api/validate-yaml", "yaml"),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
    (r"/get/([0-9a-f]{64})(?:/[^/]+)?", "stored"),
    (r"/put/([0-9a-f]{64})", "store"),
)


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """The Hub under one port, its storage under another."""
    hub = HubStandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ExitStack() as stack:
        hub.url = f"http://{stack.enter_context(answering(handler))}"
        hub.storage = f"http://{stack.enter_context(answering(handler))}"
        assert urlsplit(hub.url).port != urlsplit(hub.storage).port
        yield hub
