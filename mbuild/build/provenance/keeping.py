"""Writes what a build says of itself, once it is over: a statement for each new model.

The bill of materials is made of the statement and the model, so it is written when somebody asks
for it or pushes the model: a build that changed but a text need not read the weights for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.provenance.statement import MadeModel, statement
from mbuild.core.digest import Digest, canonical_json
from mbuild.core.errors import MbuildError
from mbuild.store import Manifest
from mbuild.store.attached import PROVENANCE, attach

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Resolved
    from mbuild.store import Store


def keep(
    record: BuildRecord,
    found: Sequence[Resolved],
    plans: Sequence[Plan],
    files: Mapping[str, Digest],
    store: Store,
) -> str:
    """Keep the statement about every model that a build named; why it cannot be kept, if so.

    ``files`` are the digests that the build found by reading, by path. The models are made and
    named by now, so nothing that goes wrong here ends the build.
    """
    try:
        for made in _made(record, found, plans, files, store):
            said = statement(record, made, store.files.alias)
            attach(store, made.identity, PROVENANCE, encoded(said))
    except MbuildError as error:
        return f"no statement about the model was kept: {error.message}"
    return ""


def encoded(value: Mapping[str, Any]) -> bytes:
    """A document's bytes: the same for equal values."""
    return canonical_json(value).encode()


def _made(
    record: BuildRecord,
    found: Sequence[Resolved],
    plans: Sequence[Plan],
    files: Mapping[str, Digest],
    store: Store,
) -> Iterator[MadeModel]:
    """Each target that has a name, with what it comes from as it was read."""
    parts = list(found) if len(found) > 1 else [*found] * len(record.request.targets)
    rows = zip(record.request.targets, record.manifests, parts, plans, strict=True)
    for target, place, part, plan in rows:
        identity = record.models.get(str(target.names[0]))
        data = store.manifests.read_bytes(store.manifests.resolve(target.names[0]))
        if identity is None or data is None or Digest.of(data) != identity:
            continue  # another build gave the name away since
        sources = part.sources.learned(files)
        manifest = Manifest.decode(data, str(target.names[0]))
        yield MadeModel(target, place, part._replace(sources=sources), plan, identity, manifest)
