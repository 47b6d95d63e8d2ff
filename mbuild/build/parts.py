"""``--part i/n``: a share of a build's quantized ranges, put where an ordinary build finds them.

The parts of an array job need nobody to talk to: which ranges are whose follows from the headers
alone. What no part has made, because it was killed or never started, the build makes itself.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import StepContext, in_order
from mbuild.build.prepare import fetched, plans_of
from mbuild.build.surveying import State, survey
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.core.events import (
    BuildEvent,
    Code,
    PartFinished,
    Status,
    StepProgress,
    StepStarted,
    Warned,
)
from mbuild.core.values import NamedTuple
from mbuild.shared.lease_wait import LeaseWait

if TYPE_CHECKING:
    from mbuild.build.prepare import Build
    from mbuild.build.steps.making import RangeMaker
    from mbuild.build.steps.origins import Origin
    from mbuild.build.steps.outputs import Variant
    from mbuild.build.steps.quantize import Quantize
    from mbuild.build.steps.ranges import Range, RangeCache
    from mbuild.gguf.types import GGMLType
    from mbuild.store import Store
    from mbuild.store.shared import SharedCache, SharedLease

_MOST = 10_000
_LOOK_SECONDS = 0.5  # between two looks whether another job that makes the same part has ended


class BuildPart(NamedTuple):
    """Which of how many equal shares of the work, from 1."""

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> BuildPart:
        """Read ``3/16``; raises :class:`UsageError`."""
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        if found is not None:
            part = cls(int(found[1]), int(found[2]))
            if 1 <= part.number <= part.parts <= _MOST:
                return part
        raise UsageError(
            f"--part {text!r:.40} is not a part",
            hint="write for example 3/16: the third of sixteen",
        )

    def share(self, ranges: Sequence[Range]) -> Iterator[Range]:
        """Its share: neighbouring ranges, as many bytes as the other parts have."""
        total = sum(part.size for part in ranges)
        at = 0
        for part in ranges:
            middle = 2 * at + part.size
            if middle * self.parts // (2 * total) == self.number - 1:
                yield part
            at += part.size


def make_part(wanted: Build, store: Store, part: BuildPart) -> Generator[BuildEvent, None, None]:
    """Make a part of a build's ranges and send them to the shared cache; names nothing.

    Raises what the build would raise before it quantizes, and :class:`UsageError` without a
    shared cache that is written. Closing the iterator stops it; what was sent stays.
    """
    shared = store.shared
    if shared is None or not shared.writes:
        raise UsageError(
            "--part has nowhere to put what it makes", hint="name a cache: --cache-to URL"
        )
    began = time.monotonic()
    with store.using():
        yield from fetched(wanted, store)
        wanted.context.leave_unread()  # of sixteen parts each would read all for all digests
        totals = [0, 0, 0]
        for number, steps in enumerate(_groups(wanted, store), start=1):
            yield from _group(steps, number, store, shared, part, totals)
        sent = said = 0
        for done, total in shared.drain():
            sent = total
            if not said and done < total:
                said = total - done
                yield Status(Code.SENDING_SHARED, {"size": said})
    made, there, size = totals
    seconds = time.monotonic() - began
    yield PartFinished(part.number, part.parts, made, there, size, sent, seconds)


def _alone(
    shared: SharedCache, label: str, key: str
) -> Generator[BuildEvent, None, SharedLease | None]:
    """Wait until no other job makes the very same part; the lease on it.

    Such a job was started twice, or in place of one that was thought to be dead.
    """
    waiting, told = LeaseWait(shared, key), ""
    while (lease := waiting.attempt()) is None and shared.writes:
        if waiting.holder not in ("", told):
            told = waiting.holder
            yield Status(Code.WAITING_FOR_MACHINE, {"step": label, "holder": told})
        time.sleep(_LOOK_SECONDS)
    return lease


def _groups(wanted: Build, store: Store) -> Iterator[list[Quantize]]:
    """The quantizations that have to run, those of one source together."""
    ends = [step for planned in plans_of(wanted, store) for step in planned.ends]
    for step in in_order(ends):
        if step.fetches:
            raise UnsupportedError(
                f"a part is made of files that are here, and {step.subject} is not",
                hint="fetch it into a folder that all machines see, and name that in FROM",
            )
    rows = survey(BuildEngine(store, wanted.use_cache), ends)
    groups: dict[Hashable, list[Any]] = {}
    for row in rows:
        if row.step.kind != "quantize" or row.state in (State.CACHED, State.SHARED):
            continue
        if row.state is State.DEPENDS and row.step.inputs:
            raise UnsupportedError(
                f"{row.step.label}: what it depends on is computed by the build itself",
                hint="compute it first (mbuild imatrix) and name the file, or the types",
            )
        groups.setdefault(row.step.group, []).append(row.step)
    yield from groups.values()


def _group(
    steps: Sequence[Quantize],
    number: int,
    store: Store,
    shared: SharedCache,
    part: BuildPart,
    totals: list[int],
) -> Iterator[BuildEvent]:
    """One source's share; ``totals`` counts pieces made, pieces that were there, and bytes made."""
    from mbuild.build.steps.by_parts import PartReading
    from mbuild.build.steps.flight import TogetherAlways
    from mbuild.build.steps.making import RangeMaker
    from mbuild.build.steps.opened import open_all, open_source
    from mbuild.build.steps.origins import Readable
    from mbuild.build.steps.quantize import variant_of
    from mbuild.build.steps.ranges import RangeCache
    from mbuild.build.steps.tensors import in_file_order
    from mbuild.work.cores import cores

    said: list[BuildEvent] = []
    context = StepContext(
        store,
        lambda done, total: None,
        lambda code, values: said.append(Status(code, values)),
        lambda text: said.append(Warned(text)),
    )
    label = f"part {part.number}/{part.parts} of {steps[0].label}"
    yield StepStarted(number, label, number, "part", steps[0].role, steps[0].subject)
    origin = steps[0].origin
    with ExitStack() as stack:
        files = {n: stack.enter_context(open_source(f)) for n, f in origin.files.items()}
        reading = PartReading(origin)
        seen = Readable({name: file.reading_path for name, file in files.items()}, reading.seen)
        model = origin.open(_to_open(origin, store, part), seen, stack)
        matrices = {str(step.matrix.path): step.matrix for step in steps if step.matrix}
        paths = open_all(matrices, stack)
        variants = [variant_of(step, model, paths, context) for step in steps]
        yield from said
        work = _Share(variants, RangeCache(store, origin.fields()), shared, origin.fields())
        maker = RangeMaker([each.imatrix for each in variants], work.cache, cores(), work.check)
        if shared.exclusive:
            maker.flight = TogetherAlways(shared, work.cache)
        mine = list(part.share([each for each in in_file_order(variants) if any(work.keyed(each))]))
        lease = yield from _alone(shared, label, work.key(part, mine))
        try:
            yield from work.run(mine, maker, partial(_progress, number, label, steps[0]), totals)
            reading.tell(shared, part, files, work.cache.sources)
        finally:
            if lease is not None:
                lease.release()


def _to_open(origin: Origin, store: Store, part: BuildPart) -> StepContext:
    """In what a part opens its source, which it says nothing of: the build does that.

    The first part alone reads a checkpoint's vocabulary, so that a wrong one is told before the
    build: no weight depends on it.
    """
    from mbuild.build.steps.origins import CheckpointOrigin

    bare = part.number > 1 and isinstance(origin, CheckpointOrigin)
    return StepContext.silent(store)._replace(weights_only=bare)


def _progress(number: int, label: str, step: Quantize, done: int, total: int) -> StepProgress:
    return StepProgress(number, label, done, total, "part", step.role, step.subject)


class _Share:
    """The ranges of a part: looked up in the shared cache, made here, sent."""

    def __init__(
        self,
        variants: Sequence[Variant],
        cache: RangeCache,
        shared: SharedCache,
        fields: Any,
    ) -> None:
        from mbuild.work.cancel import Cancel

        self._variants = variants
        self._shared = shared
        self._fields = fields
        self.cache = cache
        self._cancel = Cancel("the part was stopped")
        self.check = self._cancel.check

    def types(self, part: Range) -> list[GGMLType]:
        """What a range becomes in each variant."""
        return [variant.tensors[part.number][1] for variant in self._variants]

    def keyed(self, part: Range) -> list[bool]:
        """In which variants a range is quantized."""
        return [new is not part.tensor.type for new in self.types(part)]

    def key(self, part: BuildPart, ranges: Sequence[Range]) -> str:
        """What tells this work from any other, by its first bytes and all that becomes of them."""
        from mbuild.build.steps.making import LoadedRange
        from mbuild.build.steps.ranges import digest_of

        rows = [(each.tensor.name, each.first, each.size, *self.types(each)) for each in ranges]
        first = digest_of(LoadedRange(ranges[0]).load()).hex if ranges else ""
        return sha256(json.dumps(["part", *part, first, rows]).encode()).hexdigest()

    def run(
        self,
        ranges: Sequence[Range],
        maker: RangeMaker,
        told: Callable[[int, int], BuildEvent],
        totals: list[int],
    ) -> Iterator[BuildEvent]:
        """Make and send them; yields how far it is, in bytes of source."""
        from mbuild.build.steps.ranges import room_for
        from mbuild.gguf.memory import reused
        from mbuild.work.ahead import Ahead, Job, budget
        from mbuild.work.cores import cores

        jobs = [
            Job(partial(self._make, part, maker), room_for(part, self.types(part)))
            for part in ranges
        ]
        limit = budget(cores(), max((job.size for job in jobs), default=0))
        ahead: Ahead[list[Any]] = Ahead(jobs, cores(), limit)
        total, done = sum(part.size for part in ranges), 0
        try:
            with reused():
                ahead.start()
                for number, part in enumerate(ranges):
                    made = ahead.take(number)
                    totals[1] += sum(self.keyed(part)) - self._send(made, totals)
                    ahead.done(number)
                    done += part.size
                    yield told(done, total)
        finally:
            self._cancel.cancel()
            ahead.stop()

    def _make(self, part: Range, maker: RangeMaker) -> list[Any]:
        """What of a range is in no cache yet, made; its source's digest is sent."""
        from mbuild.build.steps.making import LoadedRange
        from mbuild.build.steps.ranges import converted_key, importances_of
        from mbuild.store.records import SOURCE_RANGE

        self.check()
        loaded = LoadedRange(part)
        source = self.cache.source_digest(part, loaded.load)
        if self._fields is not None:
            key = converted_key(self._fields, part.tensor.name, part.first, part.size)
            self._shared.put(SOURCE_RANGE, key, source)
        types = self.types(part)
        keys = {
            self.cache.key(source, part, new, importances_of(part, variant.imatrix))
            for variant, new in zip(self._variants, types, strict=True)
            if new is not part.tensor.type
        }
        missing = keys - self._shared.places(keys).keys()
        if not missing:
            return []
        made = {each.key: each for each in maker.make(part, types, loaded)}
        return [made[key] for key in sorted(missing)]

    def _send(self, made: Sequence[Any], totals: list[int]) -> int:
        """Send what was made here, unless it was sent at once; how many pieces that are."""
        own = [each for each in made if not each.found]
        for each in own:
            data = memoryview(each.data).cast("B")
            if not self._shared.exclusive:
                self._shared.put_piece(each.key, data, each.digest)
            totals[0] += 1
            totals[2] += len(data)
        return len(own)
