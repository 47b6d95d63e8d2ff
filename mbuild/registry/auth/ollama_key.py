"""Ollama's login: a request for a token, signed with the user's ed25519 key.

The signed text is ``GET,URL,`` and the base64 of the hex SHA-256 of nothing; the header is the
public key, a colon and the signature (Ollama's ``server/auth.go`` and ``auth/auth.go``).
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

from mbuild.core.errors import UsageError

SERVICE_KEY = Path("/usr/share/ollama/.ollama/id_ed25519")
"""The key of Ollama as a service of Linux."""

_NOTHING = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


def key_file() -> Path | None:
    """The user's key, else the service's, if one can be read."""
    for path in (Path("~/.ollama/id_ed25519").expanduser(), SERVICE_KEY):
        if os.access(path, os.R_OK):
            return path
    return None


def signed(
    file: Path,
    realm: str,
    service: str,
    scopes: Sequence[str],
    *,
    nonce: str = "",
    now: int | None = None,
) -> tuple[str, str]:
    """The URL to ask for a token, and its Authorization; raises :class:`UsageError`."""
    nonce = nonce or base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
    pairs = [("nonce", nonce)]
    pairs += [("scope", scope) for scope in scopes]
    pairs += [("service", service), ("ts", str(int(time.time()) if now is None else now))]
    # Sorted keys and Go's escaping: the server signs the URL that it got, as it writes it.
    query = "&".join(f"{key}={quote_plus(value)}" for key, value in pairs)
    base = urlsplit(realm)
    url = f"{base.scheme}://{base.netloc}{base.path}?{query}"
    key = _load(file)
    signature = base64.b64encode(key.sign(f"GET,{url},{_NOTHING}".encode())).decode()
    return url, f"{_public(key)}:{signature}"


def _load(file: Path) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    except ImportError:
        raise _no_package() from None
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"Ollama's key {file} cannot be used: {error}",
            hint="it must be an OpenSSH key without a passphrase",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"Ollama's key {file} is not an ed25519 key")
    return key


def _public(key: Any) -> str:
    """The second word of the ``.pub`` file: the key as SSH sends it, in base64."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return text.split()[1].decode()


def public_key() -> str:
    """The line of the user's public key; the key is made where there is none.

    Raises :class:`UsageError`.
    """
    file = key_file()
    if file is None:
        file = Path("~/.ollama/id_ed25519").expanduser()
        _make(file)
    return f"ssh-ed25519 {_public(_load(file))}"


def _make(file: Path) -> None:
    """A new key, as Ollama makes one at its first start: for nobody else to read."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )
    except ImportError:
        raise _no_package() from None
    key = Ed25519PrivateKey.generate()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as stream:
            stream.write(data)
        public = f"ssh-ed25519 {_public(key)}\n"
        file.with_name(file.name + ".pub").write_text(public, encoding="ascii")
    except OSError as error:
        raise UsageError(f"cannot create Ollama's key {file}: {error.strerror}") from None


def _no_package() -> UsageError:
    return UsageError(
        "signing with Ollama's key requires the package cryptography",
        hint="pip install 'mbuild-models[ollama-key]'",
    )
