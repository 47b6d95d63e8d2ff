"""``verify``: does every blob have the content that its name says, is every model whole?

A damaged blob is *set aside*: moved to ``.mbuild/damaged/`` under its old name
with a number. Its place is then empty, which every healer understands: the
next build misses its cached result and makes the blob again, ``mbuild pull``
downloads it again, ``mbuild import`` brings it back (each of them takes a file
of the right size for a good one). Nothing is removed by it: a file that turns
out to be the only copy can be moved back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import (
    CancelledError,
    DamagedError,
    FormatError,
    MbuildError,
    StoreError,
)
from mbuild.core.values import NamedTuple, replace
from mbuild.models.disk.inventory import DAMAGED_FOLDER, read_manifests
from mbuild.models.disk.strays import free_name, is_removable, rename, set_apart, unreadable
from mbuild.store.contents import grouped, open_group
from mbuild.store.copying import OpenFile, hash_file
from mbuild.store.files import (
    fsync_directory,
    kind_of,
    make_directories,
)
from mbuild.store.locks import FileLock
from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE
from mbuild.store.media import ADAPTER, MEDIA_TYPES, SPLIT
from mbuild.store.place import check_place
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.store import Layer, Store, StoredManifest

    Progress = Callable[[int, int], None]

_MANIFEST_TYPES = (MANIFEST_TYPE, "application/vnd.oci.image.manifest.v1+json")
_MANIFEST_KEYS = frozenset(
    {"schemaVersion", "mediaType", "config", "layers", "from", "name", "annotations"}
)
_LAYER_KEYS = frozenset({"mediaType", "digest", "size", "from", "name", "annotations", "urls"})


class Damage(StrEnum):
    """What is wrong with a blob or a manifest."""

    CONTENT = "damaged"
    MISSING = "missing"
    SIZE = "wrong size in a manifest"
    UNREADABLE = "unreadable"
    MANIFEST = "damaged manifest"


class Finding(NamedTuple):
    """One thing that is wrong.

    ``what`` is a digest or a manifest's name, ``detail`` the evidence,
    ``models`` the models that it belongs to with the kind of layer
    (``mario:latest (system)``), ``heal`` what to do. ``set_aside`` is where a
    damaged blob was moved, "" if it was not.
    """

    problem: Damage
    what: str
    detail: str
    models: tuple[str, ...]
    heal: str
    set_aside: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild verify --format json`` prints it."""
        return {
            "problem": self.problem.value,
            "what": self.what,
            "detail": self.detail,
            "models": list(self.models),
            "heal": self.heal,
            "set_aside": self.set_aside,
        }


class Verified(NamedTuple):
    """What was looked at (``blobs``, ``models``: how many; ``bytes`` read) and what is wrong.

    ``reason`` says why damaged blobs were not set aside, where they were not.
    """

    models: int
    blobs: int
    bytes: int
    findings: tuple[Finding, ...]
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild verify --format json`` prints it."""
        return {
            "models": self.models,
            "blobs": self.blobs,
            "bytes": self.bytes,
            "findings": [finding.to_json() for finding in self.findings],
            "reason": self.reason,
        }


class _Looked(NamedTuple):
    """A blob after hashing: its ``stat`` then, and what is wrong ("" for a good one)."""

    digest: Digest
    path: Path
    info: os.stat_result | None
    problem: Damage | None
    detail: str = ""
    heal: str = ""


def verify(
    store: Store,
    models: Sequence[StoredManifest] | None = None,
    *,
    set_aside: bool = True,
    wait_seconds: float = 10.0,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Rehash blobs on all cores: those of some models, or all that the store has.

    ``progress`` gets bytes done and bytes in all, from the calling thread.
    Damaged blobs are set aside unless ``set_aside`` is False, the store is
    read-only or somebody builds for more than ``wait_seconds``.
    """
    check_place(store.root)
    with store.reading():
        chosen, findings = (models, []) if models is not None else _all_models(store)
        users = _users(chosen)
        places = {digest: store.blobs.path(digest) for digest in users}
        if models is None:
            findings += _strays(store, users)
            kept = {blob.digest: blob.path for blob in store.kept.unnamed()}
            places = {**kept, **{d: store.blobs.path(d) for d in store.blobs}, **places}
        looked = _hash_all(store, places, workers, progress)
        damaged = {item.digest for item in looked if item.problem is not None}
        for model in chosen:
            findings += _manifest_problems(store, model)
            findings += _split_problems(store, model, damaged)
    findings += _wrong_sizes(looked, users)
    # A blob that nobody names and that is gone was removed while others were hashed.
    bad = [
        item
        for item in looked
        if item.problem is not None and (item.problem is not Damage.MISSING or item.digest in users)
    ]
    found = [_finding(item, users) for item in bad]
    reason = ""
    if set_aside and any(item.problem is Damage.CONTENT for item in bad):
        found, reason = _set_aside(store, bad, found, wait_seconds)
    size = sum(item.info.st_size for item in looked if item.info is not None)
    return Verified(len(chosen), len(looked), size, tuple(findings + found), reason)


def _all_models(store: Store) -> tuple[list[StoredManifest], list[Finding]]:
    chosen: list[StoredManifest] = []
    findings: list[Finding] = []
    for item in read_manifests(store):
        if isinstance(item, StoreError):
            heal = item.hint or "build or pull that model again, or remove it with mbuild rm"
            damaged = isinstance(item, DamagedError)
            problem = Damage.MANIFEST if damaged else Damage.UNREADABLE
            findings.append(Finding(problem, "manifest", item.message, (), heal))
        else:
            chosen.append(item)
    return sorted(chosen, key=lambda stored: str(stored.name)), findings


def _users(models: Iterable[StoredManifest]) -> dict[Digest, list[tuple[StoredManifest, Layer]]]:
    users: dict[Digest, list[tuple[StoredManifest, Layer]]] = {}
    for stored in models:
        for layer in stored.manifest.blobs():
            users.setdefault(layer.digest, []).append((stored, layer))
    return users


# Hashing.


def _hash_all(
    store: Store, places: Mapping[Digest, Path], workers: int | None, progress: Progress
) -> list[_Looked]:
    """Hash blobs side by side, the largest first, so that no core idles at the end."""
    sizes = {digest: _size(path) for digest, path in places.items()}
    order = sorted(places, key=lambda digest: (-sizes[digest], digest))

    def look(digest: Digest, part: Part) -> _Looked:
        return _look(store, digest, places[digest], part.at)

    total = sum(sizes.values())
    return spread(look, order, total, progress, name="mbuild-verify", threads=workers)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _look(store: Store, digest: Digest, path: Path, at: Progress) -> _Looked:
    if not os.path.lexists(path):
        return _Looked(digest, path, None, Damage.MISSING, "no such file in blobs/")
    try:
        with OpenFile.open(path, path.name) as file:
            found = hash_file(file.fd, file.size, at)
            if found == digest:
                return _Looked(digest, path, file.info, None)
            detail = f"{file.size} bytes whose digest is {found}"
            if file.info.st_nlink - store.kept.links_to(digest, file.info) > 1:
                detail += "; the file has other names: it was linked, and then edited"
            return _Looked(digest, path, file.info, Damage.CONTENT, detail)
    except CancelledError:
        raise
    except (MbuildError, OSError) as error:
        return _Looked(digest, path, None, Damage.UNREADABLE, *unreadable(path, error))


def _strays(
    store: Store, users: dict[Digest, list[tuple[StoredManifest, Layer]]]
) -> Iterable[Finding]:
    """What has a blob's name, is none, and belongs to no model."""
    for path, info in store.blobs.strays():
        digest = Digest.parse(path.name)
        if digest not in users:
            what = f"{path.name} is {kind_of(info.st_mode)}"
            heal = _heal([], []) if is_removable(path) else set_apart(path)
            yield Finding(Damage.UNREADABLE, str(digest), f"{what}, not a blob", (), heal)


# What is wrong, and how to heal it.


def _finding(item: _Looked, users: dict[Digest, list[tuple[StoredManifest, Layer]]]) -> Finding:
    uses = users.get(item.digest, [])
    models = tuple(sorted({f"{stored.name} ({layer.kind})" for stored, layer in uses}))
    names = sorted({str(stored.name) for stored, _ in uses})
    # Of an adapter's layer the origin is a file's name, of any other a model's.
    origins = sorted({x.origin for _, x in uses if x.origin and x.media_type != ADAPTER})
    assert item.problem is not None
    heal = item.heal or _heal(names, origins)
    return Finding(item.problem, str(item.digest), item.detail, models, heal)


def _heal(names: Sequence[str], origins: Sequence[str]) -> str:
    if not names:
        return "no model needs it: mbuild prune removes it"
    text = f"build {' or '.join(names)} again (or mbuild pull, or mbuild import)"
    if origins:
        text += f"; it came from {', '.join(origins)}: repair that first"
    return text


def _wrong_sizes(
    looked: Iterable[_Looked], users: dict[Digest, list[tuple[StoredManifest, Layer]]]
) -> list[Finding]:
    """Manifests that give a good blob another size: they are what is damaged."""
    found = []
    for item in looked:
        for stored, layer in users.get(item.digest, []) if item.problem is None else ():
            assert item.info is not None
            if layer.size != item.info.st_size:
                detail = f"{layer.digest} ({layer.kind}) is {item.info.st_size} bytes, not "
                detail += str(layer.size)
                name = str(stored.name)
                found.append(Finding(Damage.SIZE, name, detail, (name,), _heal([name], [])))
    return found


def _manifest_problems(store: Store, stored: StoredManifest) -> list[Finding]:
    """Mistakes in a manifest that can be read: flipped bits in it have no digest to tell them."""
    data = store.manifests.read_bytes(stored.name)
    if data is None or Digest.of(data) != stored.id:
        return []  # replaced meanwhile
    name = str(stored.name)
    with suppress(ValueError):
        value = json.loads(data)
        problems = list(_schema_problems(value))
        return [
            Finding(Damage.MANIFEST, name, detail, (name,), _heal([name], []))
            for detail in problems
        ]
    return []


def _split_problems(
    store: Store, stored: StoredManifest, damaged: Collection[Digest]
) -> list[Finding]:
    """Layers of weights that are shards, but not all of one model; each may be a good blob."""
    name = str(stored.name)
    found = []
    for media_type in SPLIT:
        layers = stored.manifest.of_kind(media_type)
        if len(layers) < 2 or any(layer.digest in damaged for layer in layers):
            continue
        for group in grouped(store.blobs, layers, name):
            try:
                with open_group(store.blobs, group, name):
                    pass
            except FormatError as error:
                heal = _heal([name], [])
                found.append(Finding(Damage.MANIFEST, name, error.message, (name,), heal))
    return found


def _schema_problems(value: dict[str, Any]) -> Iterable[str]:
    if value.get("schemaVersion") != 2:
        yield f"schemaVersion is {value.get('schemaVersion')!r}, not 2"
    if value.get("mediaType") not in _MANIFEST_TYPES:
        yield f"mediaType is {value.get('mediaType')!r}"
    for key in sorted(value.keys() - _MANIFEST_KEYS):
        yield f"unknown key {key!r}"
    config = value["config"]
    if config.get("mediaType") != CONFIG_TYPE:
        yield f"the config's mediaType is {config.get('mediaType')!r}"
    for layer in (config, *value["layers"]):
        for key in sorted(layer.keys() - _LAYER_KEYS):
            yield f"unknown key {key!r} in a layer"
    for layer in value["layers"]:
        if layer.get("mediaType") not in MEDIA_TYPES:
            yield f"unknown mediaType {layer.get('mediaType')!r}"


# Setting aside.


def _set_aside(
    store: Store, damaged: Sequence[_Looked], findings: Sequence[Finding], seconds: float
) -> tuple[list[Finding], str]:
    """Move damaged blobs away, alone in the store: a running build may count on them."""
    lock = FileLock(store.private / "lock")
    try:
        store.prepare()
        if not lock.acquire(exclusive=True, timeout=seconds):
            return list(findings), "a build is running in this store: verify again when it is done"
        try:
            return [
                replace(finding, set_aside=_move(store, item))
                for item, finding in zip(damaged, findings, strict=True)
            ], ""
        finally:
            lock.release()
    except (DamagedError, StoreError) as error:
        return list(findings), error.message
    except OSError as error:
        return list(findings), error.strerror or str(error)


def _move(store: Store, item: _Looked) -> str:
    """Move one blob, if it is still the file that was hashed; where it is now."""
    path = item.path
    if item.problem is not Damage.CONTENT or item.info is None:
        return ""
    with suppress(FileNotFoundError):
        now = path.stat()
        same = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        info = item.info
        if same == (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns):
            folder = store.private / DAMAGED_FOLDER
            make_directories(folder)
            target = free_name(folder, path.name)
            rename(path, target)
            store.kept.remove_link(item.digest, info)
            fsync_directory(folder)
            fsync_directory(path.parent)
            return str(target.relative_to(store.root))
    return ""
