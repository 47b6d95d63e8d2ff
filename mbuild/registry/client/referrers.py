"""What refers to a manifest: listed by the registry, or by us under a tag made of the digest.

A registry that knows the ``subject`` of a manifest says so when it takes it. For any other the
OCI's distribution specification (1.1, referrers tag schema) has the client keep an index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import AbsentError, RegistryError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.answers import drained
from mbuild.registry.client.registry import OCI_INDEX, OCI_MANIFEST, Registry

if TYPE_CHECKING:
    from mbuild.registry.reference import ModelReference

_ATTEMPTS = 3  # of changing an index that others change, too


class Referrer(NamedTuple):
    """A manifest that refers to another one, as an index names it."""

    digest: Digest
    size: int
    artifact_type: str

    def to_json(self) -> dict[str, Any]:
        """The index's entry."""
        return {
            "mediaType": OCI_MANIFEST,
            "digest": str(self.digest),
            "size": self.size,
            "artifactType": self.artifact_type,
        }


def index(entries: Sequence[Any]) -> bytes:
    """The bytes of an index with these entries."""
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def announce(
    registry: Registry,
    reference: ModelReference,
    subject: Digest,
    referrers: Sequence[Referrer],
    scopes: Sequence[str],
) -> None:
    """Have manifests found under their subject, in a registry that did not say that it does so.

    Raises :class:`RegistryError` for a tag that is taken by something else.
    """
    answer = registry.ask("GET", registry.url(f"referrers/{subject}"), scopes)
    keeps_them = answer.status == 200
    drained(answer)
    if keeps_them:
        return
    tag = reference._replace(tag=subject.filename, digest=None)
    for _ in range(_ATTEMPTS):
        found = _entries(registry, tag, scopes)
        there = {row.get("digest") for row in found if isinstance(row, dict)}
        missing = [row.to_json() for row in referrers if str(row.digest) not in there]
        if not missing:
            return
        registry.put_manifest(tag, index([*found, *missing]), OCI_INDEX, scopes)


def _entries(registry: Registry, tag: ModelReference, scopes: Sequence[str]) -> list[Any]:
    """What the index under the tag lists so far; nothing where there is none."""
    try:
        value = json.loads(registry.manifest(tag, scopes).data)
    except AbsentError:
        return []
    except (ValueError, RecursionError):
        value = None
    rows = value.get("manifests") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise RegistryError(
            f"{tag} is not an index, so what refers to the model cannot be listed there",
            hint="the manifests themselves were pushed; remove that tag from the registry",
        )
    return rows
