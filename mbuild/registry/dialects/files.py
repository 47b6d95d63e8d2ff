"""A model as files: what a form of manifest that knows no Ollama calls each layer.

The names do not depend on the model's, so that equal models have equal manifests everywhere.
``template``, ``system`` and ``params`` are what Hugging Face calls these files in a repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple
from mbuild.registry.dialects.roles import PLAIN
from mbuild.store.contents import grouped, read_object
from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE, Layer, Manifest
from mbuild.store.media import LICENSE, MEDIA_TYPES, PARAMS, ROWS

if TYPE_CHECKING:
    from mbuild.store.ports import BlobStore

STEM = "model"
MANIFEST_FILE = "ollama/manifest.json"
"""Ollama's manifest, which says what the other files are to Ollama; its digest is the id."""

CONFIG_FILE = "ollama/config.json"

_LICENSE = "LICENSE"


class NamedLayer(NamedTuple):
    """A layer with its Ollama media type, and its file's name."""

    layer: Layer
    path: str


class PlainModel:
    """A stored model as what every form of manifest is made from; read as far as one asks.

    ``data`` are the bytes of Ollama's manifest. Reading raises :class:`DamagedError`.
    """

    def __init__(self, blobs: BlobStore, data: bytes, name: str) -> None:
        self.data = data
        self.manifest = Manifest.decode(data, f"the manifest of {name}")
        self._blobs = blobs
        self._name = name

    @cached_property
    def files(self) -> tuple[NamedLayer, ...]:
        """All layers under names of files, each blob once; at the end what only Ollama reads."""
        return tuple(_files(self._blobs, self.manifest, self.data, self._name))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What Ollama's config says."""
        return read_object(self._blobs, self.manifest.config)

    @property
    def context(self) -> int:
        """The PARAMETER num_ctx, 0 where there is none."""
        params = self.manifest.of_kind(PARAMS)
        value = read_object(self._blobs, params[-1]).get("num_ctx") if params else 0
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _files(blobs: BlobStore, manifest: Manifest, data: bytes, name: str) -> Iterator[NamedLayer]:
    """Weights first, then the texts, each blob once; at the end what only Ollama reads."""
    known = [row.text for row in ROWS]
    others = dict.fromkeys(layer.media_type for layer in manifest.layers)
    seen: set[Digest] = set()
    for media_type in dict.fromkeys([*known, *others]):
        layers = manifest.of_kind(media_type)
        for layer, path in zip(layers, _names(blobs, layers, media_type, name), strict=True):
            if layer.digest not in seen:
                seen.add(layer.digest)
                yield NamedLayer(layer, path)
    yield NamedLayer(manifest.config._replace(media_type=CONFIG_TYPE), CONFIG_FILE)
    yield NamedLayer(Layer(MANIFEST_TYPE, Digest.of(data), len(data)), MANIFEST_FILE)


def _names(
    blobs: BlobStore, layers: tuple[Layer, ...], media_type: str, name: str
) -> Iterator[str]:
    """A file's name for each layer of one media type."""
    from mbuild.gguf.shards import ShardName

    row = MEDIA_TYPES.get(media_type)
    if row is not None and row.file:
        for number, group in enumerate(grouped(blobs, layers, name), start=1):
            file = row.file.format(stem=STEM, n=f"-{number}" if number > 1 else "")
            shard = ShardName(file.removesuffix(".gguf"), 1, len(group))
            yield from shard.siblings if len(group) > 1 else [file]
        return
    word = Layer(media_type, layers[0].digest, 0).kind if layers else ""
    first = _LICENSE if media_type == LICENSE else word
    folder = "" if media_type in PLAIN or media_type == LICENSE else "ollama/"
    for number in range(1, len(layers) + 1):
        yield f"{folder}{first}{f'-{number}' if number > 1 else ''}"
