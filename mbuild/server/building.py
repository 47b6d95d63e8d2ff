"""The handler of ``/api/create``: joins a build and sends its lines."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Protocol

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.build.build import build
from mbuild.build.history import new_id
from mbuild.build.sources.posted import Files, is_checkpoint
from mbuild.core.digest import Digest
from mbuild.core.events import BuildEvent, LayerReady, Warned
from mbuild.server import shapes
from mbuild.server.create import Creation, read_creation
from mbuild.server.requests import read_json
from mbuild.server.stream import Line
from mbuild.server.streaming import LineStream, until_gone
from mbuild.server.wording import Lines, Wording, opening
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.jobs import BuildJob, Event
    from mbuild.server.page.board import ServedBuild
    from mbuild.server.service import Service
    from mbuild.store import Store


async def create(service: Service, request: Request) -> Response:
    """Build a model; a stream of lines, or with ``stream: false`` one answer at the end.

    An error before the first line has its own status in both cases.
    """
    fields = await read_json(request, shapes.CREATE)
    store = service.store()
    creation = await to_thread.run_sync(read_creation, fields, store)
    wording = await to_thread.run_sync(_wording, store, creation)
    job = begin(service, creation).job
    return await follow(service, request, job, Lines(wording), stream=fields.get("stream"))


def begin(service: Service, creation: Creation) -> ServedBuild:
    """The build that a request asks for: a new one, or one under way that builds the same."""
    identity, cancel = new_id(), Cancel("the build was stopped")
    events = partial(_build, creation, service, identity, cancel)
    job = service.jobs.join(creation.key, events, cancel)
    names = [str(name) for name in creation.request.names]
    return service.board.follow(job, identity, names, service.error_text)


class LineMaker(Protocol):
    """Turns events into lines, and keeps the last one."""

    last: Line

    def of(self, event: Event) -> list[Line]:
        """The lines of an event, perhaps none."""


async def follow(
    service: Service, request: Request, job: BuildJob, maker: LineMaker, *, stream: object
) -> Response:
    """The answer about a job: a stream of its lines, or if ``stream`` is False the last one."""
    lines = _lines(job, maker)
    try:
        if stream is False:
            return JSONResponse(await until_gone(_last(lines), request))
        return LineStream(service, await until_gone(anext(lines), request), lines)
    except BaseException:
        await lines.aclose()
        raise


def _wording(store: Store, creation: Creation) -> Wording:
    """What to say of the build, seen before it begins."""
    held = store.uploads.held()
    posted = creation.posted
    fresh = {digest for digest in posted.files.values() if held.get(digest)}
    return Wording(fresh, _opening(posted.files), _opening(posted.drafts))


def _opening(files: Files) -> str:
    """How Ollama begins with a request's files, if there are any."""
    return opening(is_checkpoint=is_checkpoint(files)) if files else ""


def _build(
    creation: Creation, service: Service, identity: str, cancel: Cancel
) -> Iterator[BuildEvent]:
    """The build's events, in its own thread; afterwards the model vouches for its blobs.

    ``identity`` is the id that the log has for it.
    """
    store = service.store()
    used: set[Digest] = set()
    said: deque[str] = deque()
    wanted = creation.build(store, service.access)._replace(id=identity, cancel=cancel)
    with service.sharing(store, said.append):
        for event in build(wanted, store):
            while said:
                yield Warned(service.scrub(said.popleft()))
            if isinstance(event, LayerReady):
                used.add(event.digest)
            yield event
    store.uploads.settle(used & creation.uploads)


async def _lines(job: BuildJob, maker: LineMaker) -> AsyncGenerator[Line, None]:
    """The lines for one client; the last one again when nothing happens for long."""
    async with aclosing(job.watch()) as events:
        async for event in events:
            for line in [maker.last] if event is None else maker.of(event):
                yield line


async def _last(lines: AsyncGenerator[Line, None]) -> Line:
    last: Line = {}
    async for line in lines:
        last = line
    return last
