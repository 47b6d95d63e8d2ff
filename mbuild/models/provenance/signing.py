"""Signatures about a model: of its id as cosign signs images, and of statements in DSSE envelopes.

The formats: cosign's specs/SIGNATURE_SPEC.md with the payload of containers-signature(5), and
https://github.com/secure-systems-lab/dsse (protocol.md and envelope.md).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, canonical_json
from mbuild.core.names import DEFAULT_HOST
from mbuild.core.values import NamedTuple
from mbuild.models.provenance.statements import statements
from mbuild.registry.documents import signature_document
from mbuild.store.attached import (
    ENVELOPE,
    SIGNATURE,
    attach,
    contained,
    documents,
    is_about,
    parsed,
)

if TYPE_CHECKING:
    from mbuild.core.keys import PublicKey, SigningKey
    from mbuild.core.names import ModelName
    from mbuild.store import Store, StoredManifest

PAYLOAD_TYPE = "application/vnd.in-toto+json"
CLAIM = "cosign container image signature"


class Signed(NamedTuple):
    """What was signed: the key's id, the model's id, and the statement, if there was one."""

    key: str
    model: Digest
    statement: Digest | None


def sign(store: Store, stored: StoredManifest, key: SigningKey, identity: str = "") -> Signed:
    """Sign a model's id and its newest statement; the signatures are kept in the store.

    ``identity``: the repository that the signed id is for; by default the model's name.
    """
    payload = claim(stored.id, identity or repository_of(stored.name))
    signature = base64.b64encode(key.sign(payload)).decode()
    attach(store, stored.id, SIGNATURE, signature_document(payload, signature))
    known = statements(store, stored.id)
    if not known:
        return Signed(key.public.id, stored.id, None)
    document = known[0].document
    attach(store, stored.id, ENVELOPE, envelope(document.data, PAYLOAD_TYPE, key))
    return Signed(key.public.id, stored.id, document.digest)


def repository_of(name: ModelName) -> str:
    """A model's name as a repository; one of Ollama's registry without its host."""
    path = f"{name.namespace}/{name.model}"
    return path if name.host == DEFAULT_HOST else f"{name.host}/{path}"


def claim(model: Digest, identity: str) -> bytes:
    """The payload that says that a manifest was signed."""
    critical = {
        "identity": {"docker-reference": identity},
        "image": {"docker-manifest-digest": str(model)},
        "type": CLAIM,
    }
    return canonical_json({"critical": critical, "optional": None}).encode()


def pre_authentication(payload: bytes, payload_type: str) -> bytes:
    """The bytes that DSSE signs: type and payload with their lengths."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """A signed payload."""
    signature = key.sign(pre_authentication(payload, payload_type))
    row = {"keyid": key.public.id, "sig": base64.b64encode(signature).decode()}
    value = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [row],
    }
    return canonical_json(value).encode()


# Checking.


class Checked(NamedTuple):
    """What a key signed of a model: how often its id, and which of its statements.

    ``others`` are signatures that this key did not make, ``unsigned`` are statements that it
    did not sign.
    """

    key: str
    ids: int
    statements: tuple[Digest, ...]
    others: int
    unsigned: tuple[Digest, ...]

    @property
    def good(self) -> bool:
        """Whether the key signed the model's id."""
        return self.ids > 0


def check(store: Store, stored: StoredManifest, key: PublicKey) -> Checked:
    """Which signatures about a model a key made; raises :class:`DamagedError` for changed files."""
    ids = others = 0
    for document in documents(store, stored.id, SIGNATURE):
        if is_about(SIGNATURE, document.data, stored.id) and _signed_id(document.data, key):
            ids += 1
        else:
            others += 1
    signed = []
    for document in documents(store, stored.id, ENVELOPE):
        payload = opened(document.data, key)
        if payload is not None and is_about(ENVELOPE, document.data, stored.id):
            signed.append(Digest.of(payload))
        else:
            others += 1
    known = [each.document.digest for each in statements(store, stored.id)]
    unsigned = tuple(digest for digest in known if digest not in signed)
    return Checked(key.id, ids, tuple(signed), others, unsigned)


def _signed_id(data: bytes, key: PublicKey) -> bool:
    try:
        value = parsed(data)
        payload, signature = contained(value, "payload"), contained(value, "signature")
        kind = parsed(payload)["critical"]["type"]
    except (ValueError, KeyError, TypeError):
        return False
    return kind == CLAIM and key.verifies(signature, payload)


def opened(data: bytes, key: PublicKey) -> bytes | None:
    """What an envelope holds, if the key signed it; None if it did not."""
    try:
        value = parsed(data)
        payload, kind = contained(value, "payload"), value["payloadType"]
        signatures = list(_signatures(value))
    except (ValueError, KeyError, TypeError):
        return None
    if kind != PAYLOAD_TYPE:
        return None
    said = pre_authentication(payload, kind)
    return payload if any(key.verifies(each, said) for each in signatures) else None


def _signatures(value: Mapping[str, Any]) -> Iterator[bytes]:
    for row in value["signatures"]:
        yield contained(row, "sig")


def signers(store: Store, model: Digest) -> list[str]:
    """The ids of the keys that envelopes about a model name, unchecked; each once."""
    found: dict[str, None] = {}
    for document in documents(store, model, ENVELOPE):
        try:
            for row in parsed(document.data)["signatures"]:
                found[str(row.get("keyid", ""))] = None
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return list(found)
