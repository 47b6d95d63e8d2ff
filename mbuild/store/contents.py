"""What a stored model holds: its small layers read, its GGUF headers opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import DamagedError, StoreError
from mbuild.store.manifest import (
    LICENSE,
    MESSAGES,
    PARAMS,
    PROMPT,
    SYSTEM,
    TEMPLATE,
)

if TYPE_CHECKING:
    from mbuild.gguf.model import RawKV
    from mbuild.gguf.reader import GGUFFile
    from mbuild.store import Layer, Store, StoredManifest

MAX_SMALL = 64 << 20
"""Bytes of the largest layer that is read whole: anything but weights."""

SHOWN = 8
"""Items of an array that are shown."""
_SHOWN_TEXT = 160
"""Characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A model with everything small about it read; of several layers of a kind the last."""

    stored: StoredManifest
    config: Mapping[str, Any]
    template: str
    system: str
    licenses: tuple[str, ...]
    parameters: Mapping[str, Any]
    messages: tuple[Any, ...]


@contextmanager
def reading(store: Store) -> Iterator[None]:
    """Hold the store as builders do, so that nobody removes what is being read.

    A store that cannot be written needs no lock: there nobody can remove anything.
    """
    held = False
    if store.root.is_dir():
        with suppress(StoreError):
            store.begin()
            held = True
    try:
        yield
    finally:
        if held:
            store.end()


def read_contents(store: Store, stored: StoredManifest) -> Contents:
    """Read a model's small layers.

    Raises :class:`DamagedError` for one that is gone, too long or not the JSON
    that its media type promises.
    """
    manifest = stored.manifest

    def texts(media_type: str) -> list[str]:
        return [_text(store, layer) for layer in manifest.of_kind(media_type)]

    def last(media_type: str, default: Any) -> Any:
        layers = manifest.of_kind(media_type)
        return _json(store, layers[-1], type(default)) if layers else default

    return Contents(
        stored,
        _json(store, manifest.config, dict),
        "".join((texts(TEMPLATE) or texts(PROMPT))[-1:]),
        "".join(texts(SYSTEM)[-1:]),
        tuple(texts(LICENSE)),
        last(PARAMS, {}),
        tuple(last(MESSAGES, [])),
    )


def _text(store: Store, layer: Layer) -> str:
    return store.blobs.read(layer.digest, MAX_SMALL).decode("utf-8", "replace")


def _json(store: Store, layer: Layer, kind: type) -> Any:
    with suppress(ValueError, RecursionError):
        value = json.loads(store.blobs.read(layer.digest, MAX_SMALL))
        if isinstance(value, kind):
            return value
    what = "object" if kind is dict else "array"
    raise DamagedError(
        f"blob {layer.digest} ({layer.kind}) is not a JSON {what}",
        hint="build or pull the model again",
    )


def open_layers(
    store: Store, stored: StoredManifest, media_type: str
) -> Iterator[tuple[Layer, GGUFFile]]:
    """The layers of one kind, opened as GGUF, one after another.

    Raises :class:`FormatError` for one that is not GGUF and
    :class:`DamagedError` for one that is not there.
    """
    from mbuild.gguf.reader import open_gguf

    for layer in stored.manifest.of_kind(media_type):
        path = store.blobs.path(layer.digest)
        if not store.blobs.has(layer.digest, layer.size):
            raise DamagedError(
                f"{stored.name}: its blob {layer.digest} is missing or cut short",
                hint="mbuild verify reports how to repair it",
            )
        with open_gguf(path, name=f"{stored.name} ({layer.kind})") as file:
            yield layer, file


def tensor_rows(file: GGUFFile) -> list[dict[str, Any]]:
    """One row a tensor, in file order: name, type, shape (fastest first, as in the file), bytes.

    ``offset`` is from the start of the file.
    """
    return [
        {
            "name": tensor.name,
            "type": tensor.type.name,
            "shape": list(tensor.dims),
            "bytes": tensor.nbytes,
            "offset": tensor.offset,
        }
        for tensor in file.tensors
    ]


def metadata_rows(file: GGUFFile) -> list[dict[str, Any]]:
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
