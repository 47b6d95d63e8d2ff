"""Documents about models: how one was made, what is in it, and who signed for it.

They lie in ``.mbuild/attached/``, in one folder for each model, which has the digits of the
model's id for a name. A document is named by its kind and by the SHA-256 of its bytes, so that a
changed byte is found whenever one is read, and the same document is there once.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.store.files import (
    TemporaryFile,
    inherit,
    make_directories,
    open_regular,
    store_errors,
    write_all,
)
from mbuild.store.store import ATTACHED_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mbuild.store import Store

MAX_BYTES = 8 << 20
"""A longer document is none of ours."""

_NAME = regex(r"([a-z]+)-([0-9a-f]{64})\.json")


class DocumentKind(NamedTuple):
    """A kind of document: its name, and the media type that registries know it by."""

    name: str
    media_type: str


PROVENANCE = DocumentKind("provenance", "application/vnd.in-toto+json")
"""An in-toto statement with SLSA's provenance."""
SBOM = DocumentKind("sbom", "application/vnd.cyclonedx+json")
"""A bill of materials of CycloneDX."""
ENVELOPE = DocumentKind("envelope", "application/vnd.dsse.envelope.v1+json")
"""A signed statement: an envelope of DSSE."""
SIGNATURE = DocumentKind("signature", "application/vnd.dev.cosign.simplesigning.v1+json")
"""A signed id of a model, as cosign signs images: ``payload`` and ``signature`` in base64."""

KINDS: tuple[DocumentKind, ...] = (PROVENANCE, SBOM, ENVELOPE, SIGNATURE)
"""All of them; a new kind is one more row."""

MOST = 16
"""Documents of one kind that are kept about one model: the newest."""

BY_NAME = {kind.name: kind for kind in KINDS}


class AttachedDocument(NamedTuple):
    """A document about a model: its kind, and its bytes, which have its digest.

    ``written`` is when the store got it, in nanoseconds.
    """

    kind: DocumentKind
    digest: Digest
    data: bytes
    written: int = 0


def parsed(data: bytes) -> Mapping[str, Any]:
    """The JSON object that a document is; raises ValueError for anything else."""
    try:
        value = json.loads(data)
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def contained(value: Mapping[str, Any], key: str) -> bytes:
    """The bytes that a field has in base64; raises ValueError where it has none."""
    text = value.get(key)
    if not isinstance(text, str):
        raise ValueError(f"it has no {key}")
    return base64.b64decode(text, validate=True)


def is_about(kind: DocumentKind, data: bytes, model: Digest) -> bool:
    """Whether a document says that it is about a model, by the id; False for none of its kind."""
    try:
        value = parsed(data)
        if kind is SBOM:
            component = value["metadata"]["component"]
            return any(each["content"] == model.hex for each in component["hashes"])
        if kind is SIGNATURE:
            image = parsed(contained(value, "payload"))["critical"]["image"]
            return bool(image["docker-manifest-digest"] == str(model))
        if kind is ENVELOPE:
            value = parsed(contained(value, "payload"))
        return any(each["digest"].get("sha256") == model.hex for each in value["subject"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def folder_of(store: Store, model: Digest) -> Path:
    """Where the documents about a model lie."""
    return store.private / ATTACHED_FOLDER / model.hex


def attach(store: Store, model: Digest, kind: DocumentKind, data: bytes) -> Digest:
    """Keep a document about a model, whole or not at all; returns its digest.

    Raises :class:`StoreError` where it cannot be written.
    """
    digest, folder = Digest.of(data), folder_of(store, model)
    path = folder / f"{kind.name}-{digest.hex}.json"
    store.prepare()
    with store_errors("keeping a document about a model"):
        make_directories(folder)
        if path.exists() and path.read_bytes() == data:
            return digest
        with TemporaryFile(store.private / "tmp") as file:
            inherit(file.fd, folder)
            write_all(file.fd, data)
            file.publish(path)
        _trim(folder, kind)
    return digest


def _trim(folder: Path, kind: DocumentKind) -> None:
    """Remove the oldest documents of a kind where there are too many."""
    paths = [path for each, _, path in _named(folder) if each is kind]
    if len(paths) > MOST:
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)[:-MOST]:
            path.unlink(missing_ok=True)


def documents(store: Store, model: Digest, *kinds: DocumentKind) -> Iterator[AttachedDocument]:
    """The documents about a model, of these kinds or of all, each checked by its digest.

    Raises :class:`DamagedError` for one whose bytes are not what its name says.
    """
    for kind, digest, path in _named(folder_of(store, model)):
        if kinds and kind not in kinds:
            continue
        data = _read(path)
        if Digest.of(data) != digest:
            raise DamagedError(
                f"{path} was changed: its bytes do not have the digest in its name",
                hint="remove that file, then build or pull the model again",
            )
        with store_errors("reading a document about a model"):
            written = path.stat().st_mtime_ns
        yield AttachedDocument(kind, digest, data, written)


def _named(folder: Path) -> Iterator[tuple[DocumentKind, Digest, Path]]:
    names: list[str] = []
    with suppress(OSError):
        names = sorted(os.listdir(folder))
    for name in names:
        found = _NAME.fullmatch(name)
        if found is not None and found[1] in BY_NAME:
            yield BY_NAME[found[1]], Digest(found[2]), folder / name


def _read(path: Path) -> bytes:
    with store_errors("reading a document about a model"):
        fd, info = open_regular(path)
        with open(fd, "rb") as file:
            if info.st_size > MAX_BYTES:
                raise DamagedError(
                    f"{path} has {info.st_size} bytes, more than any document about a model",
                    hint="remove that file",
                )
            return file.read()
