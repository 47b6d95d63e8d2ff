"""What is stored, as the page shows it: a model's layers, what models share, the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild import __version__
from mbuild.build.history import History
from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.models import library
from mbuild.models.disk import usage
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.server.catalogue import timestamp
from mbuild.server.requests import parse_name

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.core.digest import Digest
    from mbuild.core.names import ModelName
    from mbuild.server.service import Service
    from mbuild.store import Layer, Store

MOST_SHARED = 500
"""Layers of several models that are listed, the largest first."""


async def about(service: Service, request: Request) -> Response:
    """What the page says of the server: its version, and the types that it quantizes to."""
    types = [row.name for row in FILE_TYPES]
    closed = bool(service.policy.token)
    return JSONResponse({"version": __version__, "quantizations": types, "token": closed})


async def model(service: Service, request: Request) -> Response:
    """One model: its layers, and who else uses each."""
    name = parse_name(request.path_params["name"])
    return JSONResponse(await to_thread.run_sync(_model, service, name))


def _model(service: Service, name: ModelName) -> dict[str, Any]:
    from mbuild.view.report.facts import users_of_layers

    store = service.store()
    try:
        view = library.view(store, name)
    except NameNotFoundError as error:
        raise NameNotFoundError(error.message) from None
    users, stored = users_of_layers(store), view.stored
    rows = [_layer(layer, users, str(stored.name), store) for layer in stored.manifest.blobs()]
    sizes = {row["digest"]: (row["size"], bool(row["users"])) for row in rows if row["present"]}
    maker = History(store).maker_of(str(stored.name), stored.id)
    return {
        "name": str(stored.name),
        "id": stored.id.hex,
        "modified_at": timestamp(stored.modified_ns),
        "size": stored.size,
        "own": sum(size for size, shared in sizes.values() if not shared),
        "shared": sum(size for size, shared in sizes.values() if shared),
        "details": view.details,
        "capabilities": list(service.catalogue.facts(store, view).capabilities),
        "modelfile": library.modelfile_of(view, library.by_digest),
        "layers": rows,
        "build": maker.id if maker else "",
    }


def _layer(
    layer: Layer, users: dict[Digest, tuple[str, ...]], own: str, store: Store
) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "media_type": layer.media_type,
        "digest": str(layer.digest),
        "size": layer.size,
        "present": store.blobs.has(layer.digest, layer.size),
        "users": [name for name in users.get(layer.digest, ()) if name != own],
    }


async def layers(service: Service, request: Request) -> Response:
    """The layers that more than one model uses, the largest first."""
    return JSONResponse({"layers": await to_thread.run_sync(_shared, service.store())})


def _shared(store: Store) -> list[dict[str, Any]]:
    found: dict[Digest, tuple[Layer, set[str]]] = {}
    for item in store.list():
        if not isinstance(item, DamagedError):
            for layer in item.manifest.blobs():
                found.setdefault(layer.digest, (layer, set()))[1].add(str(item.name))
    rows = [
        {"kind": layer.kind, "digest": str(digest), "size": layer.size, "users": sorted(users)}
        for digest, (layer, users) in found.items()
        if len(users) > 1
    ]
    rows.sort(key=lambda row: (-int(str(row["size"])), str(row["digest"])))
    return rows[:MOST_SHARED]


async def disk(service: Service, request: Request) -> Response:
    """What ``mbuild du --format json`` prints."""
    found = await to_thread.run_sync(lambda: usage(service.store()).to_json())
    return JSONResponse({**found, "reason": service.scrub(found["reason"])})
