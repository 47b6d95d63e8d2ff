"""What a registry's repository holds of a shared cache: read from its tags, and removed.

Of the OCI distribution specification: the list of tags in pages, and DELETE of a manifest by its
digest and of a blob, which a registry may refuse to everybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import RegistryError
from mbuild.core.patterns import regex
from mbuild.registry.client.answers import drained, read_limited, refusal
from mbuild.registry.client.registry import OCI_MANIFEST, pull_scope
from mbuild.shared.naming import BLOB, LEASE, RECORD, blob_name, digest_of, is_name
from mbuild.store.manifest import MAX_MANIFEST_BYTES
from mbuild.store.shared import StoredObject
from mbuild.work.spread import run_all

if TYPE_CHECKING:
    from mbuild.registry.client.registry import Registry

CREATED = "org.opencontainers.image.created"
"""The annotation that says when a manifest was written, for registries tell no times."""

_PAGE = 500
_MOST_BYTES = 16 << 20
_AT_ONCE = 8
_TRIES = 3
_NEXT = regex(r"<([^>]+)>\s*;\s*rel=\"?next\"?", re.IGNORECASE)
_TAG = regex(rf"(?:{RECORD}-(.+)|{LEASE})-([0-9a-f]{{64}})")
_REFUSED = frozenset({400, 405, 501})  # 400 where a proxy in front knows no DELETE


def tag_of(name: str) -> str:
    """A record's or lease's tag."""
    return name.replace("/", "-")


def name_of(tag: str) -> str:
    """The object that a tag holds; empty for a tag that is none of a cache's."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return ""
    name = f"{RECORD}/{found[1]}/{found[2]}" if found[1] else f"{LEASE}/{found[2]}"
    return name if is_name(name) else ""


def objects_in(registry: Registry, ignored: Collection[str]) -> Iterator[StoredObject]:
    """Records and leases, then each blob once, as old as the newest that names it.

    ``ignored`` are blobs that every artifact has. Raises :class:`RegistryError`.
    """
    blobs: dict[str, StoredObject] = {}
    for tags in _pages(registry):
        held: dict[str, bytes] = {}

        def read(tag: str, held: dict[str, bytes] = held) -> None:
            data = manifest_of(registry, tag)
            if data:
                held[tag] = data

        run_all(read, tags, _AT_ONCE, name="mbuild-shared")
        for tag, data in held.items():
            manifest = parsed(data)
            when = _created(manifest)
            yield StoredObject(name_of(tag), len(data), when)
            for name, size in _blobs(manifest).items():
                known = blobs.get(name)
                newest = max(when, known.modified) if known is not None else when
                if name not in ignored:
                    blobs[name] = StoredObject(name, size, newest)
    yield from blobs.values()


def _pages(registry: Registry) -> Iterator[list[str]]:
    """The cache's tags, some hundred at once; none where there is no such repository."""
    url: str | None = registry.url(f"tags/list?n={_PAGE}")
    seen: set[str] = set()
    while url and url not in seen:
        seen.add(url)
        answer = registry.ask("GET", url, (pull_scope(registry.path),), tries=_TRIES)
        if answer.status == 404:
            drained(answer)
            return
        if answer.status != 200:
            raise refusal(answer, f"the tags of {registry.path} cannot be listed", registry.host)
        following = _NEXT.search(answer.headers.get("link", ""))
        tags = parsed(read_limited(answer, _MOST_BYTES, registry.host)).get("tags")
        yield [tag for tag in tags or () if isinstance(tag, str) and name_of(tag)]
        url = registry.absolute(following[1]) if following else None


def manifest_of(registry: Registry, tag: str) -> bytes:
    """The bytes of a tag's manifest, none where there is none; raises :class:`RegistryError`."""
    answer = registry.get(
        registry.url(f"manifests/{tag}"),
        (pull_scope(registry.path),),
        {"Accept": OCI_MANIFEST},
        tries=_TRIES,
    ).response
    if answer.status == 404:  # it was removed meanwhile
        drained(answer)
        return b""
    if answer.status != 200:
        raise refusal(answer, f"{registry.path}:{tag} cannot be read", registry.host)
    return read_limited(answer, MAX_MANIFEST_BYTES, registry.host)


def parsed(data: bytes) -> Mapping[str, Any]:
    """An object of JSON; nothing where the bytes are none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _created(manifest: Mapping[str, Any]) -> float:
    """When a manifest was written, 0 where it does not say."""
    try:
        return datetime.fromisoformat(str(manifest["annotations"][CREATED])).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0


def _blobs(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The blobs that a manifest names, by their objects' names, and their sizes."""
    found: dict[str, int] = {}
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        try:
            found[blob_name(Digest.parse(layer["digest"]))] = int(layer["size"])
        except (KeyError, TypeError, ValueError, DigestError):
            continue
    return found


def deleted(registry: Registry, names: Collection[str]) -> bool:
    """Remove objects for good; False where the registry lets nobody do that.

    Raises :class:`RegistryError` for any other refusal.
    """
    allowed = True

    def remove(name: str) -> None:
        nonlocal allowed
        if allowed and not _removed(registry, name):
            allowed = False

    run_all(remove, list(names), _AT_ONCE, name="mbuild-shared")
    return allowed


def _removed(registry: Registry, name: str) -> bool:
    if name.startswith(f"{BLOB}/"):
        url = registry.url(f"blobs/{digest_of(name)}")
    else:
        data = manifest_of(registry, tag_of(name))
        if not data:
            return True
        url = registry.url(f"manifests/{Digest.of(data)}")
    scope = f"repository:{registry.path}:pull,push,delete"
    answer = registry.ask("DELETE", url, (scope,), tries=_TRIES)
    if answer.status in _REFUSED:
        drained(answer)
        return False
    if answer.status not in (200, 202, 204, 404):
        raise refusal(answer, f"{name} cannot be removed", registry.host)
    drained(answer)
    return True


def no_deleting(place: str) -> RegistryError:
    """The error for a registry that removes nothing for anybody."""
    return RegistryError(
        f"{place} is a registry that lets nobody remove anything",
        hint="allow it there (REGISTRY_STORAGE_DELETE_ENABLED=true for docker-registry), remove the"
        " whole repository, or let the registry's own rules age it",
    )
