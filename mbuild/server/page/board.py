"""The builds of this server as its page shows them: those that run, and how the last ones ended.

A build's thread hands its events to the event loop and goes on; here each changes a few numbers.
Whoever looks takes the state as it is then, so a slow reader misses what is past and holds nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import CancelledError
from mbuild.core.events import BuildStarted, StepFinished, StepProgress, StepStarted
from mbuild.server.catalogue import timestamp
from mbuild.server.wording import log_line

if TYPE_CHECKING:
    from mbuild.server.jobs import BuildJob, Event

ENDED = 50
"""Ended builds that are remembered: the log has them, too, unless they ended before they began."""

LINES = 200
"""Lines of a build's log that are kept, the newest."""

Wording = Callable[[BaseException], str]


class ServedBuild:
    """One build of this server. Only the event loop's thread changes it."""

    def __init__(
        self, identity: str, names: Sequence[str], job: BuildJob, board: Board, wording: Wording
    ) -> None:
        self.id = identity
        self.names = tuple(names)
        self.job = job
        self.began = time.time_ns()
        self.error = ""
        self.seconds = 0.0
        self.lines: deque[tuple[float, str]] = deque(maxlen=LINES)
        self.progress: dict[int, tuple[int, int]] = {}
        self.steps = 0
        self.finished = 0
        self._clock = time.monotonic()
        self._board = board
        self._wording = wording

    @property
    def state(self) -> str:
        """``waiting`` for its turn, ``running``, ``stopping``, or how it ended."""
        job = self.job
        if not job.done:
            return "stopping" if job.cancelled else "running" if job.started else "waiting"
        if job.error is None:
            return "built"
        return "stopped" if isinstance(job.error, CancelledError) else "failed"

    def took(self, event: Event) -> None:
        """One more event of the build."""
        if isinstance(event, StepProgress):
            self.progress[event.step] = (int(event.completed), int(event.total))
        elif isinstance(event, BuildStarted):
            self.steps = event.steps
        elif isinstance(event, StepStarted):
            self.progress.setdefault(event.step, (0, 0))
        elif isinstance(event, StepFinished):
            self.finished += 1
            self.progress.pop(event.step, None)
        if line := log_line(event):
            self.lines.append((round(time.monotonic() - self._clock, 1), line))
        self._board.changed()

    def ended(self) -> None:
        """The build is over."""
        self.progress.clear()
        self.seconds = time.monotonic() - self._clock
        error = self.job.error
        if error is not None and not isinstance(error, CancelledError):
            self.error = self._wording(error)
        self._board.changed()

    def summary(self) -> dict[str, Any]:
        """A line of a list, with the keys of :func:`mbuild.server.page.records.summary`."""
        return {
            "id": self.id,
            "names": list(self.names),
            "state": self.state,
            "began": timestamp(self.began),
            "seconds": round(self.seconds, 3),
            "error": self.error,
            "from": "api",
            "steps": self.steps,
            "finished": self.finished,
            "here": not self.job.done,
        }

    def details(self) -> dict[str, Any]:
        """What is known of it beside its record."""
        return {
            **self.summary(),
            "log": [list(line) for line in self.lines],
            "progress": {str(step): list(done) for step, done in self.progress.items()},
        }


class Board:
    """All builds of a server that are worth to be shown, and who waits for news of them.

    ``changes`` counts what has changed so far, ``watchers`` the pages that are told.
    """

    def __init__(self) -> None:
        self._builds: dict[str, ServedBuild] = {}
        self._news: asyncio.Future[None] | None = None
        self.changes = 0
        self.watchers = 0
        self.closed = False

    def follow(
        self, job: BuildJob, identity: str, names: Sequence[str], wording: Wording
    ) -> ServedBuild:
        """Show a build from now on; one that is shown already is what it was."""
        for build in self._builds.values():
            if build.job is job:
                return build
        build = ServedBuild(identity, names, job, self, wording)
        job.listen(build)
        self._builds[identity] = build
        ended = [each for each in self._builds.values() if each.job.done]
        for each in ended[:-ENDED]:
            del self._builds[each.id]
        self.changed()
        return build

    def get(self, identity: str) -> ServedBuild | None:
        """The build of that id, if this server runs it or remembers it."""
        return self._builds.get(identity)

    def all(self) -> list[ServedBuild]:
        """All builds, the last that began first."""
        return [*self._builds.values()][::-1]

    def changed(self) -> None:
        """Something is not as it was: wake who waits for that."""
        self.changes += 1
        waited, self._news = self._news, None
        if waited is not None and not waited.done():
            waited.set_result(None)

    def close(self) -> None:
        """The server ends: nobody waits any longer."""
        self.closed = True
        self.changed()

    async def news(self, seen: int, seconds: float) -> None:
        """Wait until there are more changes than were ``seen``, at most so long."""
        if self.changes == seen and not self.closed:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._news}, timeout=seconds)
