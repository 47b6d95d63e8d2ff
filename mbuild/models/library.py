"""The models of a store: list, look at, copy and remove them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.core import gojson
from mbuild.core.errors import (
    DamagedError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
    StoreError,
)
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import ROLES
from mbuild.language.parameters import PARAMETERS, ParameterType
from mbuild.language.quoting import quote
from mbuild.store.absent import about_absent
from mbuild.store.contents import Contents, Numbers, open_layer, read_contents
from mbuild.store.manifest import Manifest
from mbuild.store.media import GGUF, MEDIA_TYPES, MODEL, PROJECTOR

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.gguf.facts import ModelFacts
    from mbuild.store import Layer, Store, StoredManifest
    from mbuild.templates.abilities import InnerTemplate

_INT_LIMIT = 1 << 63


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


def view(store: Store, name: ModelName) -> Contents:
    """Read everything small about a model, numbers as Ollama reads them."""
    return read_contents(store.blobs, find(store, name), Numbers.AS_IN_GO)


Reference = Callable[["Layer"], str]
"""What a Modelfile calls a layer of weights; nothing where another's name stands for it too."""


def by_path(store: Store) -> Reference:
    """References to the store's own files: by their paths, else by their digests."""

    def reference(layer: Layer) -> str:
        try:
            return quote(os.path.abspath(store.blobs.path(layer.digest)))
        except ModelfileError:  # a path that is no text
            return by_digest(layer)

    return reference


def by_digest(layer: Layer) -> str:
    """A reference that the HTTP API and a build on any machine with the blob understand."""
    return f"@{layer.digest}"


Said = Callable[[str, str], str]
"""How a text is written behind an instruction's word, or behind the name of a stop text."""


def _quoted(word: str, value: str) -> str:
    return quote(value)


def modelfile_of(model: Contents, reference: Reference, said: Said = _quoted) -> str:
    """A Modelfile that builds the same layers again, from weights by ``reference``.

    What the language cannot say (a message of another role, a parameter that
    Ollama no longer knows) stands in it as a comment.
    """
    lines = [f"# Modelfile of {model.stored.name}, written by mbuild show --modelfile"]
    manifest = model.stored.manifest
    for media_type in GGUF:
        for layer in manifest.of_kind(media_type):
            if name := reference(layer):
                lines.append(f"{MEDIA_TYPES[media_type].word} {name}")
    if model.template:
        lines.append(f"TEMPLATE {said('template', model.template)}")
    if model.system:
        lines.append(f"SYSTEM {said('system', model.system)}")
    for key in ("renderer", "parser", "requires"):
        if model.config.get(key):
            lines.append(f"{key.upper()} {quote(str(model.config[key]))}")
    for key, value in model.parameters.items():
        lines += _parameter(key, value, said)
    lines += [f"LICENSE {said('license', text)}" for text in model.licenses]
    lines += [_message(message, said) for message in model.messages]
    return "\n".join(lines) + "\n"


def _parameter(name: str, value: Any, said: Said) -> list[str]:
    """PARAMETER lines that come to the same stored value, or a comment."""
    kind = PARAMETERS.get(name)
    values = value if isinstance(value, list) else [value]
    if kind is ParameterType.TEXTS and all(isinstance(text, str) for text in values):
        return [f"PARAMETER {name} {said(name, text)}" for text in values]
    if kind is ParameterType.BOOL and isinstance(value, bool):
        return [f"PARAMETER {name} {str(value).lower()}"]
    if kind is ParameterType.INT and _is_number(value) and float(value).is_integer():
        # The greatest 64-bit integer is stored as the double above it.
        return [f"PARAMETER {name} {max(-_INT_LIMIT, min(int(value), _INT_LIMIT - 1))}"]
    if kind is ParameterType.FLOAT and _is_number(value):
        return [f"PARAMETER {name} {gojson.dumps(float(value)).decode().strip()}"]
    return [f"# PARAMETER {name} {json.dumps(value)}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _message(message: Mapping[str, Any], said: Said) -> str:
    role, content = message.get("role"), message.get("content")
    if role in ROLES and isinstance(content, str) and set(message) == {"role", "content"}:
        return f"MESSAGE {role} {said('message', content)}"
    return f"# MESSAGE {json.dumps(message, sort_keys=True)}"


def copy(store: Store, source: ModelName, target: ModelName) -> Digest | None:
    """Give a model a second name, in place of any model that had it.

    ``source`` can also be the beginning of an id, at least four digits: that of a model
    of the store, or of one that was overwritten or removed and is still in the cache.
    Returns the id of the model that ``target`` named before, if that was another one.
    """
    with store.using():
        data = _manifest_of(store, source)
        stored = store.manifests.resolve(target)
        if data == store.manifests.read_bytes(stored):
            return None
        return store.replace(stored, data)


_ID_DIGITS = regex(r"[0-9a-f]{4,64}")


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
                hint="give more digits of the id",
            ) from None
        ((identity, data),) = found.items()
        _bring_back(store, identity, data)
    if data is None:  # removed since
        raise NameNotFoundError(f"model {str(source)!r} not found")
    return data


def _bring_back(store: Store, identity: str, data: bytes) -> None:
    """Give the blobs of an earlier model their names again, or say which are gone."""
    for layer in Manifest.decode(data, f"the manifest of {identity[:12]}").blobs():
        if not store.blobs.bring(layer.digest, layer.size):
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
    with store.using():
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


def model_facts(store: Store, model: Contents) -> dict[str, str]:
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
    facts["capabilities"] = ", ".join(_capabilities(store, model, header))
    for key in ("renderer", "parser", "requires"):
        facts[key] = str(model.config.get(key, ""))
    return {key: value for key, value in facts.items() if value}


def projector_facts(store: Store, model: Contents) -> dict[str, str]:
    """The first projector for people: what it is and what it sees or hears; empty for none."""
    from mbuild.gguf.facts import describe

    name = str(model.stored.name)
    for layer in model.stored.manifest.of_kind(PROJECTOR):
        with suppress(SourceError, StoreError), open_layer(store.blobs, layer, name) as file:
            known = describe(file)
            values = {
                key: [file.get(f"clip.{part}{key}") for part in ("", "vision.", "audio.")]
                for key in ("projector_type", "embedding_length", "projection_dim")
            }
            said = {
                key: " and ".join(dict.fromkeys(str(value) for value in found if value))
                for key, found in values.items()
            }
            facts = {
                "architecture": known.architecture,
                "type": said["projector_type"],
                "parameters": known.parameter_size,
                "quantization": known.file_type,
                "encoders": " and ".join(known.senses),
                "embedding length": said["embedding_length"],
                "dimensions": said["projection_dim"],
            }
            return {key: value for key, value in facts.items() if value}
    return {}


def as_json(store: Store, model: Contents) -> dict[str, Any]:
    """The model for ``mbuild show --format json``; keys as in ``/api/show`` where it has them."""
    header, projector = _header(store, model), projector_facts(store, model)
    return {
        "name": str(model.stored.name),
        "id": model.stored.id.hex,
        "size": model.stored.size,
        "details": model.details,
        "context_length": header.context_length if header else None,
        "embedding_length": header.embedding_length if header else None,
        "capabilities": _capabilities(store, model, header),
        **({"projector": projector} if projector else {}),
        "parameters": {key: _plain(value) for key, value in model.parameters.items()},
        "template": model.template,
        "system": model.system,
        "messages": [dict(message) for message in model.messages],
        "license": list(model.licenses),
        "config": dict(model.config),
        "layers": [layer.to_json() for layer in model.stored.manifest.layers],
    }


def _capabilities(store: Store, model: Contents, header: ModelFacts | None) -> list[str]:
    from mbuild.gguf.facts import describe
    from mbuild.templates.abilities import inner_template

    found = list(header.capabilities) if header else []
    for layer in model.stored.manifest.of_kind(PROJECTOR):
        opened = open_layer(store.blobs, layer, str(model.stored.name))
        with suppress(SourceError, StoreError), opened as file:
            found += describe(file).capabilities
    inner = inner_template((header.chat_template if header else None) or "")
    return list(capabilities_of(model, found, inner))


def capabilities_of(
    model: Contents, header: Iterable[str], inner: InnerTemplate
) -> tuple[str, ...]:
    """What a model can do: what its config says, then what shows in its files.

    ``header``: what the headers of the weights and of the projectors show.
    """
    from mbuild.templates.abilities import builtin_code, capabilities

    said = model.config.get("capabilities")
    declared = map(str, said) if isinstance(said, list) else ()
    builtin = builtin_code(model.config, model.template)
    found = capabilities(header, inner, model.template, builtin)
    return tuple(dict.fromkeys((*declared, *found)))


def _plain(value: Any) -> Any:
    """A number as an int where it is whole."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _INT_LIMIT
    return int(value) if whole else value


def _header(store: Store, model: Contents) -> ModelFacts | None:
    """What the weights' own header says; None for a model that has no GGUF."""
    from mbuild.gguf.facts import describe

    name = str(model.stored.name)
    for layer in model.stored.manifest.of_kind(MODEL):
        with suppress(SourceError, StoreError), open_layer(store.blobs, layer, name) as file:
            return describe(file)
    return None
