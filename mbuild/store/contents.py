"""What a stored model holds: its small layers read, its GGUF headers opened.

The one reader of stored models: whoever shows, compares, exports or builds on one asks here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import DamagedError, SourceError, StoreError
from mbuild.core.system import allow_open_files
from mbuild.core.values import NamedTuple
from mbuild.store.media import (
    LICENSE,
    MESSAGES,
    MODEL,
    PARAMS,
    PROMPT,
    SYSTEM,
    TEMPLATE,
)

if TYPE_CHECKING:
    from mbuild.gguf.model import RawKV
    from mbuild.gguf.reader import GGUFFile
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store import Layer, Store, StoredManifest
    from mbuild.store.ports import BlobStore

MAX_SMALL = 64 << 20
"""Bytes of the largest layer that is read whole: anything but weights."""

SHOWN = 8
"""Items of an array that are shown."""
_SHOWN_TEXT = 160
"""Characters of a text that are shown."""


class Numbers(Enum):
    """What the numbers of a params layer become."""

    AS_WRITTEN = "as written"
    """40 is an int, 40.0 a float: for whoever writes them into other files or compares them."""
    AS_IN_GO = "as in Go"
    """Every number is a float, as Ollama reads them: -0 is not 0. For what Ollama shows or
    merges."""


class Contents(NamedTuple):
    """A model with everything small about it read; of several layers of a kind the last."""

    stored: StoredManifest
    config: Mapping[str, Any]
    template: str
    system: str
    licenses: tuple[str, ...]
    parameters: Mapping[str, Any]
    messages: tuple[Mapping[str, Any], ...]

    @property
    def details(self) -> dict[str, Any]:
        """What ``/api/show`` calls details."""
        origin = next((x.origin for x in self.stored.manifest.of_kind(MODEL) if x.origin), "")
        family = str(self.config.get("model_family", ""))
        return {
            "parent_model": origin,
            "format": self.config.get("model_format", ""),
            "family": family,
            "families": self.config.get("model_families") or None,
            "parameter_size": self.config.get("model_type", ""),
            "quantization_level": self.config.get("file_type", ""),
        }


def read_contents(
    blobs: BlobStore, stored: StoredManifest, numbers: Numbers = Numbers.AS_WRITTEN
) -> Contents:
    """Read a model's small layers.

    Raises :class:`DamagedError` for one that is gone, too long or not the JSON
    that its media type promises.
    """
    manifest = stored.manifest

    def texts(media_type: str) -> list[str]:
        return [read_text(blobs, layer) for layer in manifest.of_kind(media_type)]

    parameters, messages = manifest.of_kind(PARAMS), manifest.of_kind(MESSAGES)
    return Contents(
        stored,
        read_object(blobs, manifest.config),
        "".join((texts(TEMPLATE) or texts(PROMPT))[-1:]),
        "".join(texts(SYSTEM)[-1:]),
        tuple(texts(LICENSE)),
        read_object(blobs, parameters[-1], numbers) if parameters else {},
        _objects(blobs, messages[-1]) if messages else (),
    )


def read_text(blobs: BlobStore, layer: Layer, limit: int = MAX_SMALL) -> str:
    """The text of a layer; what is not UTF-8 in it becomes replacement characters."""
    return blobs.read(layer.digest, limit).decode("utf-8", "replace")


def read_object(
    blobs: BlobStore, layer: Layer, numbers: Numbers = Numbers.AS_WRITTEN
) -> Mapping[str, Any]:
    """The JSON object that a layer is; raises :class:`DamagedError` for anything else."""
    value = _json(blobs, layer, numbers)
    if not isinstance(value, dict):
        raise _not_json(layer, "object")
    return value


def _objects(blobs: BlobStore, layer: Layer) -> tuple[Mapping[str, Any], ...]:
    value = _json(blobs, layer, Numbers.AS_WRITTEN)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _not_json(layer, "array of objects")
    return tuple(value)


def _json(blobs: BlobStore, layer: Layer, numbers: Numbers) -> Any:
    parse_int = float if numbers is Numbers.AS_IN_GO else int
    with suppress(ValueError, RecursionError):
        return json.loads(blobs.read(layer.digest, MAX_SMALL), parse_int=parse_int)
    return None


def _not_json(layer: Layer, what: str) -> DamagedError:
    return DamagedError(
        f"blob {layer.digest} ({layer.kind}) is not a JSON {what}",
        hint="build or pull the model again",
    )


@contextmanager
def open_layer(blobs: BlobStore, layer: Layer, name: str) -> Iterator[GGUFFile]:
    """A layer of weights, opened as GGUF under a model's name.

    Raises :class:`DamagedError` for one that is not there whole, :class:`FormatError`
    for one that is not GGUF.
    """
    from mbuild.gguf.reader import open_gguf

    if not blobs.has(layer.digest, layer.size):
        raise DamagedError(
            f"{name}: its {layer.kind} {layer.digest} is missing or cut short",
            hint="mbuild verify reports how to repair it",
        )
    with open_gguf(blobs.local_path(layer.digest), name=f"{name} ({layer.kind})") as file:
        yield file


def grouped(blobs: BlobStore, layers: Sequence[Layer], name: str) -> list[tuple[Layer, ...]]:
    """Layers of weights of one type, those that are the shards of one model together.

    How many shards there are stands in the header of the first. A layer that cannot be read
    is taken for a whole file.
    """
    from mbuild.gguf.shards import shard_count

    if len(layers) < 2:
        return [(layer,) for layer in layers]
    found: list[tuple[Layer, ...]] = []
    left = tuple(layers)
    while left:
        count = 1
        with suppress(SourceError, StoreError), open_layer(blobs, left[0], name) as file:
            count = shard_count(file)
        found.append(left[:count])
        left = left[count:]
    return found


@contextmanager
def open_group(blobs: BlobStore, layers: Sequence[Layer], name: str) -> Iterator[GGUFWeights]:
    """A layer of weights or all shards of a model, opened as one; raises as :func:`open_layer`."""
    from mbuild.gguf.weights import GGUFWeights

    allow_open_files(len(layers))
    with ExitStack() as stack:
        yield GGUFWeights([stack.enter_context(open_layer(blobs, layer, name)) for layer in layers])


def weights_in(
    store: Store, stored: StoredManifest, media_type: str
) -> Iterator[tuple[tuple[Layer, ...], GGUFWeights]]:
    """The weights of one kind, opened one after another; raises as :func:`open_layer`."""
    name = str(stored.name)
    for group in grouped(store.blobs, stored.manifest.of_kind(media_type), name):
        with open_group(store.blobs, group, name) as weights:
            yield group, weights


def tensor_rows(weights: GGUFWeights) -> list[dict[str, Any]]:
    """One row a tensor, in file order: name, type, shape (fastest first, as in the file), bytes.

    ``offset`` is from the start of the file, ``shard`` which of several files that is, from 1.
    """
    several = len(weights.files) > 1
    return [
        {
            "name": tensor.name,
            "type": tensor.type.name,
            "shape": list(tensor.dims),
            "bytes": tensor.nbytes,
            "offset": tensor.offset,
            **({"shard": weights.shard(tensor) + 1} if several else {}),
        }
        for tensor in weights.tensors
    ]


def metadata_rows(file: GGUFWeights) -> list[dict[str, Any]]:
    """One row a metadata key, in file order: key, type, value.

    Of an array only the first items are given, with ``count``.
    """
    return [metadata_row(entry) for entry in file.kvs.values()]


def metadata_row(entry: RawKV) -> dict[str, Any]:
    """A metadata entry for people and JSON."""
    row: dict[str, Any] = {"key": entry.key, "type": type_name(entry)}
    if entry.element is None:
        return {**row, "value": entry.value}
    return {**row, "value": entry.value[:SHOWN], "count": entry.count}


def type_name(entry: RawKV) -> str:
    """``UINT32``, or ``STRING[32000]`` for an array."""
    return entry.type.name if entry.element is None else f"{entry.element.name}[{entry.count}]"


def shown_value(entry: RawKV) -> str:
    """A metadata value on one line."""
    row = metadata_row(entry)
    text = json.dumps(row["value"], ensure_ascii=False)
    if row.get("count", 0) > SHOWN:
        text = f"{text[:-1]}, ...]"
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
