"""The models of a store: list, look at, copy and remove them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild.core import gojson
from mbuild.core.errors import (
    DamagedError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
    StoreError,
)
from mbuild.language.formatter import quote
from mbuild.language.instructions import ROLES
from mbuild.language.parameters import PARAMETERS, Kind
from mbuild.store.absent import about_absent
from mbuild.store.manifest import (
    ADAPTER,
    DRAFT,
    LICENSE,
    MESSAGES,
    MODEL,
    PARAMS,
    PROJECTOR,
    PROMPT,
    SYSTEM,
    TEMPLATE,
    Manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.gguf.facts import ModelFacts
    from mbuild.store import Layer, Store, StoredManifest

_MAX_TEXT = 64 << 20
_INT_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model with everything small about it read; weights stay on disk."""

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


def find(store: Store, name: ModelName) -> StoredManifest:
    """A model's manifest; raises :class:`NameNotFoundError` with a hint, where there is one."""
    try:
        return store.manifests.read(name)
    except NameNotFoundError as error:
        raise NameNotFoundError(error.message, hint=about_absent(store, str(name))) from None


def list_models(store: Store, start: str = "") -> tuple[list[StoredManifest], list[DamagedError]]:
    """All models, last changed first, and what could not be read.

    With ``start`` only the models whose names begin so, in any case, as ``ollama list`` does.
    """
    models: list[StoredManifest] = []
    damaged: list[DamagedError] = []
    for item in store.list():
        if isinstance(item, DamagedError):
            damaged.append(item)
        elif str(item.name).lower().startswith(start.lower()):
            models.append(item)
    models.sort(key=lambda stored: (-stored.modified_ns, str(stored.name)))
    return models, damaged


def view(store: Store, name: ModelName) -> ModelView:
    """Read everything small about a model."""
    stored = find(store, name)
    manifest = stored.manifest

    def texts(media_type: str) -> tuple[str, ...]:
        return tuple(_text(store, layer) for layer in manifest.of_kind(media_type))

    def last(media_type: str, default: Any) -> Any:
        layers = manifest.of_kind(media_type)
        return _json(store, layers[-1]) if layers else default

    return ModelView(
        stored,
        _object(_json(store, manifest.config)),
        "".join((texts(TEMPLATE) or texts(PROMPT))[-1:]),
        "".join(texts(SYSTEM)[-1:]),
        texts(LICENSE),
        _object(last(PARAMS, {})),
        tuple(_object(message) for message in last(MESSAGES, [])),
    )


def modelfile_of(store: Store, model: ModelView) -> str:
    """A Modelfile that builds the same layers again, from the store's own blobs.

    What the language cannot say (a message of another role, a parameter that
    Ollama no longer knows) stands in it as a comment.
    """
    lines = [f"# Modelfile of {model.stored.name}, written by mbuild show --modelfile"]
    manifest = model.stored.manifest
    for word, media_type in (
        ("FROM", MODEL),
        ("FROM", PROJECTOR),
        ("ADAPTER", ADAPTER),
        ("DRAFT", DRAFT),
    ):
        for layer in manifest.of_kind(media_type):
            lines.append(f"{word} {_blob(store, layer)}")
    if model.template:
        lines.append(f"TEMPLATE {quote(model.template)}")
    if model.system:
        lines.append(f"SYSTEM {quote(model.system)}")
    for key in ("renderer", "parser", "requires"):
        if model.config.get(key):
            lines.append(f"{key.upper()} {quote(str(model.config[key]))}")
    for key, value in model.parameters.items():
        lines += _parameter(key, value)
    lines += [f"LICENSE {quote(text)}" for text in model.licenses]
    lines += [_message(message) for message in model.messages]
    return "\n".join(lines) + "\n"


def _blob(store: Store, layer: Layer) -> str:
    """A layer's file as a Modelfile names it: by its path, else by its digest."""
    try:
        return quote(os.path.abspath(store.blobs.path(layer.digest)))
    except ModelfileError:  # a path that is no text
        return f"@{layer.digest}"


def _parameter(name: str, value: Any) -> list[str]:
    """PARAMETER lines that come to the same stored value, or a comment."""
    kind = PARAMETERS.get(name)
    values = value if isinstance(value, list) else [value]
    if kind is Kind.TEXTS and all(isinstance(text, str) for text in values):
        return [f"PARAMETER {name} {quote(text)}" for text in values]
    if kind is Kind.BOOL and isinstance(value, bool):
        return [f"PARAMETER {name} {str(value).lower()}"]
    if kind is Kind.INT and _is_number(value) and float(value).is_integer():
        # The greatest 64-bit integer is stored as the double above it.
        return [f"PARAMETER {name} {max(-_INT_LIMIT, min(int(value), _INT_LIMIT - 1))}"]
    if kind is Kind.FLOAT and _is_number(value):
        return [f"PARAMETER {name} {gojson.dumps(float(value)).decode().strip()}"]
    return [f"# PARAMETER {name} {json.dumps(value)}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _message(message: Mapping[str, Any]) -> str:
    role, content = message.get("role"), message.get("content")
    if role in ROLES and isinstance(content, str) and set(message) == {"role", "content"}:
        return f"MESSAGE {role} {quote(content)}"
    return f"# MESSAGE {json.dumps(message, sort_keys=True)}"


def copy(store: Store, source: ModelName, target: ModelName) -> Digest | None:
    """Give a model a second name, in place of any model that had it.

    ``source`` can also be the beginning of an id, at least four digits: that of a model
    of the store, or of one that was overwritten or removed and is still in the cache.
    Returns the id of the model that ``target`` named before, if that was another one.
    """
    with _using(store):
        data = _manifest_of(store, source)
        stored = store.manifests.resolve(target)
        if data == store.manifests.read_bytes(stored):
            return None
        return store.replace(stored, data)


_ID_DIGITS = re.compile(r"[0-9a-f]{4,64}")


def _manifest_of(store: Store, source: ModelName) -> bytes:
    """The manifest of a model by its name, else by its id; its blobs are brought back."""
    try:
        data = store.manifests.read_bytes(find(store, source).name)
    except NameNotFoundError:
        start = source.model
        if str(source) != f"{start}:latest" or not _ID_DIGITS.fullmatch(start):
            raise
        found = store.earlier(start)
        if not found:
            raise
        if len(found) > 1:
            ids = ", ".join(sorted(identity[:12] for identity in found))
            raise NameNotFoundError(
                f"{len(found)} models have ids that begin with {start}: {ids}",
                hint="give more of its digits",
            ) from None
        ((identity, data),) = found.items()
        _bring_back(store, identity, data)
    if data is None:  # removed since
        raise NameNotFoundError(f"model {str(source)!r} not found")
    return data


def _bring_back(store: Store, identity: str, data: bytes) -> None:
    """Give the blobs of an earlier model their names again, or say which are gone."""
    for layer in Manifest.decode(data, f"the manifest of {identity[:12]}").blobs():
        if not store.bring(layer.digest, layer.size):
            raise NameNotFoundError(
                f"the model {identity[:12]} cannot be restored: its {layer.kind} layer"
                f" {layer.digest.short} was removed from the cache",
                hint="build it again",
            )


class Removed(NamedTuple):
    """A model that was removed; ``kept`` bytes of it stay in the cache, ``freed`` bytes went.

    ``waiting`` bytes go when the builds that run in the store have ended.
    """

    name: ModelName
    id: Digest | None
    kept: int
    freed: int
    waiting: int


def remove(store: Store, names: Sequence[ModelName], *, purge: bool = False) -> list[Removed]:
    """Remove models, all or none of them when a name is unknown, and what only they used.

    What a build made stays in the cache, within its budget, unless ``purge`` is set.
    """
    found: list[tuple[ModelName, Digest | None]] = []
    for name in names:
        try:
            stored = find(store, name)
            found.append((stored.name, stored.id))
        except DamagedError:
            found.append((store.manifests.resolve(name), None))
    layers: list[tuple[ModelName, Digest | None, dict[Digest, int]]] = []
    with _using(store):
        for name, identity in found:
            digests = store.remove(name)
            layers.append((name, identity, {d: store.blobs.size(d) or 0 for d in digests}))
    gone: set[Digest] = set()
    removed = []
    for name, identity, sizes in layers:
        only_its = {d: size for d, size in sizes.items() if d not in gone}
        gone |= only_its.keys()
        removed.append(_account(store, name, identity, only_its, purge))
    return removed


def _account(
    store: Store, name: ModelName, identity: Digest | None, sizes: Mapping[Digest, int], purge: bool
) -> Removed:
    """Where the bytes of a removed model are now; with ``purge`` they are kept no longer."""
    waiting = set(store.database.garbage())
    unnamed = [d for d in sizes if store.blobs.size(d) is None]
    kept = store.kept.size_of(unnamed)
    total = sum(sizes[digest] for digest in unnamed)
    if purge:
        store.kept.remove([*unnamed, *(digest for digest in sizes if digest in waiting)])
        kept = 0
    left = sum(size for digest, size in sizes.items() if digest in waiting)
    return Removed(name, identity, kept, total - kept, left)


@contextmanager
def _using(store: Store) -> Iterator[None]:
    store.begin()
    try:
        yield
    finally:
        store.end()


def _text(store: Store, layer: Layer) -> str:
    return store.blobs.read(layer.digest, _MAX_TEXT).decode("utf-8", "replace")


def _json(store: Store, layer: Layer) -> Any:
    with suppress(ValueError, RecursionError):
        # Go reads every number of a params layer as a double: -0 is not 0.
        parse_int = float if layer.media_type == PARAMS else int
        return json.loads(store.blobs.read(layer.digest, _MAX_TEXT), parse_int=parse_int)
    raise DamagedError(f"blob {layer.digest} is not JSON", hint="build or pull the model again")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StoreError(f"{str(value)[:40]!r} is not a JSON object")
    return value


def model_facts(store: Store, model: ModelView) -> dict[str, str]:
    """Architecture, size and the like for people, from the config and the weights' header."""
    details = model.details
    facts = {
        "architecture": details["family"],
        "parameters": details["parameter_size"],
        "quantization": details["quantization_level"],
    }
    header = _header(store, model)
    if header is not None:
        facts["context length"] = str(header.context_length or "")
        facts["embedding length"] = str(header.embedding_length or "")
    for key in ("renderer", "parser", "requires"):
        facts[key] = str(model.config.get(key, ""))
    return {key: value for key, value in facts.items() if value}


def as_json(store: Store, model: ModelView) -> dict[str, Any]:
    """The model as ``mbuild show --json`` prints it; keys as in ``/api/show`` where it has them."""
    header = _header(store, model)
    return {
        "name": str(model.stored.name),
        "id": model.stored.id.hex,
        "size": model.stored.size,
        "details": model.details,
        "context_length": header.context_length if header else None,
        "embedding_length": header.embedding_length if header else None,
        "capabilities": list(header.capabilities) if header else [],
        "parameters": {key: _plain(value) for key, value in model.parameters.items()},
        "template": model.template,
        "system": model.system,
        "messages": [dict(message) for message in model.messages],
        "license": list(model.licenses),
        "config": dict(model.config),
        "layers": [layer.to_json() for layer in model.stored.manifest.layers],
    }


def _plain(value: Any) -> Any:
    """A number as an int where it is whole."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _INT_LIMIT
    return int(value) if whole else value


def _header(store: Store, model: ModelView) -> ModelFacts | None:
    """What the weights' own header says; None for a model that has no GGUF."""
    from mbuild.gguf.facts import describe
    from mbuild.gguf.reader import open_gguf

    for layer in model.stored.manifest.of_kind(MODEL):
        with suppress(SourceError), open_gguf(store.blobs.path(layer.digest)) as file:
            return describe(file)
    return None
