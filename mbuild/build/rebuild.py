"""Builds a model again in a throw-away store, and compares the two bit for bit.

The throw-away store is a folder in ``.mbuild/tmp`` of the store, so on the same file
system; it has no cache, so every step runs. The blobs of a base model are linked
into it and not copied. It is removed whatever happens, and by the next build
if the process was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.build import build
from mbuild.build.explain import DescribedStep, explain
from mbuild.build.graph import Result, Step, in_order, names_of
from mbuild.build.recording import describe_steps
from mbuild.build.steps.importances import LENT_KIND, lent_key
from mbuild.core.digest import canonical_json
from mbuild.core.errors import MbuildError, SourceError, StoreError
from mbuild.core.events import Cause
from mbuild.core.values import NamedTuple
from mbuild.store import Layer, Manifest, Store
from mbuild.store.files import temporary_folder
from mbuild.store.media import GGUF
from mbuild.store.records import DESCRIPTION, IMATRIX, STEP

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.history import BuildRecord
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Build, Gate, Resolved
    from mbuild.build.sources.values import StoredModel
    from mbuild.core.events import BuildEvent
    from mbuild.store import StoredManifest

_PIECE = 1 << 20
_MARGIN = 1 << 20
"""Bytes that the folders and the cache of the throw-away store may take."""


class Difference(NamedTuple):
    """A part of the model that came out otherwise.

    ``what`` is ``manifest``, ``config`` or a layer with its number; ``old`` and
    ``new`` are digests, None where that side has no such layer; ``where`` is the
    first byte that differs, in words.
    """

    what: str
    old: str | None
    new: str | None
    where: str = ""


class Rebuilt(NamedTuple):
    """What building again came to; ``layers`` and ``bytes`` are those of the model in the store.

    ``statement`` is what this build says of itself, ``descriptions`` are what was hashed for
    the keys in it.
    """

    name: str
    old: str
    new: str
    layers: int
    bytes: int
    differences: tuple[Difference, ...]
    statement: Mapping[str, Any] = {}
    descriptions: Mapping[str, Mapping[str, Any]] = {}


def rebuild(
    wanted: Build, stored: StoredManifest, store: Store
) -> Generator[BuildEvent, None, Rebuilt]:
    """Build ``stored`` again as ``wanted`` says, and compare; yields the build's events.

    Raises what a build raises, and :class:`StoreError` where the disk has no room.
    """
    (target,) = wanted.request.targets
    target = target._replace(names=(stored.name,))
    request = wanted.request._replace(targets=(target,), named=True)
    wanted = wanted._replace(request=request, use_cache=False, checking=False)
    with store.reading():
        store.prepare()
        with temporary_folder(store.private / "tmp") as folder:
            scratch = Store(folder / "store")
            _lend_matrices(store, scratch, stored)
            gate = _Borrowing(store, scratch, stored, wanted.gate)
            yield from build(wanted._replace(gate=gate), scratch)
            again = scratch.manifests.read(stored.name)
            return Rebuilt(
                str(stored.name),
                str(stored.id),
                str(again.id),
                len(stored.manifest.layers),
                stored.size,
                tuple(_differences((store, stored), (scratch, again))),
                *_said(scratch, again),
            )


def _lend_matrices(store: Store, scratch: Store, stored: StoredManifest) -> None:
    """Give the throw-away store the importance matrices that the model was made with.

    Their last digits depend on the processor, and computing them on the engine. So they are
    an input of what is built again, as a file of the user's would be.
    """
    from mbuild.build.history import History

    record = History(store).maker_of(str(stored.name), stored.id)
    for step in record.steps if record else ():
        text = store.cache.get(STEP, step.key) if step.kind == LENT_KIND and step.key else None
        if text is None:
            continue
        layers = Result.from_json(text).layers
        if all(store.blobs.bring(layer.digest, layer.size) for layer in layers):
            scratch.prepare()
            for layer in layers:
                scratch.blobs.put(store.blobs.local_path(layer.digest).read_bytes())
            scratch.database.put(IMATRIX, lent_key(step.label), {"result": text})
    scratch.database.flush()


def _said(
    scratch: Store, again: StoredManifest
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]:
    """The statement that the build wrote, and what its steps' keys stand for."""
    from mbuild.store.attached import PROVENANCE, documents, parsed

    for document in documents(scratch, again.id, PROVENANCE):
        value = parsed(document.data)
        keys = keys_of(value)
        return value, scratch.cache.get_many(DESCRIPTION, keys)
    return {}, {}


def keys_of(statement: Mapping[str, Any]) -> list[str]:
    """The keys of a statement's steps."""
    steps = statement["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    return [step["key"] for step in steps if step.get("key")]


class _Borrowing:
    """A gate that checks the room and lends the base model's blobs to the throw-away store."""

    def __init__(
        self, store: Store, scratch: Store, stored: StoredManifest, inner: Gate | None
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._stored = stored
        self._inner = inner

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Everything is found: link what is inherited."""
        if self._inner is not None:
            self._inner.before(found, plans)
        lent: set[Layer] = set()
        for plan in plans:
            if plan.base is not None:
                lent.update(self._lend(plan.base))
        digests = {layer.digest for layer in lent}
        new = {x.digest: x.size for x in self._stored.manifest.blobs() if x.digest not in digests}
        need, free = sum(new.values()) + _MARGIN, shutil.disk_usage(self._scratch.root).free
        if need > free:
            raise StoreError(
                f"building {self._stored.name} again needs {need:,} bytes on this disk,"
                f" but only {free:,} are free",
                hint="free space on that disk: mbuild du, mbuild prune",
            )

    def after(self, manifests: Sequence[bytes]) -> None:
        """Everything is built."""
        if self._inner is not None:
            self._inner.after(manifests)

    def _lend(self, base: StoredModel) -> Iterator[Layer]:
        for layer in base.manifest.blobs():
            source, target = (s.blobs.path(layer.digest) for s in (self._store, self._scratch))
            if not target.exists():
                _link(source, target)
            yield layer


def _link(source: Path, target: Path) -> None:
    """A symbolic link leaves the blob itself untouched; Windows may only allow a hard one."""
    try:
        target.symlink_to(os.path.realpath(source))
    except (OSError, NotImplementedError):
        os.link(source, target)


# Whether the sources are those that the model was made of.


class Unchanged:
    """A gate that refuses a build from other files or options than an earlier one had."""

    def __init__(self, record: BuildRecord, store: Store) -> None:
        self._record = record
        self._store = store

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Raise :class:`SourceError` naming what changed."""
        steps = in_order([plan.manifest for plan in plans])
        old = [_bare(step) for step in describe_steps(self._record, self._store)]
        new = _bares(steps)
        # A build of several targets has steps that are alike: one that is there is no other.
        there = {canonical_json(step.description) for step in old}
        for step, bare, why in zip(steps, new, explain(new, old, self._store), strict=True):
            if canonical_json(bare.description) in there:
                continue
            changes = [c for c in why.changes if c.cause is not Cause.VERSION]
            if changes:
                raise SourceError(
                    f"{step.label}: {'; '.join(map(str, changes))}",
                    hint="the model's inputs have changed since: restore them, or build the"
                    " model again",
                )

    def after(self, manifests: Sequence[bytes]) -> None:
        """Nothing more to say."""


def _bares(steps: Sequence[Step]) -> list[DescribedStep]:
    """The steps by what is known before they run: their own fields, not what they are given."""
    return [
        _bare(
            DescribedStep(
                *names_of(step),
                "",
                {"kind": step.kind, "version": step.version, "fields": step.key_fields()},
            )
        )
        for step in steps
    ]


def _bare(step: DescribedStep) -> DescribedStep:
    description = step.description
    if description is None or description["fields"] is None:
        return step._replace(key="", description=None)
    return step._replace(key="", description={**description, "inputs": []})


# Comparing.


def _differences(
    old: tuple[Store, StoredManifest], new: tuple[Store, StoredManifest]
) -> Iterator[Difference]:
    (a, one), (b, two) = old, new
    if one.id == two.id:
        return
    x, y = (s.manifests.read_bytes(m.name) or b"" for s, m in (old, new))
    yield Difference("manifest", str(one.id), str(two.id), _first_byte(x, y))
    rows = [("config", one.manifest.config, two.manifest.config)]
    for number in range(max(len(one.manifest.layers), len(two.manifest.layers))):
        left, right = (_layer(m.manifest, number) for m in (one, two))
        kind = (left or right).kind  # type: ignore[union-attr]
        rows.append((f"layer {number + 1} ({kind})", left, right))  # type: ignore[arg-type]
    for what, left, right in rows:
        if left == right:
            continue
        where = ""
        if left is not None and right is not None:
            where = _first_difference(a, left, b, right)
        yield Difference(what, _digest(left), _digest(right), where)


def _layer(manifest: Manifest, number: int) -> Layer | None:
    return manifest.layers[number] if number < len(manifest.layers) else None


def _digest(layer: Layer | None) -> str | None:
    return None if layer is None else str(layer.digest)


def _first_difference(a: Store, left: Layer, b: Store, right: Layer) -> str:
    """Where two layers begin to differ, in words."""
    if left.digest == right.digest:
        return f"the same bytes, but {_about(left)} and {_about(right)}"
    with suppress(OSError, StoreError):
        paths = a.blobs.local_path(left.digest), b.blobs.local_path(right.digest)
        offset = first_difference(*paths)
        if offset is None:
            return "the same bytes: one of them is not what its digest says"
        inside = place_in_gguf(paths[0], offset) if left.media_type in GGUF else ""
        return f"from byte {offset:,} on{inside}"
    return "one of them cannot be read"


def _about(layer: Layer) -> str:
    return f"{layer.kind} of {layer.size} bytes" + (f" from {layer.origin}" if layer.origin else "")


def _first_byte(x: bytes, y: bytes) -> str:
    same = (i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q)
    return f"from byte {next(same, min(len(x), len(y))):,} on"


def first_difference(a: Path, b: Path) -> int | None:
    """The offset of the first byte in which two files differ, or where the shorter one ends."""
    offset = 0
    with a.open("rb") as one, b.open("rb") as two:
        while True:
            x, y = one.read(_PIECE), two.read(_PIECE)
            if x != y:
                pairs = enumerate(zip(x, y, strict=False))
                return offset + next((i for i, (p, q) in pairs if p != q), min(len(x), len(y)))
            if not x:
                return None
            offset += len(x)


def place_in_gguf(path: Path, offset: int) -> str:
    """Which part of a GGUF file an offset is in: ``, in tensor NAME at its byte N``."""
    from mbuild.gguf.reader import open_gguf

    try:
        with open_gguf(path) as file:
            for tensor in file.tensors:
                if tensor.offset <= offset < tensor.offset + tensor.nbytes:
                    return f", in tensor {tensor.name} at its byte {offset - tensor.offset:,}"
            for entry in file.kvs.values():
                if entry.start <= offset < entry.stop:
                    return f", in the value of {entry.key}"
    except MbuildError:
        return ""
    return ", in the header"
