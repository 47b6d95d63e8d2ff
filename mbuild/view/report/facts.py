"""What there is to say of a build's models: layers and who shares them, tensors, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import Result
from mbuild.build.steps.manifest import Assembled
from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, MbuildError
from mbuild.core.values import NamedTuple
from mbuild.store import Layer, Manifest
from mbuild.store.contents import grouped, open_group, read_text
from mbuild.store.media import GGUF, MEDIA_TYPES, MESSAGES, PARAMS
from mbuild.store.records import STEP

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store import Store

MAX_TEXT_BYTES = 1 << 20
"""Of a longer text only its size is said."""


class ModelPart(NamedTuple):
    """One model of a build, by all its names.

    ``id`` is None for a model that was not finished. ``now`` says for each name
    what the store has under it today. ``manifest`` is None where nobody knows
    it any more.
    """

    names: tuple[str, ...]
    id: Digest | None
    now: Mapping[str, str]
    manifest: Manifest | None


class SharedLayer(NamedTuple):
    """A layer, whether its blob is in the store, and the other models that name it."""

    layer: Layer
    present: bool
    users: tuple[str, ...]


class TypeRow(NamedTuple):
    """The tensors of one type: how many, their values, their bytes, and the part of all bytes."""

    type: str
    tensors: int
    values: int
    size: int
    part: float


class TensorRow(NamedTuple):
    """One tensor; ``shape`` as in GGUF, the fastest dimension first."""

    name: str
    type: str
    shape: str
    size: int


class LayerTensors(NamedTuple):
    """The tensors of one GGUF layer, or of a split model's layers, of which it is the first."""

    layer: Layer
    architecture: str
    types: tuple[TypeRow, ...]
    tensors: tuple[TensorRow, ...]


class Settings(NamedTuple):
    """What a model has beside its weights; ``names`` are all models for which it is the same."""

    names: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, str], ...]


def models_of(record: BuildRecord, store: Store) -> tuple[ModelPart, ...]:
    """The models that a build made or was to make, in its order."""
    parts = []
    groups = record.names_by_step or ({-1: record.names} if record.names else {})
    for place, names in groups.items():
        identity = next((record.models[name] for name in names if name in record.models), None)
        now = {name: _now(name, record.models.get(name), store) for name in names}
        key = record.steps[place].key if place >= 0 else ""
        parts.append(ModelPart(names, identity, now, _manifest(names, identity, key, store)))
    return tuple(parts)


def _now(name: str, identity: Digest | None, store: Store) -> str:
    """What the store has under a name, compared with what the build gave it."""
    from mbuild.core.names import ModelName

    try:
        stored = store.manifests.read(ModelName.parse(name))
    except DamagedError:
        return "its manifest is damaged"
    except MbuildError:
        return "gone since" if identity else "not named"
    if identity is None:
        return f"not named; the store has an older {stored.id.short}"
    return "in the store" if stored.id == identity else f"replaced since by {stored.id.short}"


def _manifest(
    names: Sequence[str], identity: Digest | None, key: str, store: Store
) -> Manifest | None:
    """A model's manifest: from the cache, which keeps it when the model goes, or the store."""
    from mbuild.core.names import ModelName

    with suppress(MbuildError, ValueError, KeyError, TypeError):
        text = store.cache.get(STEP, key) if key else None
        if text is not None:
            return Assembled.of(Result.from_json(text)).manifest
    for name in names:
        with suppress(MbuildError):
            stored = store.manifests.read(ModelName.parse(name))
            if stored.id == identity:
                return stored.manifest
    return None


def users_of_layers(store: Store) -> dict[Digest, tuple[str, ...]]:
    """The names of the models that use each blob; what cannot be read is passed over."""
    found: dict[Digest, set[str]] = {}
    for item in store.list():
        if not isinstance(item, MbuildError):
            for layer in item.manifest.blobs():
                found.setdefault(layer.digest, set()).add(str(item.name))
    return {digest: tuple(sorted(names)) for digest, names in found.items()}


def layers_of(
    model: ModelPart, users: Mapping[Digest, tuple[str, ...]], store: Store
) -> tuple[SharedLayer, ...]:
    """The config and the layers of a model; its own names are no other models."""
    if model.manifest is None:
        return ()
    own = {name for name, now in model.now.items() if now == "in the store"}
    return tuple(
        SharedLayer(
            layer,
            store.blobs.has(layer.digest, layer.size),
            tuple(name for name in users.get(layer.digest, ()) if name not in own),
        )
        for layer in model.manifest.blobs()
    )


def weights_of(model: ModelPart, store: Store) -> tuple[LayerTensors, ...]:
    """The tensors of all weights that are still in the store; headers are read, no weights."""
    found = []
    for media_type in GGUF if model.manifest else ():
        layers = model.manifest.of_kind(media_type) if model.manifest else ()
        for group in grouped(store.blobs, layers, "the model"):
            with (
                suppress(MbuildError, OSError),
                open_group(store.blobs, group, "the model") as weights,
            ):
                found.append(_tensors(group[0], weights))
    return tuple(found)


def _tensors(layer: Layer, weights: GGUFWeights) -> LayerTensors:
    from math import prod

    rows = [(t.name, t.type.name, t.dims, t.nbytes) for t in weights.tensors]
    sums: dict[str, tuple[int, int, int]] = {}
    for _, type_, dims, size in rows:
        count, values, total = sums.get(type_, (0, 0, 0))
        sums[type_] = count + 1, values + prod(dims), total + size
    everything = sum(size for _, _, size in sums.values()) or 1
    types = [TypeRow(name, *row, row[2] / everything) for name, row in sums.items()]
    types.sort(key=lambda row: (-row.size, row.type))
    tensors = tuple(
        TensorRow(name, type_, " × ".join(map(str, dims)), size) for name, type_, dims, size in rows
    )
    architecture = str(weights.get("general.architecture", ""))
    return LayerTensors(layer, architecture, tuple(types), tensors)


def settings_of(models: Sequence[ModelPart], store: Store) -> tuple[Settings, ...]:
    """Parameters, template, system message and the like; models that agree share one entry."""
    groups: dict[tuple[Any, Any], list[str]] = {}
    for model in models:
        if model.manifest is not None:
            value = _parameters(model.manifest, store), _texts(model.manifest, store)
            groups.setdefault(value, []).extend(model.names)
    return tuple(
        Settings(tuple(names), parameters, texts)
        for (parameters, texts), names in groups.items()
        if parameters or texts
    )


def _parameters(manifest: Manifest, store: Store) -> tuple[tuple[str, str], ...]:
    rows: list[tuple[str, str]] = []
    for layer in manifest.of_kind(PARAMS)[-1:]:
        with suppress(ValueError, RecursionError, AttributeError):
            for name, value in sorted(json.loads(_text(layer, store)).items()):
                values = value if isinstance(value, list) else [value]
                rows += ((name, json.dumps(item, ensure_ascii=False)) for item in values)
    return tuple(rows)


def _texts(manifest: Manifest, store: Store) -> tuple[tuple[str, str], ...]:
    rows = []
    for media_type, row in MEDIA_TYPES.items():
        for layer in manifest.of_kind(media_type) if row.title else ():
            text = _text(layer, store)
            rows.append((row.title, _conversation(text) if media_type == MESSAGES else text))
    return tuple(rows)


def _text(layer: Layer, store: Store) -> str:
    """A small layer's text, or in brackets why there is none."""
    if layer.size > MAX_TEXT_BYTES:
        return f"[{layer.size} bytes]"
    try:
        return read_text(store.blobs, layer, MAX_TEXT_BYTES)
    except (MbuildError, OSError):
        return "[no longer in the store]"


def _conversation(text: str) -> str:
    """Messages one a line, as far as they are messages."""
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        return "\n".join(f"{m.get('role')}: {m.get('content')}" for m in json.loads(text))
    return text
