"""ed25519 keys in PEM files, as openssl makes them: read, made, and what they are called.

The package cryptography does the arithmetic; it is wanted only here.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, UsageError

_MOST = 1 << 16
"""Bytes of a key's file: one of ed25519 has some hundred."""

_MAKE = "mbuild sign --new-key FILE makes one, or openssl genpkey -algorithm ed25519 -out FILE"


class SigningKey:
    """A private key; nothing of it is ever shown."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """The signature, 64 bytes."""
        signature: bytes = self._key.sign(data)
        return signature

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self._key.public_key())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id[:12]})"


class PublicKey:
    """A public key."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature is this key's of that data."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @property
    def id(self) -> str:
        """What the key is called: the SHA-256 of its DER form (SubjectPublicKeyInfo), in hex."""
        from cryptography.hazmat.primitives import serialization as form

        kind = form.PublicFormat.SubjectPublicKeyInfo
        return Digest.of(self._key.public_bytes(form.Encoding.DER, kind)).hex

    @property
    def pem(self) -> bytes:
        """The key as a PEM file has it."""
        from cryptography.hazmat.primitives import serialization as form

        kind = form.PublicFormat.SubjectPublicKeyInfo
        found: bytes = self._key.public_bytes(form.Encoding.PEM, kind)
        return found


def private_key(path: Path) -> SigningKey:
    """The key in a PEM file; raises :class:`UsageError` for anything else."""
    _check_package()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise UsageError(
            f"the key {path} has a passphrase",
            hint="write a copy without one, which only you may read: openssl pkey -in FILE -out"
            " COPY",
        ) from None
    except Exception:  # what it says of a private file is nobody's business
        raise UsageError(f"{path} is not a private key in PEM form", hint=_MAKE) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"the key {path} is not an ed25519 key", hint=_MAKE)
    return SigningKey(key)


def public_key(path: Path) -> PublicKey:
    """The public key in a PEM file, or that of the private one; raises :class:`UsageError`."""
    _check_package()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        return private_key(path).public
    try:
        key = load_pem_public_key(data)
    except Exception:
        raise UsageError(
            f"{path} is not a public key in PEM form",
            hint="openssl pkey -in PRIVATE -pubout -out PUBLIC writes one",
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"the key {path} is not an ed25519 key", hint=_MAKE)
    return PublicKey(key)


def make_key(path: Path) -> SigningKey:
    """A new key, in a file that only its owner may read; its public half beside it, in ``.pub``.

    Raises :class:`UsageError` where one of the files exists, :class:`MbuildError` where it
    cannot be written.
    """
    _check_package()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    beside = path.with_name(f"{path.name}.pub")
    if os.path.lexists(beside):
        raise UsageError(f"{beside} exists", hint="name another file for the new key")
    made = SigningKey(key)
    for file, content, mode in ((path, data, 0o600), (beside, made.public.pem, 0o644)):
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(fd, "wb") as stream:
                stream.write(content)
        except FileExistsError:
            raise UsageError(f"{file} exists", hint="name another file for the new key") from None
        except OSError as error:
            raise MbuildError(f"{file} cannot be written: {error.strerror}") from None
    return made


def is_exposed(path: Path) -> bool:
    """Whether others than its owner may read a key's file."""
    if sys.platform == "win32":
        return False
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}", hint=_MAKE) from None


def _check_package() -> None:
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise UsageError(
            "signatures need the package cryptography", hint="pip install 'mbuild-models[sign]'"
        )
