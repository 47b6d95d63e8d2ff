"""Builds in progress: shared, limited, queued, cancelled, and heard of in time."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from mbuild.core.digest import Digest
from mbuild.core.errors import CancelledError, FormatError
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    Code,
    LayerReady,
    Status,
    StepFinished,
    StepProgress,
    Warned,
)
from mbuild.server import jobs as module
from mbuild.server.jobs import QUEUED, BuildJob, Jobs
from mbuild.server.stream import Line, encode
from mbuild.server.wording import Lines, Wording
from mbuild.store.media import MODEL, PARAMS

DIGEST = Digest("0" * 64)


class FakeBuild:
    """A build that waits for the test; counts its starts and whether it was closed."""

    def __init__(self, *events: BuildEvent, error: Exception | None = None) -> None:
        self.events = events or (Status(Code.CONVERTING_MODEL),)
        self.error = error
        self.go = threading.Event()
        self.starts = 0
        self.closed = threading.Event()

    def __call__(self) -> Iterator[BuildEvent]:
        self.starts += 1
        try:
            yield self.events[0]
            while not self.go.wait(0.01):
                yield StepProgress(1, "step", 1, 2)
            yield from self.events[1:]
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


async def collect(job: BuildJob) -> list[BuildEvent]:
    """All events of a build but progress."""
    return [e async for e in job.watch() if e is not None and not isinstance(e, StepProgress)]


def test_identical_builds_share_one_execution() -> None:
    """Two that ask for the same get the same events from one run, the second from the start."""

    async def scenario() -> None:
        statuses = Status(Code.PARSING_GGUF), Status(Code.CONVERTING_MODEL)
        build, jobs = FakeBuild(*statuses), Jobs(2)
        first = asyncio.ensure_future(collect(jobs.join("key", build)))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(collect(jobs.join("key", build)))
        await asyncio.sleep(0.05)
        build.go.set()
        assert await first == await second == list(statuses)
        assert build.starts == 1
        again = jobs.join("key", build)
        await collect(again)
        assert build.starts == 2

    asyncio.run(scenario())


def test_the_last_to_leave_stops_the_build() -> None:
    """One of two clients that goes away stops nothing; both do."""

    async def scenario() -> None:
        build, jobs = FakeBuild(), Jobs(1)
        job = jobs.join("key", build)
        waiting = [asyncio.ensure_future(collect(job)) for _ in range(2)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()
        await asyncio.sleep(0.1)
        assert not job.cancelled
        waiting[1].cancel()
        assert await asyncio.to_thread(build.closed.wait, 5)
        assert job.cancelled
        other = FakeBuild()
        other.go.set()
        await collect(jobs.join("key", other))  # not the stopped one
        assert other.starts == 1

    asyncio.run(scenario())


def test_builds_beyond_the_limit_wait_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit they run side by side; the next begins when one ends."""
    monkeypatch.setattr(module, "QUEUE_NOTICE_SECONDS", 0.05)

    async def scenario() -> None:
        builds, jobs = [FakeBuild() for _ in range(3)], Jobs(2)
        tasks = [
            asyncio.ensure_future(collect(jobs.join(str(number), build)))
            for number, build in enumerate(builds)
        ]
        await asyncio.sleep(0.3)
        assert [build.starts for build in builds] == [1, 1, 0]
        builds[0].go.set()
        await tasks[0]
        builds[1].go.set()
        builds[2].go.set()
        assert (await tasks[2])[0] == QUEUED
        assert QUEUED not in await tasks[1]

    asyncio.run(scenario())


def test_a_waiting_build_can_be_left() -> None:
    """A client that leaves the queue takes its build out of it."""

    async def scenario() -> None:
        first, second, jobs = FakeBuild(), FakeBuild(), Jobs(1)
        running = asyncio.ensure_future(collect(jobs.join("1", first)))
        waiting = asyncio.ensure_future(collect(jobs.join("2", second)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        first.go.set()
        await running
        assert second.starts == 0

    asyncio.run(scenario())


def test_errors_reach_all_who_wait() -> None:
    """What the build raises is raised to each of them."""

    async def scenario() -> None:
        build, jobs = FakeBuild(error=FormatError("bad")), Jobs(1)
        waiting = [asyncio.ensure_future(collect(jobs.join("key", build))) for _ in range(2)]
        await asyncio.sleep(0.05)
        build.go.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, FormatError) for result in results)

    asyncio.run(scenario())


def test_ending_the_server_ends_all_builds() -> None:
    """Running ones are stopped, waiting ones never begin, and their clients are told."""

    async def scenario() -> None:
        first, second, jobs = FakeBuild(), FakeBuild(), Jobs(1)
        waiting = [
            asyncio.ensure_future(collect(jobs.join(key, build)))
            for key, build in (("1", first), ("2", second))
        ]
        await asyncio.sleep(0.05)
        jobs.cancel_all()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, CancelledError) for result in results)
        assert second.starts == 0 and first.closed.is_set()

    asyncio.run(scenario())


def test_progress_comes_at_most_every_tenth_of_a_second() -> None:
    """A build that reports a hundred times a second is heard of ten times, not at once."""

    async def scenario() -> None:
        build, jobs = FakeBuild(), Jobs(1)
        times = []

        async def watch() -> None:
            async for event in jobs.join("key", build).watch():
                if isinstance(event, StepProgress):
                    times.append(time.monotonic())

        began = time.monotonic()
        task = asyncio.ensure_future(watch())
        await asyncio.sleep(1.2)
        build.go.set()
        await task
        assert times and times[0] - began >= 0.45
        assert all(b - a >= 0.095 for a, b in itertools.pairwise(times))

    asyncio.run(scenario())


def test_the_progress_of_a_finished_step_is_old_news() -> None:
    """However long a build takes to end after its last event, that one stays the last."""
    last = BuildFinished("m", DIGEST, 1, 0, 0, 0.0)
    given = threading.Event()

    def build() -> Iterator[BuildEvent]:
        yield StepProgress(1, "step", 2, 2)
        yield StepFinished(1, "step", False, 0, 0, "import")
        yield last
        given.wait(5)

    async def scenario() -> None:
        job, seen = Jobs(1).join("key", build), list[BuildEvent | None]()
        asyncio.get_running_loop().call_later(module.PATIENCE_SECONDS + 0.2, given.set)
        async for event in job.watch():
            seen.append(event)
        assert seen[-1] == last and not any(isinstance(e, StepProgress) for e in seen)

    asyncio.run(scenario())


def test_a_silent_build_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the heartbeat's time without news the last line comes again."""
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    silent = threading.Event()

    def build() -> Iterator[BuildEvent]:
        yield Status(Code.CONVERTING_MODEL)
        silent.wait(5)

    async def scenario() -> None:
        beats = 0
        async for event in Jobs(1).join("key", build).watch():
            beats += event is None
            if beats == 3:
                silent.set()
        assert beats >= 3

    asyncio.run(scenario())
    assert module.HEARTBEAT_SECONDS < 30


def test_lines_are_ollamas() -> None:
    """Each event as Ollama says it; warnings at the end."""
    lines = Lines(Wording(fresh={DIGEST}, opening="parsing GGUF"))
    events: list[BuildEvent] = [
        Status(Code.REUSED_TENSORS, {"reused": 2, "total": 2}),
        Warned("odd"),
        StepFinished(1, "import m.gguf", True, 0, 0, "import", "model", "m.gguf"),
        StepFinished(2, "import a.gguf", False, 0, 0, "import", "adapter", "a.gguf"),
        StepFinished(
            3, "quantize m.gguf to Q8_0", True, 0, 0, "quantize", "model", "m.gguf", "Q8_0"
        ),
        LayerReady(DIGEST, MODEL, 1, existing=True),
        Status(Code.AUTODETECTED_TEMPLATE, {"template": "chatml"}),
        LayerReady(Digest("1" * 64), PARAMS, 1, existing=True),
        BuildFinished("m", DIGEST, 1, 0, 0, 0.0),
    ]
    assert [line for event in events for line in lines.of(event)] == [
        {"status": "parsing GGUF"},
        {"status": "verifying conversion"},
        {"status": "parsing GGUF"},
        {"status": "verifying conversion"},
        {"status": f"creating new layer {DIGEST}"},
        {"status": "using autodetected template chatml"},
        {"status": f"using existing layer sha256:{'1' * 64}"},
        {"status": "success", "warnings": ["odd"]},
    ]


def test_progress_lines_have_whole_numbers() -> None:
    """Python's and Go's clients break on 10.5; a quantization is called what Ollama calls it."""
    lines = Lines(Wording())

    def begins(source: str, target: str, role: str) -> list[Line]:
        values = {"source": source, "target": target, "role": role}
        return lines.of(Status(Code.QUANTIZING, values))

    def goes_on(done: int) -> Line:
        names = "quantize", "model", "m", "Q8_0"
        (line,) = lines.of(StepProgress(1, "quantize m to Q8_0", done, 10, *names))
        return line

    assert begins("F16", "Q8_0", "model") == []
    line = goes_on(5)
    assert line["status"] == "quantizing F16 model to Q8_0"
    assert (line["completed"], line["total"]) == (5, 10)
    assert begins("BF16", "Q4_0", "draft") == begins("BF16", "Q8_0", "draft") == []
    assert goes_on(6)["status"] == line["status"]
    assert encode({"status": "a\nb"}) == b'{"status":"a\\nb"}\n'
