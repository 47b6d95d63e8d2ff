"""Which files a model's weights are exported to: as they are stored, merged or split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple
from mbuild.gguf.shards import ShardName, parse_shard_name
from mbuild.store.contents import grouped, open_group
from mbuild.store.media import GGUF, MEDIA_TYPES, MODEL

if TYPE_CHECKING:
    from mbuild.build.splitting import Splitting
    from mbuild.store import Layer, Store, StoredManifest


class WeightsPlace(NamedTuple):
    """Weights, and the files that they are exported to.

    ``layers`` are one or the shards of a model. ``counts`` says how many tensors each file
    gets where they are not the layers: one number where shards are merged; it is empty
    where each layer is a file.
    """

    layers: tuple[Layer, ...]
    paths: tuple[Path, ...]
    counts: tuple[int, ...] = ()

    @property
    def references(self) -> dict[Digest, str]:
        """What a Modelfile beside the files calls each layer; nothing is what goes without saying.

        Of a split model that is a wildcard for all shards, as Ollama wants it.
        """
        name = self.paths[0].name
        shard = parse_shard_name(name) if len(self.paths) > 1 else None
        if shard is not None:
            name = str(shard).replace(f"-{shard.number:05d}-of-", "-*-of-")
        return {layer.digest: "" for layer in self.layers} | {self.layers[0].digest: name}


def places_of(
    store: Store,
    stored: StoredManifest,
    folder: Path,
    stem: str,
    *,
    merge: bool = False,
    splitting: Splitting | None = None,
) -> Iterator[WeightsPlace]:
    """Where the GGUF layers go: below ``folder``, in files that begin with ``stem``.

    Only the model itself is split. Raises as :func:`mbuild.store.contents.open_layer`.
    """
    named = parse_shard_name(f"{stem}.gguf")
    stem = named.prefix if named else stem
    for media_type in GGUF:
        layers = stored.manifest.of_kind(media_type)
        for number, group in enumerate(grouped(store.blobs, layers, str(stored.name)), start=1):
            n = f"-{number}" if number > 1 else ""
            name = MEDIA_TYPES[media_type].file.format(stem=stem, n=n)
            counts: tuple[int, ...] = ()
            if (merge and len(group) > 1) or (splitting and media_type == MODEL):
                with open_group(store.blobs, group, str(stored.name)) as weights:
                    whole = (len(weights.tensors),)
                    counts = splitting.counts(weights.model()) if splitting else whole
            yield WeightsPlace(group, _files(folder, name, len(counts or group)), counts)


def _files(folder: Path, name: str, count: int) -> tuple[Path, ...]:
    """One file of that name, or as many shards of it."""
    if count == 1:
        return (folder / name,)
    first = ShardName(name.removesuffix(".gguf"), 1, count)
    return tuple(folder / shard for shard in first.siblings)
