"""Ollama 0.33 as it was recorded with a real registry: ``/v2/`` answers its requests the same way.

``data/registry/ollama.json`` has the requests of its pulls and pushes, with the status that
Debian's docker-registry gave. They are sent in their order, with blobs of our own in the places of
theirs, tokens and signatures made anew, and each upload goes where the answer before it said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from live_server import Server, serving_here
from stores import check_promise

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.registry.auth.challenge import challenges
from mbuild.registry.auth.ollama_key import _load, _public, signed
from mbuild.server.security import AccessPolicy
from mbuild.server.tokens import read_keys
from mbuild.store import Manifest
from mbuild.store.manifest import CONFIG_TYPE, Layer
from mbuild.store.media import LICENSE, MODEL, PARAMS, SYSTEM

RECORDED: Mapping[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "registry" / "ollama.json").read_text()
)
TYPES = (MODEL, SYSTEM, LICENSE, PARAMS, CONFIG_TYPE)
BLOB = re.compile(r"sha256(?::|%3A)([0-9a-f]{64})")
CONTENTS = (b"w" * 156128, b"You are Luigi.", b"MIT", b'{"temperature":0.5}\n', b'{"a":1}\n')


def key_in(folder: Path) -> Path:
    """A new key as Ollama keeps its own; its public half lies beside it."""
    file = folder / "id_ed25519"
    key = Ed25519PrivateKey.generate()
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    file.with_suffix(".pub").write_text(f"ssh-ed25519 {_public(_load(file))} me@here\n")
    return file


class Ollama:
    """Sends recorded requests, and does with the answers what Ollama does."""

    def __init__(self, server: Server, key: Path) -> None:
        self.server = server
        self.key = key
        self.blobs: dict[str, bytes] = {}
        self.token = ""
        self.challenge = ""
        self.location = ""
        self.repository = ""

    def content(self, recorded: str) -> bytes:
        """Our blob in the place of a recorded one."""
        return self.blobs.setdefault(recorded, CONTENTS[len(self.blobs) % len(CONTENTS)])

    def translate(self, text: str) -> str:
        """A path with our digests."""
        return BLOB.sub(lambda m: digest_of(self.content(m[1])), text)

    def manifest(self) -> bytes:
        """What Ollama pushes: serialised anew, so without the final newline."""
        layers = [
            Layer(kind, Digest.of(data), len(data))
            for kind, data in zip(TYPES, self.blobs.values(), strict=False)
        ]
        *others, config = layers
        return Manifest(config, tuple(others)).encode().rstrip(b"\n")

    def send(self, recorded: Mapping[str, Any]) -> httpx.Response:
        """One request; its answer."""
        method, path = recorded["method"], self.translate(recorded["path"])
        headers = dict(recorded["headers"])
        if path.startswith("/token"):
            return self.log_in()
        if headers.get("Authorization"):
            headers["Authorization"] = f"Bearer {self.token}"
        body = b""
        if "/uploads/" in path and method in ("PATCH", "PUT"):
            query = urlsplit(path).query.partition("&")[2]
            path = self.location + (f"?{query}" if query else "")
            if method == "PATCH":
                body = self.blobs[self.blob]
                headers["Content-Range"] = f"0-{len(body) - 1}"
        elif method == "PUT":
            body = self.manifest()
        if found := BLOB.search(recorded["path"]):
            self.blob = found[1]
        if "Range" in headers:
            headers["Range"] = f"bytes=0-{len(self.content(self.blob)) - 1}"
            path = self.location
        answer = self.server.http.request(method, path, headers=headers, content=body)
        self.challenge = answer.headers.get("www-authenticate", self.challenge)
        self.location = answer.headers.get("location", self.location)
        return answer

    def log_in(self) -> httpx.Response:
        """Its signed request for a token, which only goes to the host that asked for it."""
        (asked,) = challenges(self.challenge)
        assert urlsplit(asked.realm).netloc == urlsplit(self.server.url).netloc
        url, header = signed(self.key, asked.realm, asked.service, asked.scopes)
        answer = self.server.http.get(url, headers={"Authorization": header})
        self.token = answer.json().get("token", "")
        return answer


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pushed(ollama: Ollama, name: str) -> None:
    """The recorded push, each answer with the recorded status, and what it needs to go on."""
    for recorded in RECORDED[name]:
        answer = ollama.send(recorded)
        assert answer.status_code == recorded["status"], (recorded, answer.text)
        if answer.status_code == 202:
            assert answer.headers["location"]


def test_a_push_and_a_push_again(tmp_path: Path) -> None:
    """Into an empty store: the model is there as Ollama sent it, and is sent once."""
    with serving_here(tmp_path / "store", writable=True) as server:
        ollama = Ollama(server, tmp_path)
        pushed(ollama, "push")
        assert check_promise(server.root) == 1
        stored = server.store.manifests.read_bytes(ModelName.parse("lib/mario:v1"))
        assert stored == ollama.manifest()
        pushed(ollama, "push-again")
        pulled(ollama, "pull-location")


def pulled(ollama: Ollama, name: str) -> None:
    """The recorded pull; a range comes from where ``Location`` leads, without a login."""
    for recorded in RECORDED[name]:
        answer = ollama.send(recorded)
        ranged = "Range" in recorded["headers"]
        assert answer.status_code == (206 if ranged else recorded["status"]), recorded
        if ranged:
            assert "Authorization" not in recorded["headers"]
            assert answer.content == ollama.content(ollama.blob)
        elif "/blobs/" in recorded["path"] and recorded["method"] == "GET":
            assert ollama.location


def test_layers_of_another_repository_are_mounted(tmp_path: Path) -> None:
    """``mount`` and ``from``: 201, and nothing is sent."""
    with serving_here(tmp_path / "store", writable=True) as server:
        ollama = Ollama(server, tmp_path)
        pushed(ollama, "push")
        first = next(iter(ollama.blobs.values()))
        for recorded in RECORDED["push-mount"][:2]:
            answer = ollama.send(recorded)
            assert answer.status_code == recorded["status"]
        assert answer.headers["docker-content-digest"] == digest_of(first)


def test_with_a_token_ollama_logs_in_by_its_key(tmp_path: Path) -> None:
    """Push: two tokens, the second with more scope. Pull: ranges come without any login.

    The recorded registry left it without: it answered 401 to the ranges.
    """
    key = key_in(tmp_path)
    keys = read_keys(key.with_suffix(".pub"))
    policy = AccessPolicy(token="s3cret")
    with serving_here(tmp_path / "store", policy=policy, keys=keys, writable=True) as server:
        ollama = Ollama(server, key)
        pushed(ollama, "push-token")
        ollama.token = ""
        pulled(ollama, "pull-token-no-redirect")
        assert check_promise(server.root) == 1
        stranger = Ollama(server, key_in(tmp_path))
        with pytest.raises(AssertionError, match="does not have this client"):
            pushed(stranger, "push-token")
