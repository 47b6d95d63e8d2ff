"""Builds in progress: one execution for all who ask for the same, a limit, and cancelling.

A build is a blocking generator and runs in a thread of its own; whoever waits
for it reads its events in the event loop. When the last of them goes away the
build is stopped, unless somebody asked for it to be kept. Who only listens is told of every event
and neither keeps a build nor stops one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Protocol

from mbuild.core.errors import CancelledError
from mbuild.core.events import BuildEvent, Code, Status, StepFinished, StepProgress
from mbuild.core.transfers import BlobDone, BlobProgress, TransferEvent
from mbuild.server.stream import HEARTBEAT_SECONDS, PATIENCE_SECONDS, PROGRESS_SECONDS
from mbuild.work.cancel import Cancel

Event = BuildEvent | TransferEvent
Events = Callable[[], Iterator[Event]]
"""Starts a build, a pull or a push; called in its thread."""

QUEUE_NOTICE_SECONDS = 1.0
"""A build that waits longer than this for its turn says so."""

QUEUED = Status(Code.WAITING_FOR_BUILDS)


class Listener(Protocol):
    """Is told what a build does, in the event loop's thread; must not wait."""

    def took(self, event: Event) -> None:
        """One more event."""

    def ended(self) -> None:
        """There are no more."""


class BuildJob:
    """One build and those who wait for it.

    ``history`` are its events so far but for progress, of which only the
    newest counts. Only the event loop's thread touches a job; the build's
    thread hands events over through the loop.
    """

    def __init__(
        self, events: Events, on_done: Callable[[BuildJob], None], cancel: Cancel | None = None
    ) -> None:
        """``cancel`` is what the build looks at while it works; else it stops at an event."""
        self.history: list[Event] = []
        self.progress: StepProgress | BlobProgress | None = None
        self.progress_number = 0
        self.error: BaseException | None = None
        self.done = False
        self.started = False
        self._waiting: set[asyncio.Event] = set()
        self._listeners: list[Listener] = []
        self._kept = False
        self._events = events
        self._on_done = on_done
        self._cancel = cancel or Cancel("the build was stopped")
        self._loop = asyncio.get_running_loop()
        self.thread: threading.Thread | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the build was told to stop."""
        return self._cancel.cancelled

    def listen(self, listener: Listener) -> None:
        """Tell somebody of every event from now on."""
        self._listeners.append(listener)

    def keep(self) -> None:
        """Go on when nobody waits for the build any more; :meth:`cancel` stops it."""
        self._kept = True

    def start(self) -> None:
        """Run the build in a thread; a daemon, so that a stuck one cannot keep the process."""
        self.started = True
        self.thread = threading.Thread(target=self._run, name="mbuild-build", daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        """Stop the build; one that has not begun is over at once."""
        self._cancel.cancel()
        if not self.started:
            self._end(CancelledError("the build was stopped"))

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            events = self._events()
            try:
                for event in events:
                    self._cancel.check()
                    self._hand_over(self._take, event)
            finally:
                close = getattr(events, "close", None)
                if close is not None:
                    close()
        except BaseException as caught:
            error = caught
        self._hand_over(self._end, error)

    def _hand_over(self, function: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(function, *values)

    def _take(self, event: Event) -> None:
        if isinstance(event, (StepProgress, BlobProgress)):
            self.progress = event
            self.progress_number += 1
        else:
            self.history.append(event)
            if _ends(event, self.progress):
                self.progress = None  # old news, which must not come after the build's last line
        self._wake()
        for listener in self._listeners:
            listener.took(event)

    def _end(self, error: BaseException | None) -> None:
        if not self.done:
            self.done = True
            self.error = error
            self._wake()
            self._on_done(self)
            for listener in self._listeners:
                listener.ended()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def watch(self) -> AsyncGenerator[Event | None, None]:
        """The events from the first; None when it is time for a sign of life.

        Raises what the build raised. Leaving the iterator early is leaving the
        build; the last one to leave stops it, unless it is kept.
        """
        news = asyncio.Event()
        self._waiting.add(news)
        seen, seen_progress = 0, 0
        due = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        try:
            while True:
                news.clear()
                while seen < len(self.history):
                    seen += 1
                    yield self.history[seen - 1]
                if self.done:
                    break
                now = asyncio.get_running_loop().time()
                fresh = self.progress is not None and seen_progress < self.progress_number
                if fresh and now >= due:
                    seen_progress = self.progress_number
                    due = now + PROGRESS_SECONDS
                    yield self.progress
                    continue
                wait = due - now if fresh else HEARTBEAT_SECONDS
                try:
                    # Not wait_for, which can lose a cancellation (Python 3.11).
                    async with asyncio.timeout(wait):
                        await news.wait()
                except TimeoutError:
                    if not fresh:
                        yield None
            if self.error is not None:
                raise self.error
        finally:
            self._waiting.discard(news)
            if not self._waiting and not self._kept and not self.done:
                self.cancel()


def _ends(event: Event, progress: StepProgress | BlobProgress | None) -> bool:
    """Whether an event is the end of what the progress tells of."""
    if isinstance(event, StepFinished):
        return isinstance(progress, StepProgress) and progress.step == event.step
    if isinstance(event, BlobDone):
        return isinstance(progress, BlobProgress) and progress.digest == event.digest
    return False


class Jobs:
    """All builds of a server: those that run, and the queue of those that wait their turn."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_key: dict[str, BuildJob] = {}
        self._running: set[BuildJob] = set()
        self._queue: deque[BuildJob] = deque()

    def join(self, key: str, events: Events, cancel: Cancel | None = None) -> BuildJob:
        """The running or waiting build with that key, or a new one that ``cancel`` stops."""
        job = self._by_key.get(key)
        if job is not None and not job.cancelled and not job.done:
            return job
        job = BuildJob(events, self._finished, cancel)
        self._by_key[key] = job
        self._queue.append(job)
        self._start_next()
        if not job.started:
            asyncio.get_running_loop().call_later(QUEUE_NOTICE_SECONDS, self._notice, job)
        return job

    def _notice(self, job: BuildJob) -> None:
        if not job.started and not job.done:
            job._take(QUEUED)

    def _finished(self, job: BuildJob) -> None:
        self._running.discard(job)
        with suppress(ValueError):
            self._queue.remove(job)
        for key in [key for key, value in self._by_key.items() if value is job]:
            del self._by_key[key]
        self._start_next()

    def _start_next(self) -> None:
        while self._queue and len(self._running) < self._limit:
            job = self._queue.popleft()
            if not job.done:
                self._running.add(job)
                job.start()

    def cancel_all(self) -> None:
        """Stop every build; none starts any more."""
        self._limit = 0
        for job in [*self._queue, *self._running]:
            job.cancel()

    def wait(self, seconds: float) -> bool:
        """Wait for the threads of stopped builds, outside of the loop; whether all ended."""
        end = time.monotonic() + seconds
        threads = [job.thread for job in self._running if job.thread is not None]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)
