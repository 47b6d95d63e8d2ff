"""Files that arrived from another tool become a model, as if FROM had named them.

What Ollama's config says is taken from the GGUF files, a template from their chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mbuild.core import gojson
from mbuild.core.errors import DamagedError, MbuildError, RegistryError, StoreError
from mbuild.core.values import NamedTuple
from mbuild.gguf.facts import ModelFacts, ModelKind, chat_template_of, describe
from mbuild.gguf.shards import in_order, is_shard
from mbuild.gguf.weights import GGUFWeights
from mbuild.registry.dialects.roles import CHAT, PACKED
from mbuild.registry.dialects.unpacking import unpacked
from mbuild.registry.dialects.values import LocalManifest
from mbuild.store.contents import MAX_SMALL, Numbers, open_layer, read_object
from mbuild.store.manifest import CONFIG_KEYS, CONFIG_TYPE, LEAST_OLLAMA, PLATFORM, Layer, Manifest
from mbuild.store.media import (
    ADAPTER,
    GGUF,
    LICENSE,
    MESSAGES,
    MODEL,
    PARAMS,
    PROJECTOR,
    SYSTEM,
    TEMPLATE,
)

if TYPE_CHECKING:
    from mbuild.gguf.reader import GGUFFile
    from mbuild.store import Store

_LAYER_TYPES = {
    ModelKind.MODEL: MODEL,
    ModelKind.PROJECTOR: PROJECTOR,
    ModelKind.ADAPTER: ADAPTER,
}
_ORDER = (MODEL, PROJECTOR, ADAPTER, TEMPLATE, SYSTEM, LICENSE, PARAMS, MESSAGES)
"""As ``ollama create`` puts them."""


class _Weights(NamedTuple):
    """Layers of weights with their right types, what they are, and the model's own template."""

    layers: tuple[Layer, ...]
    facts: tuple[ModelFacts, ...]
    chat: Mapping[str, Any]


def adopt(parts: Sequence[Layer], context: int, name: str, store: Store) -> LocalManifest:
    """The manifest of a model with these layers, which the store has.

    Archives among them are unpacked. ``context`` is the size of the context that the model is
    to have, 0 for its own. Raises :class:`RegistryError` for weights that are not one model's
    and texts that are damaged.
    """
    made: list[Layer] = []
    left_out: list[str] = []
    try:
        files = list(_files(parts, name, store, made, left_out))
        manifest = _adopted(files, context, name, store, made)
    except MbuildError as error:
        store.discard(layer.digest for layer in made)
        here = isinstance(error, StoreError) and not isinstance(error, DamagedError)
        if here or isinstance(error, RegistryError):
            raise
        raise RegistryError(f"{name}: {error.message}", hint=error.hint) from None
    named = {layer.digest for layer in manifest.blobs()}
    if extra := {layer.digest for layer in made} - named:
        store.discard(extra)
    return LocalManifest(manifest.encode(), tuple(left_out))


def _files(
    parts: Sequence[Layer], name: str, store: Store, made: list[Layer], left_out: list[str]
) -> Iterator[Layer]:
    """The layers with archives' files in the place of archives, behind the others.

    ``made`` gets the blobs that were stored for them, ``left_out`` the names of other files.
    """
    yield from (part for part in parts if part.media_type != PACKED)
    for packed in parts:
        if packed.media_type == PACKED:
            for path, layer in unpacked(packed, store, name):
                if layer is None:
                    left_out.append(path)
                else:
                    made.append(layer)
                    yield layer


def _adopted(
    files: Sequence[Layer], context: int, name: str, store: Store, made: list[Layer]
) -> Manifest:
    """The manifest; ``made`` gets the blobs that were not there before."""
    weights = _weights([part for part in files if part.media_type in GGUF], name, store)
    texts = _texts([part for part in files if part.media_type not in GGUF], store)
    parameters = _parameters(texts.get(PARAMS, []), context, store)
    if TEMPLATE not in texts:
        text, stops = _template(texts.get(CHAT, []), weights.chat, store)
        if text:
            texts[TEMPLATE] = [_put(store, TEMPLATE, text.encode(), made)]
        parameters = {**({"stop": stops} if stops else {}), **parameters}
    texts.pop(CHAT, None)
    if parameters:
        data = gojson.dumps(parameters, sort_keys=True)
        texts[PARAMS] = [_put(store, PARAMS, data, made)]
    found = [*weights.layers, *(layer for layers in texts.values() for layer in layers)]
    ordered = sorted(found, key=lambda layer: _ORDER.index(layer.media_type))
    config = _put(store, CONFIG_TYPE, gojson.dumps(_config(weights)), made)
    return Manifest(config, tuple(ordered))


def _weights(layers: Sequence[Layer], name: str, store: Store) -> _Weights:
    """What each file of weights is, by its header; the shards of a model in their order."""
    with ExitStack() as stack:
        opened = [
            (layer, stack.enter_context(open_layer(store.blobs, layer, name))) for layer in layers
        ]
        shards = [pair for pair in opened if is_shard(pair[1])]
        whole = [pair for pair in opened if not is_shard(pair[1])]
        models: list[list[tuple[Layer, GGUFFile]]] = []
        if shards:
            by_file = {id(file): layer for layer, file in shards}
            ordered = in_order([file for _, file in shards])
            models.append([(by_file[id(file)], file) for file in ordered])
        found: list[Layer] = []
        others: list[ModelFacts] = []
        for layer, file in whole:
            facts = describe(file)
            if facts.kind is ModelKind.MODEL:
                models.append([(layer, file)])
            else:
                found.append(layer._replace(media_type=_LAYER_TYPES[facts.kind]))
                others.append(facts)
        if len(models) != 1:
            raise RegistryError(
                f"{name} holds {len(models) or 'no'} models in GGUF",
                hint="a model has the weights of one; projectors and adapters can come with it",
            )
        main = GGUFWeights([file for _, file in models[0]])
        own = [layer._replace(media_type=MODEL) for layer, _ in models[0]]
        chat = chat_template_of(models[0][0][1].model())
        return _Weights((*own, *found), (describe(main), *others), chat)


def _config(weights: _Weights) -> dict[str, Any]:
    """Ollama's config: the model's facts, and the families of all files."""
    model = weights.facts[0]
    families = dict.fromkeys(family for facts in weights.facts for family in facts.families)
    several = sum(layer.media_type == MODEL for layer in weights.layers) > 1
    values: dict[str, Any] = {
        "model_format": "gguf",
        "model_family": model.architecture,
        "model_families": list(families),
        "model_type": model.parameter_size,
        "file_type": model.file_type,
        "requires": LEAST_OLLAMA if several else "",
        **PLATFORM,
    }
    return {key: values[key] for key in CONFIG_KEYS if values.get(key)}


def _texts(layers: Sequence[Layer], store: Store) -> dict[str, list[Layer]]:
    """The other layers by their types; of all but licenses the last counts."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        before = found.get(layer.media_type, []) if layer.media_type == LICENSE else []
        found[layer.media_type] = [*before, layer]
    return found


def _parameters(layers: Sequence[Layer], context: int, store: Store) -> dict[str, Any]:
    """What the file of parameters says, and the size of the context."""
    given = {"num_ctx": context} if context else {}
    if not layers:
        return given
    return {**given, **read_object(store.blobs, layers[-1], Numbers.AS_IN_GO)}


def _template(
    chats: Sequence[Layer], own: Mapping[str, Any], store: Store
) -> tuple[str, list[str]]:
    """The Go template that says what a Jinja template says, and where generation then stops."""
    from mbuild.templates.detect import detect

    given = dict(own)
    if chats:
        data = store.blobs.read(chats[-1].digest, MAX_SMALL)
        given = {"bos": "", "eos": "", "adds_bos": True, **given}
        given["text"] = data.decode("utf-8", "replace")
    if not given:
        return "", []
    found = detect(given["text"], given["bos"], given["eos"], adds_bos=given["adds_bos"])
    return (found.template, list(found.stop)) if found else ("", [])


def _put(store: Store, media_type: str, data: bytes, made: list[Layer]) -> Layer:
    blob = store.blobs.put(data)
    layer = Layer(media_type, blob.digest, blob.size)
    if not blob.existed:
        made.append(layer)
    return layer
