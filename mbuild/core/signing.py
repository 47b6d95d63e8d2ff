"""Signatures with ed25519 keys of one's own, as OpenSSL and OpenSSH write them into files.

``cryptography`` does the work; it is loaded where a key is, and an extra names it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LARGEST = 64 << 10
_MAKE = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
_MAKE_PUBLIC = "make it from the private one: openssl pkey -in key.pem -pubout -out public.pem"


class PrivateKey:
    """A key that signs (RFC 8032)."""

    def __init__(self, key: Any) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> PrivateKey:
        """Read a file in PEM or OpenSSH's form; raises :class:`UsageError`, quoting nothing."""
        form = _serialization()
        loaders = [
            partial(load, password=None)
            for load in (form.load_pem_private_key, form.load_ssh_private_key)
        ]
        return cls(_loaded(path, loaders, _MAKE))

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of a signature."""
        return bytes(self._key.sign(data))

    @property
    def public(self) -> PublicKey:
        """The key that others check with."""
        return PublicKey(self._key.public_key())


class PublicKey:
    """A key that checks signatures."""

    def __init__(self, key: Any) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> PublicKey:
        """Read a file in PEM or with a line of OpenSSH's; raises :class:`UsageError`."""
        form = _serialization()
        loaders = [form.load_pem_public_key, form.load_ssh_public_key]
        return cls(_loaded(path, loaders, _MAKE_PUBLIC))

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the key's owner signed exactly these bytes."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise UsageError(
            "signatures need the package cryptography",
            hint="pip install 'mbuild-models[cache]'",
        ) from None
    return serialization


def _loaded(path: Path, loaders: Sequence[Callable[[bytes], Any]], hint: str) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from None
    for load in loaders:
        try:
            key = load(data)
        except TypeError:  # it wants a passphrase
            raise UsageError(
                f"the key {path} has a passphrase, which nobody is there to type",
                hint="use a key without one, in a file that only its owner may read",
            ) from None
        except Exception:  # each form's own errors
            continue
        if "ed25519" in type(key).__name__.lower():
            return key
    raise UsageError(f"{path} holds no ed25519 key", hint=hint)
