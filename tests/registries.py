"""Registries for tests: Debian's docker-registry, open or with a login, and its token server."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from http_in_thread import answering
from programs import need

USER, PASSWORD = "mario", "it's:me"
HTPASSWD = "mario:$2y$04$oae7Luzix6Kcv8WgmvC/q.LW8ErXOi7ehiGJmzep/lvbY1.dgERMy\n"
"""The password's bcrypt, which is all that docker-registry reads."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def docker_registry(folder: Path, auth: str = "", *, deletes: bool = False) -> Iterator[str]:
    """Debian's docker-registry on a folder; gives ``127.0.0.1:PORT``.

    ``auth`` is the section of its configuration, as YAML; ``deletes``: it lets remove.
    Skips the test where the program is missing.
    """
    need("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}},"
        f" delete: {{enabled: {str(deletes).lower()}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: test}}\n{auth}"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/v2/", timeout=5, trust_env=False, verify=False)
                break
            except httpx.HTTPError:
                assert process.poll() is None, "docker-registry has ended"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def with_password(folder: Path) -> str:
    """The configuration of a registry that wants :data:`USER` and :data:`PASSWORD`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(HTPASSWD)
    return f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"


class TokenServer:
    """Gives tokens that docker-registry believes, and keeps what it was asked.

    ``anonymous``: pulls are for everybody. ``lifetime`` is in seconds, as the tokens say it.
    ``oauth``: it answers the OAuth2 form, too, for the refresh token ``REFRESH``. ``closed`` are
    repositories for which nobody gets a token, nor one for others along with them.
    """

    def __init__(self, folder: Path) -> None:
        need("openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.key, self.certificate = folder / "key.pem", folder / "cert.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=test", "-keyout", self.key, "-out", self.certificate),
            ],
            check=True,
            capture_output=True,
        )
        lines = self.certificate.read_text().split("\n")
        self.chain = "".join(line for line in lines if line and "-----" not in line)
        self.anonymous = False
        self.lifetime = 300
        self.oauth = False
        self.closed: set[str] = set()
        self.asked: list[dict[str, Any]] = []

    def configuration(self, realm: str) -> str:
        """The registry's section about this server."""
        return (
            f"auth: {{token: {{realm: '{realm}', service: test, issuer: test,"
            f" rootcertbundle: {self.certificate}}}}}\n"
        )

    def token(self, scopes: list[str]) -> str:
        """A signed token (RFC 7519) that allows what was asked for."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self.chain]}
        claims = {
            **{"iss": "test", "aud": "test", "sub": USER, "jti": "1", "access": access},
            **{"nbf": now - 10, "iat": now, "exp": now + self.lifetime},
        }
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        done = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.key)],
            input=text.encode(),
            capture_output=True,
            check=True,
        )
        return f"{text}.{_base64(done.stdout)}"

    def answer(self, method: str, fields: list[tuple[str, str]], login: str) -> tuple[int, Any]:
        """What to say to a request."""
        self.asked.append({"method": method, "fields": fields, "login": login})
        scopes = [value for key, value in fields if key == "scope" for value in value.split()]
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = login == right or (self.oauth and ("refresh_token", "REFRESH") in fields)
        if method == "POST" and not self.oauth:
            return 404, {}
        if any(scope.split(":")[1] in self.closed for scope in scopes):
            return 403, {"errors": [{"code": "DENIED"}]}
        pulls = all(scope.endswith(":pull") for scope in scopes)
        if not known and not (self.anonymous and pulls and not login):
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        return 200, {"token": self.token(scopes), "expires_in": self.lifetime}


@contextmanager
def serving_tokens(tokens: TokenServer) -> Iterator[str]:
    """A token server in a thread; gives its address, the realm."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET", parse_qsl(urlsplit(self.path).query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.reply("POST", parse_qsl(body.decode()))

        def reply(self, method: str, fields: list[tuple[str, str]]) -> None:
            status, value = tokens.answer(method, fields, self.headers.get("authorization", ""))
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    with answering(Handler) as host:
        yield f"http://{host}/token"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def digest_of(data: bytes) -> str:
    """The SHA-256 of some bytes, as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
