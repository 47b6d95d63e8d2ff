"""What can be compared: a model of the store, or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError
from mbuild.store.contents import Contents, read_contents
from mbuild.store.media import GGUF

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.store import Store, StoredManifest


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One GGUF file of a side; ``digest`` is None where nobody has read the file yet."""

    path: Path
    label: str
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of two things to compare.

    ``contents`` is None for a mere file. ``weights`` maps ``model``,
    ``adapter``, ``adapter 2`` and so on to GGUF files.
    """

    label: str
    contents: Contents | None
    weights: dict[str, WeightsFile]


def model_side(store: Store, stored: StoredManifest) -> Side:
    """A model of the store; raises :class:`DamagedError` for one that lacks a blob."""
    weights = {}
    for media_type in GGUF:
        for number, layer in enumerate(stored.manifest.of_kind(media_type), start=1):
            if not store.blobs.has(layer.digest, layer.size):
                raise DamagedError(
                    f"{stored.name}: its {layer.kind} {layer.digest} is missing or cut short",
                    hint="mbuild verify reports how to repair it",
                )
            kind = layer.kind if number == 1 else f"{layer.kind} {number}"
            path = store.blobs.local_path(layer.digest)
            weights[kind] = WeightsFile(path, f"{stored.name} ({kind})", layer.digest)
    return Side(str(stored.name), read_contents(store.blobs, stored), weights)


def gguf_side(path: Path) -> Side:
    """A GGUF file, which stands for a model's weights."""
    return Side(str(path), None, {"model": WeightsFile(path, path.name, None)})
