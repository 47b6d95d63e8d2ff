"""Tokens of ``/v2/``: given for a login, good for some minutes and for what was asked.

A client that knows the server's token logs in with it as the password (distribution's token
specification). Ollama signs its request with its own key instead, and sends no login with the
ranges of a blob: so a blob's ``Location`` carries a permission for that blob alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mbuild.core.errors import UsageError
from mbuild.server.errors import UnauthorizedError

TOKEN_SECONDS = 300
"""How long a token is good; a transfer that takes longer asks for another one."""

ADDRESS_SECONDS = 12 * 3600
"""How long the address of a blob is good: as long as a large model takes on a slow line."""

CLOCK_SECONDS = 300
"""How far the clock of a client that signs may be from ours."""

MAX_KEYS = 1 << 20
_SEEN = 100_000  # signed requests of the last minutes that cannot be sent again
_KIND = "ssh-ed25519"
_NOTHING = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


class RegistryTokens:
    """Gives and checks tokens and addresses of one running server."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        """``keys``: public keys as SSH writes them, whose owners may log in by signing."""
        self._secret = os.urandom(32)
        self._keys = frozenset(keys)
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    # Tokens.

    def give(self, scopes: Sequence[str]) -> dict[str, Any]:
        """The answer that has a token for these scopes."""
        now = int(time.time())
        claims = json.dumps({"access": list(scopes), "exp": now + TOKEN_SECONDS}).encode()
        token = f"{_text(claims)}.{_text(self._mac(b'token', claims))}"
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        lasts = {"expires_in": TOKEN_SECONDS, "issued_at": issued}
        return {"token": token, "access_token": token, **lasts}

    def allows(self, token: str, scope: str) -> bool:
        """Whether a token is one of ours, still good, and for that scope; "" is any."""
        claims, _, seal = token.partition(".")
        try:
            data, mac = _bytes(claims), _bytes(seal)
        except ValueError:
            return False
        if not hmac.compare_digest(mac, self._mac(b"token", data)):
            return False
        value = json.loads(data)
        if value["exp"] <= time.time():
            return False
        kind, _, actions = scope.rpartition(":")
        return not scope or any(
            kind == given and actions in allowed.split(",")
            for given, _, allowed in (each.rpartition(":") for each in value["access"])
        )

    # Addresses.

    def signed(self, path: str, ends: int = 0) -> str:
        """An address with the permission to read it.

        It is good until ``ends`` (seconds since 1970), or as long as that of a blob is.
        """
        ends = ends or int(time.time()) + ADDRESS_SECONDS
        return f"{path}?{urlencode({'expires': ends, 'signature': self._of_address(path, ends)})}"

    def is_signed(self, path: str, ends: str, signature: str) -> bool:
        """Whether an address has our permission, which still lasts."""
        if not (ends.isascii() and ends.isdigit() and len(ends) < 20) or int(ends) <= time.time():
            return False
        right = self._of_address(path, int(ends))
        return hmac.compare_digest(signature.encode(), right.encode())

    def _of_address(self, path: str, ends: int) -> str:
        return self._mac(b"address", f"{ends} {path}".encode()).hex()

    def _mac(self, purpose: bytes, data: bytes) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + data, "sha256")

    # Ollama's keys.

    def check_signature(self, authorization: str, url: str, nonce: str, stamp: str) -> None:
        """Raise :class:`UnauthorizedError` unless a key that we know signed this very request.

        ``url`` is the whole address as the client asked it, ``stamp`` its clock in seconds.
        """
        public, _, signature = authorization.partition(":")
        try:
            key, sealed = base64.b64decode(public, validate=True), base64.b64decode(signature)
        except (binascii.Error, ValueError):
            raise _unauthorized() from None
        now = time.time()
        fresh = stamp.isascii() and stamp.isdigit() and len(stamp) < 20
        if not nonce or not fresh or abs(now - int(stamp)) > CLOCK_SECONDS:
            raise _unauthorized("the clock of the client or of this server is wrong")
        if key not in self._keys:
            raise _unauthorized("the server does not have this client's key")
        if not _verified(key, sealed, f"GET,{url},{_NOTHING}".encode()):
            raise _unauthorized()
        self._once(f"{public} {nonce}", now)

    def _once(self, what: str, now: float) -> None:
        """Raise :class:`UnauthorizedError` for what was sent before."""
        with self._lock:
            if len(self._seen) >= _SEEN:
                oldest = now - 2 * CLOCK_SECONDS
                self._seen = {key: at for key, at in self._seen.items() if at > oldest}
            if what in self._seen or len(self._seen) >= _SEEN:
                raise _unauthorized()
            self._seen[what] = now


def read_keys(path: Path) -> tuple[bytes, ...]:
    """The public keys of a file, one a line as in ``id_ed25519.pub``; raises :class:`UsageError`.

    Empty lines and lines that begin with ``#`` do not count.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(MAX_KEYS).splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"the keys in {path} cannot be read: {reason}") from None
    found: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = base64.b64decode(words[1], validate=True) if words[0] == _KIND else b""
        except (IndexError, ValueError):
            key = b""
        if _raw(key) is None:
            raise UsageError(
                f"line {number} of {path} is not an ed25519 key",
                hint=f"a key is a line '{_KIND} AAAA...', as in ~/.ollama/id_ed25519.pub",
            )
        found.append(key)
    if not found:
        raise UsageError(f"{path} has no keys")
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise UsageError(
            "checking the signatures of Ollama requires the package cryptography",
            hint="pip install 'mbuild-models[ollama-key]'",
        ) from None
    return tuple(found)


def _raw(key: bytes) -> bytes | None:
    """The 32 bytes of a key as SSH sends it: two texts, each after its length (RFC 8709)."""
    start = len(_KIND).to_bytes(4, "big") + _KIND.encode() + (32).to_bytes(4, "big")
    return key[len(start) :] if key.startswith(start) and len(key) == len(start) + 32 else None


def _verified(key: bytes, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(key) or b"").verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _unauthorized(why: str = "") -> UnauthorizedError:
    return UnauthorizedError(f"unauthorized: {why}" if why else "unauthorized")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
