"""A registry as the storage of a shared cache: blobs by digest, each record a small artifact.

A record is an OCI manifest under a tag of its own. Its text is an annotation, or its last layer
where it is long; the blobs that it names are its layers, so that the registry's garbage collection
keeps them. No registry can tell who was first to write a tag: leases are looked at before they are
written, which nearly always tells.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import AbsentError, RegistryError
from mbuild.core.names import InvalidNameError
from mbuild.registry.client.access import Access
from mbuild.registry.client.answers import drained, refusal
from mbuild.registry.client.registry import OCI_MANIFEST, Registry, pull_scope, push_scope
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.upload import Upload
from mbuild.shared.naming import LEASE, blob_name, digest_of
from mbuild.shared.tags import (
    CREATED,
    deleted,
    manifest_of,
    no_deleting,
    objects_in,
    parsed,
    tag_of,
)
from mbuild.shared.web import pieces_of, range_in
from mbuild.store.manifest import Layer
from mbuild.store.shared import LARGEST_SMALL, StoredObject
from mbuild.work.cancel import Cancel
from mbuild.work.spread import Part, run_all

if TYPE_CHECKING:
    from typing_extensions import Buffer
    from urllib3 import BaseHTTPResponse

    from mbuild.shared.locations import Location
    from mbuild.store import Store

_ARTIFACT = "application/vnd.mbuild.record.v1+json"
_TEXT = "mbuild.record"
"""The annotation that has a record's text."""

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
"""What an artifact without a configuration has in its place (OCI image specification 1.1)."""

_LONG = 32 << 10  # bytes of a text that is a layer
_BYTES = "application/octet-stream"
_AT_ONCE = 8
_TRIES = 3


def open_storage(location: Location, writes: bool) -> RegistryStorage:
    """The repository of a location; nothing is asked yet."""
    from mbuild.core.errors import UsageError

    try:
        reference = ModelReference.parse(location.rest)
    except InvalidNameError as error:
        raise UsageError(f"the cache {location}: {error.message}", hint=error.hint) from None
    plain = location.scheme == "oci+http"
    access = Access(plain=frozenset({reference.endpoint} if plain else ()))
    return RegistryStorage(reference, str(location), access)


class RegistryStorage:
    """A repository whose tags are records and leases."""

    def __init__(self, reference: ModelReference, place: str, access: Access) -> None:
        self.place = place
        self.can_lease = False
        self.any_digest = False
        self._reference = reference
        self._cancel = Cancel()
        self._registry = Registry(reference, access, self._cancel)
        self._reading = (pull_scope(self._registry.path),)
        self._writing = (push_scope(self._registry.path),)
        self._has_empty = False
        self._deletes = True
        self._lock = threading.Lock()

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The records that are there, some requests at once."""
        found: dict[str, bytes] = {}

        def read(name: str) -> None:
            text = self._text(parsed(manifest_of(self._registry, tag_of(name))))
            if text:
                found[name] = text

        self._each(read, names)
        return found

    def _text(self, manifest: Mapping[str, Any]) -> bytes | None:
        """The text that a manifest carries, or leads to."""
        try:
            if manifest.get("artifactType") != _ARTIFACT:
                return None
            annotations = manifest.get("annotations") or {}
            if _TEXT in annotations:
                return str(annotations[_TEXT]).encode()
            last = manifest["layers"][-1]
            layer = Layer(str(last["mediaType"]), Digest.parse(last["digest"]), int(last["size"]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, DigestError):
            return None
        try:
            return self._registry.small_blob(layer, LARGEST_SMALL)
        except AbsentError:
            return None

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of a blob."""
        if not size:
            return b""
        answer = self._blob("GET", name, {"Range": f"bytes={offset}-{offset + size - 1}"})
        return None if answer is None else range_in(answer, offset, size, self._registry.host)

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """A blob's bytes."""
        answer = self._blob("GET", name, {})
        if answer is not None:
            with closing(answer):
                yield from pieces_of(answer, self._registry.host)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """How large the blobs are that are there."""
        found: dict[str, int] = {}

        def size(name: str) -> None:
            answer = self._blob("HEAD", name, {})
            if answer is not None:
                said = answer.headers.get("content-length", "")
                drained(answer)
                if said.isdigit():
                    found[name] = int(said[:18])

        self._each(size, names)
        return found

    def _blob(self, method: str, name: str, headers: Mapping[str, str]) -> BaseHTTPResponse | None:
        url = self._registry.url(f"blobs/{digest_of(name)}")
        answer = self._registry.get(url, self._reading, headers, method=method, tries=_TRIES)
        found = answer.response
        if found.status in (200, 206):
            return found
        if found.status in (404, 416):
            drained(found)
            return None
        raise refusal(found, f"the cache {self.place} cannot be read", self._registry.host)

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Blobs as blobs, all else as manifests, whose layers are the blobs that they name."""
        with self._lock:  # two that send the same bytes at once disturb each other
            if not self._has_empty:
                self._send(_EMPTY)
                self._has_empty = True

        def write(name: str) -> None:
            if digest_of(name) is not None:
                self._send(bytes(objects[name]))
            else:
                self._tag(name, bytes(objects[name]), blobs.get(name, {}))

        self._each(write, objects)

    def _tag(self, name: str, text: bytes, blobs: Mapping[Digest, int]) -> None:
        """Write a manifest with a text."""
        empty = _layer(_EMPTY_TYPE, Digest.of(_EMPTY), len(_EMPTY))
        layers = [_layer(_BYTES, digest, size) for digest, size in sorted(blobs.items())]
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": _ARTIFACT,
            "config": empty,
            "layers": layers or [empty],
            "annotations": {CREATED: datetime.now(UTC).isoformat(timespec="seconds")},
        }
        if len(text) > _LONG:
            self._send(text)
            manifest["layers"] = [*layers, _layer(_BYTES, Digest.of(text), len(text))]
        else:
            manifest["annotations"][_TEXT] = text.decode()
        data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        place = self._reference._replace(tag=tag_of(name), digest=None)
        self._registry.put_manifest(place, data, OCI_MANIFEST, self._writing)

    def _send(self, data: bytes) -> None:
        layer = Layer(_BYTES, Digest.of(data), len(data))
        Upload(self._registry, _around(None), layer, "", self._cancel, data).run(Part(self._cancel))

    def create(self, name: str, data: bytes) -> bool:
        """Write a tag that is not there; two at once may both do so."""
        if self.read_many([name]):
            return False
        self.write_many({name: data})
        return True

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """Push a file as a blob, in parts where it is large."""
        digest = digest_of(name)
        if digest is None:
            raise RegistryError(f"{name} is not a blob")
        size = path.stat().st_size
        upload = Upload(
            self._registry, _around(path), Layer(_BYTES, digest, size), "", self._cancel
        )
        upload.run(Part(self._cancel))
        report(size)

    def remove(self, names: Collection[str]) -> None:
        """DELETE; where nobody may, a lease is written over with nothing, which means the same."""
        if self._deletes and not deleted(self._registry, names):
            self._deletes = False
        if not self._deletes:
            leases = [name for name in names if name.startswith(f"{LEASE}/")]
            if len(leases) < len(names):
                raise no_deleting(self.place)
            self.write_many(dict.fromkeys(leases, b""))

    def objects(self) -> Iterator[StoredObject]:
        """What the tags hold, and the blobs that their manifests name."""
        return objects_in(self._registry, {blob_name(Digest.of(_EMPTY))})

    def close(self) -> None:
        """Cut what still waits."""
        self._registry.web.interrupt()
        self._registry.web.close()

    def _each(self, ask: Callable[[str], None], names: Collection[str]) -> None:
        run_all(ask, list(names), _AT_ONCE, name="mbuild-shared")


def _layer(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _around(path: Path | None) -> Store:
    """What an upload asks of a store: one file, and a folder for its notes."""
    try:
        notes = Path(tempfile.gettempdir()) / "mbuild-uploads"
    except FileNotFoundError:  # no disk has room for any: an upload does without notes
        notes = Path(os.devnull) / "mbuild-uploads"
    blobs = SimpleNamespace(
        folder=notes, partial_folder=notes, open=lambda digest: cast("Path", path).open("rb")
    )
    return cast("Store", SimpleNamespace(blobs=blobs))
