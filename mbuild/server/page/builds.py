"""Builds over HTTP: list, look at, start, stop, and the report and the graph of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import HTMLResponse, JSONResponse, Response

from mbuild.build.underway import RUNNING, builds_underway
from mbuild.core.errors import NameNotFoundError
from mbuild.server import shapes
from mbuild.server.building import begin
from mbuild.server.create import read_creation
from mbuild.server.page.assets import GUARDS
from mbuild.server.page.places import modelfile_of, without_places
from mbuild.server.page.records import details, line
from mbuild.server.requests import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service

REPORT_SECONDS = 1800
"""How long the address of a report is good, at least; at most twice as long."""

REPORT_PATH = "/api/mbuild/builds/{id}/report"
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A report holds other people's texts: it runs nothing, loads nothing and is of no origin."""


async def index(service: Service, request: Request) -> Response:
    """The builds that run, and the last ones of the log."""
    own = [build.summary() for build in service.board.all()]
    return JSONResponse(await to_thread.run_sync(listed, service, own))


async def show(service: Service, request: Request) -> Response:
    """Everything about one build, and its graph."""
    identity = request.path_params["id"]
    own = service.board.get(identity)
    state = own.details() if own is not None else None
    build = await to_thread.run_sync(described, service, identity, state)
    graph = await to_thread.run_sync(drawn, service, identity)
    return JSONResponse({"build": build, "graph": graph})


async def start(service: Service, request: Request) -> Response:
    """Build a model, as ``/api/create`` does, and go on when the client goes away.

    Its Modelfile may name the request's files: ``FROM ./tiny.gguf``, ``FROM ./folder``.
    """
    fields = await read_json(request, shapes.CREATE)
    reading = partial(read_creation, fields, service.store(), by_name=True)
    creation = await to_thread.run_sync(reading)
    build = begin(service, creation)
    build.job.keep()
    return JSONResponse({"id": build.id}, 202)


async def stop(service: Service, request: Request) -> Response:
    """Stop a build of this server, as Ctrl-C stops one; what it finished is kept."""
    build = service.board.get(request.path_params["id"])
    if build is None or build.job.done:
        raise NameNotFoundError(
            "this server runs no such build",
            hint="a build of the command line is stopped where it runs, with Ctrl-C",
        )
    build.job.cancel()
    service.board.changed()
    return JSONResponse(build.summary(), 202)


async def report(service: Service, request: Request) -> Response:
    """The page that ``mbuild report`` writes, without this machine's folders."""
    text = await to_thread.run_sync(_report, service, request.path_params["id"])
    guards = {**GUARDS, "Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(text, headers=guards)


def may_read_report(service: Service, request: Request) -> bool:
    """Whether the address of a report has the permission in it: a new tab sends no token."""
    query = request.query_params
    ends, signature = query.get("expires", ""), query.get("signature", "")
    return service.tokens.is_signed(request.url.path, ends, signature)


# What is answered, made outside of the event loop.

State = Mapping[str, Any]


def listed(service: Service, own: Sequence[State]) -> dict[str, Any]:
    """Builds that run here and in other processes, and past ones; the newest first in each.

    ``own`` are the summaries of this server's.
    """
    store = service.store()
    past = service.past.rows(store, service.scrub)
    logged, ours = {row["id"] for row in past}, {row["id"] for row in own}
    runs = {row["id"] for row in own if row["here"]}  # one may be in the log and still tidy up
    elsewhere = [
        line(record, service.scrub)
        for record in builds_underway(store)
        if record.id not in ours | logged
    ]
    unlogged = [row for row in own if not row["here"] and row["id"] not in logged]
    return {
        "running": [*(row for row in own if row["here"]), *elsewhere],
        "past": [*unlogged, *(row for row in past if row["id"] not in runs)],
    }


def described(service: Service, identity: str, own: State | None) -> dict[str, Any]:
    """A build as its own page shows it; raises :class:`NameNotFoundError`.

    ``own`` is what this server knows of it, if it is one of its builds.
    """
    record = service.past.find(service.store(), identity)
    if record is None and own is None:
        raise unknown(identity)
    found: dict[str, Any] = {"of": [], "options": [], "models": [], "log": [], "progress": {}}
    if record is not None:
        found |= details(without_places(record, service.scrub))
    runs = own is not None and own["here"]
    ended = record is not None and record.result != RUNNING and not runs
    if ended:
        found["log"] = own["log"] if own is not None else []
    else:
        found |= own or {}
    return {**found, "report": report_address(service, identity) if ended else ""}


def drawn(service: Service, identity: str) -> list[Any] | None:
    """The graph of a build, as a tree of elements; None before its steps are known."""
    from mbuild.view.picture.tree import tree
    from mbuild.view.report import picture_of_build

    record = service.past.find(service.store(), identity)
    if record is None or not record.steps:
        return None
    return tree(picture_of_build(without_places(record, service.scrub)))


def report_address(service: Service, identity: str) -> str:
    """Where the report of a build is read; with a token the address is good for a while only.

    It stays the same for half of that time, so that a page that shows it is not told of another
    one at every look.
    """
    path = REPORT_PATH.replace("{id}", identity)
    if not service.policy.token:
        return path
    ends = (int(time.time()) // REPORT_SECONDS + 2) * REPORT_SECONDS
    return service.tokens.signed(path, ends)


def _report(service: Service, identity: str) -> str:
    from mbuild.view.report.page import page

    store = service.store()
    record = service.past.find(store, identity)
    if record is None or record.result == RUNNING:
        raise unknown(identity)
    text = modelfile_of(record, store, service.scrub)
    return page(without_places(record, service.scrub), store, text)


def unknown(identity: str) -> NameNotFoundError:
    """The error for a build that nobody knows."""
    return NameNotFoundError(f"no build {identity[:40]!r} runs here or is in the log")
