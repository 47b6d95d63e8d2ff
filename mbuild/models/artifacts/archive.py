"""``export`` to an OCI image layout in a tar: several blobs are copied to their places at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import StoreError
from mbuild.models.artifacts.jobs import THREADS, ExportJob, Written, check_free, open_blobs
from mbuild.models.artifacts.oci import INDEX_FILE, LAYOUT, LAYOUT_FILE, blob_name, encode_index
from mbuild.models.artifacts.sharing import ExportTarget, writing
from mbuild.models.artifacts.tar import END, header, padding
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from mbuild.store import Layer

_ALIGNED_FROM = 64 << 10
"""Bytes from which a blob in a tar starts with a block, to share its extents."""


def write_tar(job: ExportJob, path: Path) -> Written:
    """The archive, its files in the order of their names; several blobs are copied at once."""
    stored = job.contents.stored
    data = job.store.manifests.read_bytes(stored.name)
    if data is None or Digest.of(data) != stored.id:
        raise StoreError(f"{stored.name} changed during the export", hint="export it again")
    small = {
        LAYOUT_FILE: LAYOUT,
        INDEX_FILE: encode_index([(stored.name, data)]),
        blob_name(stored.id): data,
    }
    blobs = {blob_name(layer.digest): layer for layer in stored.manifest.blobs()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    check_free(job, path)
    with ExportTarget.beside(path) as target, writing(path):
        parts = []
        for name in sorted(small.keys() | blobs.keys()):
            if name in small:
                _add(target, name, small[name])
            else:
                parts.append((blobs[name], _leave_room(target, name, blobs[name])))
        target.write(END)
        shared = _fill(job, parts)
        target.publish(path)
    return Written(path, target.size, shared)


def _add(target: ExportTarget, name: str, data: bytes) -> None:
    target.write(header(name, len(data), target.size, align=False))
    target.write(data + padding(len(data)))


def _leave_room(target: ExportTarget, name: str, layer: Layer) -> ExportTarget:
    """All of a blob in the archive but its bytes; where these belong."""
    align = layer.size >= _ALIGNED_FROM
    target.write(header(name, layer.size, target.size, align=align))
    part = target.leave(layer.size)
    target.write(padding(layer.size))
    return part


def _fill(job: ExportJob, parts: Sequence[tuple[Layer, ExportTarget]]) -> int:
    """Copy each blob to its place; how many bytes share their extents with the store's."""

    def fill(item: tuple[Layer, ExportTarget], part: Part) -> int:
        layer, target = item
        with open_blobs(job, [layer], part.add) as ((source,), show):
            target.append(source, 0, source.size, lambda count: show())
        return target.shared

    total = sum(layer.size for layer, _ in parts)
    return sum(spread(fill, parts, total, lambda done, total: job.tell(done), name=THREADS))
