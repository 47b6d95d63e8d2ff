"""``tags``, ``show``, ``copy``, ``delete`` and ``/v1/models``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.core.errors import NameNotFoundError, SourceError, StoreError, UsageError
from mbuild.core.values import replace
from mbuild.gguf.types import ValueType
from mbuild.language.gonumber import shortest_float32
from mbuild.models import library
from mbuild.server import shapes
from mbuild.server.catalogue import owner, timestamp
from mbuild.server.locking import PATIENCE_SECONDS
from mbuild.server.requests import model_name, parse_name, read_json
from mbuild.store.contents import grouped, open_group
from mbuild.store.media import MODEL, PROJECTOR

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.core.names import ModelName
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.server.service import Service
    from mbuild.store import Store
    from mbuild.store.contents import Contents

JSON_TYPE = "application/json; charset=utf-8"

DEFAULT_TEMPLATE = "{{ .Prompt }}"
"""What Ollama renders for a model without a template, and shows as its template."""


async def tags(service: Service, request: Request) -> Response:
    """The models, last changed first."""
    body = await to_thread.run_sync(service.catalogue.tags, service.store())
    return Response(body, media_type=JSON_TYPE)


async def show(service: Service, request: Request) -> Response:
    """Everything about one model; ``verbose`` adds long lists of its metadata."""
    fields = await read_json(request, shapes.SHOW)
    text = model_name(fields)
    if not text:
        raise UsageError("model is required")
    name = parse_name(text)
    answer = await to_thread.run_sync(_show, service, name, fields)
    return JSONResponse(answer, media_type=JSON_TYPE)


def _show(service: Service, name: ModelName, fields: Mapping[str, Any]) -> dict[str, Any]:
    store = service.store()
    try:
        view = library.view(store, name)
    except NameNotFoundError as error:
        raise NameNotFoundError(error.message) from None
    view = replace(view, system=str(fields.get("system") or view.system))
    answer: dict[str, Any] = {
        "license": "\n".join(view.licenses),
        "modelfile": library.modelfile_of(view, library.by_digest),
        "parameters": "\n".join(_parameter_lines(view)),
        "template": view.template or DEFAULT_TEMPLATE,
        "system": view.system,
        "messages": [
            {"role": message.get("role", ""), "content": message.get("content", "")}
            for message in view.messages
        ],
    }
    answer = {key: value for key, value in answer.items() if value}
    answer["details"] = view.details
    answer["model_info"] = {}
    answer |= _header(store, view, verbose=bool(fields.get("verbose")))
    answer["capabilities"] = list(service.catalogue.facts(store, view).capabilities)
    answer["modified_at"] = timestamp(view.stored.modified_ns)
    if view.config.get("requires"):
        answer["requires"] = str(view.config["requires"])
    return answer


def _parameter_lines(view: Contents) -> list[str]:
    """Name and value of each parameter, the names in a column of 30 as in Ollama."""
    lines = []
    for key, value in sorted(view.parameters.items()):
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{key:<30} {_shown(item)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def _header(store: Store, view: Contents, *, verbose: bool) -> dict[str, Any]:
    """``model_info``, ``tensors`` and ``projector_info``, from the headers of the weights."""
    found: dict[str, Any] = {}
    for kind, key in ((MODEL, "model_info"), (PROJECTOR, "projector_info")):
        layers, name = view.stored.manifest.of_kind(kind), str(view.stored.name)
        for group in grouped(store.blobs, layers, name)[:1]:
            opened = open_group(store.blobs, group, name)
            with suppress(SourceError, StoreError), opened as file:
                found[key] = model_info(file, verbose=verbose)
                if kind == MODEL:
                    found["tensors"] = [
                        {"name": t.name, "type": t.type.name, "shape": list(t.dims)}
                        for t in file.tensors
                    ]
    return found


def model_info(file: GGUFWeights, *, verbose: bool) -> dict[str, Any]:
    """A GGUF's metadata as JSON, sorted; lists only when asked for, else null."""
    from math import prod

    info: dict[str, Any] = {
        "general.parameter_count": sum(prod(tensor.dims) for tensor in file.tensors)
    }
    for key, entry in file.kvs.items():
        if entry.type is not ValueType.ARRAY:
            info[key] = _finite(entry.value)
        elif verbose:
            info[key] = [_finite(item) for item in entry.value]
        else:
            info[key] = None
    return dict(sorted(info.items()))


def _finite(value: Any) -> Any:
    """A value that JSON has: numpy's as Python's, floats in few digits, NaN as null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, float):
        return value
    return shortest_float32(value) if math.isfinite(value) else None


async def copy(service: Service, request: Request) -> Response:
    """Give a model a second name."""
    fields = await read_json(request, shapes.COPY)
    source, target = str(fields.get("source", "")), str(fields.get("destination", ""))
    names = (
        parse_name(source, f"source {json.dumps(source)} is invalid"),
        parse_name(target, f"destination {json.dumps(target)} is invalid"),
    )
    try:
        await service.locking.run(library.copy, service.store(PATIENCE_SECONDS), *names)
    except NameNotFoundError:
        raise NameNotFoundError(f'model "{source}" not found') from None
    return Response(status_code=200)


async def delete(service: Service, request: Request) -> Response:
    """Remove a model, and what only it used."""
    fields = await read_json(request, shapes.DELETE)
    text = model_name(fields)
    if not text:
        raise UsageError("model is required")
    name = parse_name(text, f"name {json.dumps(text, ensure_ascii=False)} is invalid")
    try:
        spelled = await service.locking.run(_removed, service.store(PATIENCE_SECONDS), name)
    except NameNotFoundError:
        raise NameNotFoundError(f"model '{text}' not found") from None
    if service.runner is not None:
        await service.runner.pool.unload(spelled)
    return Response(status_code=200)


def _removed(store: Store, name: ModelName) -> str:
    """Remove a model; its name as the store spelled it."""
    spelled = str(store.manifests.resolve(name))
    library.remove(store, [name])
    return spelled


def _openai(name: str, modified_ns: int, owned_by: str) -> dict[str, Any]:
    created = modified_ns // 1_000_000_000
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by}


async def v1_models(service: Service, request: Request) -> Response:
    """The models as OpenAI lists them."""
    entries = await to_thread.run_sync(service.catalogue.list, service.store())
    data = [_openai(str(e.name), e.modified_ns, owner(e.name)) for e in entries]
    return JSONResponse({"object": "list", "data": data})


async def v1_model(service: Service, request: Request) -> Response:
    """One model as OpenAI shows it."""
    text = request.path_params["model"]
    stored = await to_thread.run_sync(library.find, service.store(), parse_name(text))
    return JSONResponse(_openai(text, stored.modified_ns, owner(stored.name)))
