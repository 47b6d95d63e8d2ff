"""What changes, as it changes: lines of JSON for a page that stays open.

Each line has the whole new state of one thing, so a reader that is slow, or that misses some, is
right again with the next one, and nothing waits in a queue for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from mbuild.core.errors import BusyError, NameNotFoundError, UsageError
from mbuild.server.page.builds import described, drawn, listed
from mbuild.server.stream import HEARTBEAT_SECONDS, Line
from mbuild.server.streaming import LineStream

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.server.service import Service

LEAST_SECONDS = 0.25
"""Between two looks: what happens faster nobody reads."""

LOOK_SECONDS = 1.0
"""How often other processes' builds and the models are looked at."""

WATCHERS = 64
"""Pages that are told of changes at once; each looks at the store every second."""

LONGEST = 86400
"""Seconds that one answer goes on at most."""

State = Mapping[str, Any]


async def watch(service: Service, request: Request) -> Response:
    """Lines with ``builds`` and ``models``; for ``?build=ID`` that ``build`` and its ``graph``.

    Without ``?seconds=N`` it is what is true now; with it what changes in so many seconds follows.
    """
    if service.board.watchers >= WATCHERS:
        raise BusyError(f"{WATCHERS} pages are open already", hint="close one")
    query = request.query_params
    lines = _lines(service, query.get("build", ""), _seconds(query.get("seconds", "0")))
    return LineStream(service, await anext(lines, {}), lines)


def _seconds(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(int(text), LONGEST)
    raise UsageError(f"'seconds' is {text[:20]!r}", hint="give a whole number")


async def _lines(service: Service, identity: str, seconds: int) -> AsyncGenerator[Line, None]:
    """Each thing when it is not what it was; a sign of life when nothing happens for long."""
    board, last, end = service.board, 0.0, time.monotonic() + seconds
    before: dict[str, Any] = {}
    board.watchers += 1
    try:
        while not board.closed:
            looked, seen = time.monotonic(), board.changes
            for name, value in (await _look(service, identity, before)).items():
                if name not in before or before[name] != value:
                    before[name], last = value, looked
                    yield {name: value, "now": _now()}
            if looked - last > HEARTBEAT_SECONDS:
                last = looked
                yield {"now": _now()}
            if time.monotonic() >= end:
                break
            await board.news(seen, LOOK_SECONDS)
            await asyncio.sleep(max(0.0, LEAST_SECONDS - (time.monotonic() - looked)))
    finally:
        board.watchers -= 1


def _now() -> int:
    """This server's clock, in milliseconds since 1970: the page's may be another."""
    return time.time_ns() // 1_000_000


async def _look(service: Service, identity: str, before: State) -> State:
    """What there is to tell now; only this server's builds are looked at in the event loop."""
    own = [build.summary() for build in service.board.all()]
    build = service.board.get(identity)
    state = build.details() if build is not None else None
    return await to_thread.run_sync(_seen, service, own, identity, state, before)


def _seen(
    service: Service, own: Sequence[State], identity: str, state: State | None, before: State
) -> State:
    models = str(hash(service.catalogue.tags(service.store())))
    found: dict[str, Any] = {"builds": listed(service, own), "models": models}
    if identity:
        try:
            found["build"] = build = described(service, identity, state)
        except NameNotFoundError:
            return {**found, "build": None}
        if _looks(build) != _looks(before.get("build")):
            found["graph"] = drawn(service, identity)
    return found


def _looks(build: State | None) -> list[str]:
    """What the picture of a build depends on, as far as it is worth to be drawn again."""
    return [build["state"], *(step["look"] for step in build["of"])] if build else []
