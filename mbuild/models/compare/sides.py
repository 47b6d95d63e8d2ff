"""What can be compared: a stored model, or a GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError
from mbuild.core.values import NamedTuple
from mbuild.gguf.weights import open_weights, paths_of
from mbuild.store.contents import Contents, grouped, read_contents
from mbuild.store.media import GGUF

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store import Store, StoredManifest


class SideWeights(NamedTuple):
    """One GGUF file of a side, or the shards of a model.

    ``digests`` are None where nobody has read the files yet.
    """

    paths: tuple[Path, ...]
    label: str
    digests: tuple[Digest, ...] | None

    @contextmanager
    def open(self) -> Iterator[GGUFWeights]:
        """The files, open, as one."""
        with open_weights(self.paths, [self.label] * len(self.paths)) as weights:
            yield weights


class Side(NamedTuple):
    """One of two things to compare.

    ``contents`` is None for a mere file. ``weights`` maps ``model``,
    ``adapter``, ``adapter 2`` and so on to GGUF files, all shards of a model to one of them.
    """

    label: str
    contents: Contents | None
    weights: dict[str, SideWeights]


def model_side(store: Store, stored: StoredManifest) -> Side:
    """A stored model; raises :class:`DamagedError` for one that lacks a blob."""
    weights = {}
    for media_type in GGUF:
        layers = stored.manifest.of_kind(media_type)
        for layer in layers:
            if not store.blobs.has(layer.digest, layer.size):
                raise DamagedError(
                    f"{stored.name}: its {layer.kind} {layer.digest} is missing or cut short",
                    hint="mbuild verify reports how to repair it",
                )
        for number, group in enumerate(grouped(store.blobs, layers, str(stored.name)), start=1):
            kind = group[0].kind if number == 1 else f"{group[0].kind} {number}"
            paths = tuple(store.blobs.local_path(layer.digest) for layer in group)
            digests = tuple(layer.digest for layer in group)
            weights[kind] = SideWeights(paths, f"{stored.name} ({kind})", digests)
    return Side(str(stored.name), read_contents(store.blobs, stored), weights)


def gguf_side(path: Path) -> Side:
    """A GGUF file, or of a shard all of them, which stands for a model's weights."""
    return Side(str(path), None, {"model": SideWeights(paths_of(path), path.name, None)})
