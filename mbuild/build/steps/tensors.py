"""Tensors through the quantizer, by ranges of rows: read once for all variants, looked up first.

A range is some rows of a source tensor, about 16 MiB of them: the unit of work. It is read,
digested, looked up for each variant and quantized where no variant before had it, on one
of the threads; the results are taken in the order of the file by one thread a variant,
which digests the file and hands it to the disk. Of a model that is split a few files grow
together. So everything overlaps, a huge tensor is
cut and needs no more memory than others, and a model of small tensors keeps all cores busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from mbuild.build.graph import StepContext
from mbuild.build.steps.making import RangeMaker, WorkSource
from mbuild.build.steps.models import digests_at_once
from mbuild.build.steps.outputs import (
    OWN_WORK,
    WORK_OF_OTHERS,
    Variant,
    VariantFile,
    files_of,
    in_shards,
)
from mbuild.build.steps.ranges import MadeRange, Range, RangeCache, ranges_of, room_for
from mbuild.core.errors import CancelledError, MbuildError
from mbuild.core.events import Code
from mbuild.core.system import allow_open_files
from mbuild.gguf.memory import reused
from mbuild.gguf.writer import interleaved
from mbuild.work.ahead import Ahead, Job, budget
from mbuild.work.beside import Beside
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from mbuild.build.steps.elsewhere import RangesElsewhere
    from mbuild.build.steps.opened import OpenFiles
    from mbuild.gguf.model import Model
    from mbuild.gguf.types import GGMLType
    from mbuild.store.manifest import Blob
    from mbuild.work.cancel import Cancel

_NAMED = 4  # tensors that were not in the cache are named if they are so few


def write_variants(
    variants: Sequence[Variant],
    model: Model,
    cache: RangeCache,
    files: OpenFiles,
    context: StepContext,
    source: WorkSource | None = None,
) -> list[list[Blob]]:
    """Write every variant's files on its own thread, all fed by one pass over the source.

    ``source`` is what workers are told of it, where some compute for the build.
    """
    work = _Work(variants, cache, context)
    work.elsewhere = work.asked_elsewhere(source, files)
    allow_open_files(sum(len(variant.shards) for variant in variants))
    with ExitStack() as stack:
        rule = WORK_OF_OTHERS if work.elsewhere is not None else OWN_WORK
        lanes = [
            _Lane(index, work, files_of(variant, cache, context.store, stack, rule))
            for index, variant in enumerate(variants)
        ]
        total = sum(file.layout.size for lane in lanes for file in lane.files)
        context.store.blobs.check_room(total)
        if work.elsewhere is None and any(lane.quantized for lane in lanes):
            _enter_flight(work, [file for lane in lanes for file in lane.files], context, stack)
        _run_lanes(lanes, work, lambda done: context.report(done, total))
        files.finish(context)
        blobs = [[file.commit() for file in lane.files] for lane in lanes]
    cache.flush()
    reused_count = sum(len(lane.found) for lane in lanes)
    if reused_count:
        total = sum(lane.quantized for lane in lanes)
        context.status(Code.REUSED_TENSORS, {"reused": reused_count, "total": total})
        made = dict.fromkeys(name for lane in lanes for name in lane.made)
        if 0 < len(made) <= _NAMED:
            context.status(Code.NEWLY_QUANTIZED, {"tensors": tuple(made)})
    return blobs


def _enter_flight(
    work: _Work, files: Sequence[VariantFile], context: StepContext, stack: ExitStack
) -> None:
    """Let other jobs that quantize the same source make some of the ranges, and have ours.

    Where workers compute nobody else is asked: what they make is on its way already.
    """
    from mbuild.build.steps.flight import flight_of

    flight = flight_of(work.cache, context.store.blobs)
    if flight is not None:
        flight.files = files
        for file in files:
            file.before = flight.written
        present = flight.present(lambda: context.report(0, 0))
        work.maker.flight = stack.enter_context(present)


def _run_lanes(lanes: Sequence[_Lane], work: _Work, report: Callable[[int], None]) -> None:
    """Run all lanes to their ends; the first error stops the others and is raised."""
    others = [Beside(lane.beside, "mbuild-variant") for lane in lanes[1:]]

    def tell() -> None:
        if work.error is None:
            report(sum(lane.size for lane in lanes))

    lanes[0].report = tell
    with reused():
        try:
            work.ahead.start()
            for other in others:
                other.start()
            lanes[0].run()
            for other in others:
                other.wait(tell)
        except BaseException as error:
            work.fail(error)
        finally:
            for other in others:
                other.stop()
            work.stop()
    if work.error is not None:
        raise work.error


class _Work:
    """What is made of each range, for all variants at once."""

    def __init__(
        self,
        variants: Sequence[Variant],
        cache: RangeCache,
        context: StepContext,
    ) -> None:
        self.error: BaseException | None = None
        self.variants = variants
        self.cache = cache
        self._context = context
        threads = cores()
        imatrices = [variant.imatrix for variant in variants]
        self.maker = RangeMaker(imatrices, cache, threads, self._check)
        self.ranges = in_file_order(variants)
        cache.ask(
            [
                (part, variant.tensors[part.number][1], variant.imatrix)
                for part in self.ranges
                for variant in variants
            ]
        )
        self.elsewhere: RangesElsewhere | None = None
        jobs = [Job(partial(self._make, r), room_for(r, self._results(r))) for r in self.ranges]
        largest = max((job.size for job in jobs), default=0)
        limit = budget(threads, largest)
        self.ahead: Ahead[tuple[MadeRange, ...]] = Ahead(jobs, threads, limit, len(variants))

    def asked_elsewhere(
        self, source: WorkSource | None, files: OpenFiles
    ) -> RangesElsewhere | None:
        """The ranges that workers make, where there are some."""
        if self._context.pool is None or source is None or source.is_foreign:
            return None
        from mbuild.build.steps.elsewhere import RangesElsewhere

        asked = (source, self.variants, self.ranges, self._types)
        return RangesElsewhere(*asked, self.cache, files, self._context)

    def stop(self) -> None:
        """Let nothing more begin, here and elsewhere."""
        self.ahead.stop()
        if self.elsewhere is not None:
            self.elsewhere.stop()

    def fail(self, error: BaseException) -> None:
        """Stop all work; the first error counts."""
        if self.error is None:
            self.error = error
        self.ahead.fail(error)

    def _check(self) -> None:
        """Called between pieces of work: raises when the build was stopped, or has failed."""
        self._context.report(0, 0)
        if self.ahead.stopping:
            raise CancelledError("other work failed")

    def _types(self, part: Range) -> list[GGMLType]:
        return [variant.tensors[part.number][1] for variant in self.variants]

    def _results(self, part: Range) -> list[GGMLType]:
        """The types of what is made of a range: one for variants with the same importances."""
        made = {(v.tensors[part.number][1], id(v.imatrix)) for v in self.variants}
        return [type_ for type_, _ in made]

    def _make(self, part: Range) -> tuple[MadeRange, ...]:
        """A range for every variant, from whoever computes for this build, or made here."""
        self._check()
        made = self.elsewhere.take(part, self._check) if self.elsewhere else None
        return self.maker.make(part, self._types(part)) if made is None else made


def in_file_order(variants: Sequence[Variant]) -> list[Range]:
    """The source's ranges in the order in which they are made.

    That is the file's, or where all variants are split in the same way such that the files
    of a few shards grow together: a digest cannot be made in parallel, several can.
    """
    counts = {variant.shards for variant in variants}
    sources = [tensor for tensor, _ in variants[0].tensors]
    shards = variants[0].shards if len(counts) == 1 else ()
    groups = [
        [part for number in numbers for part in ranges_of(number, sources[number])]
        for numbers in in_shards(len(sources), shards)
    ]
    order = interleaved([[part.size for part in group] for group in groups], digests_at_once())
    return [groups[group][number] for group, number in order]


class _Lane:
    """One variant's way: its ranges, made or found, written in the order of their files."""

    def __init__(self, index: int, work: _Work, files: Sequence[VariantFile]) -> None:
        self._index = index
        self._work = work
        self._made: set[int] = set()  # tensors of which something had to be quantized
        self._variant = work.variants[index]
        self._ended: list[VariantFile] = []
        self.files = files
        self._home = {
            number: file
            for file, own in zip(
                files, in_shards(len(self._variant.tensors), self._variant.shards), strict=True
            )
            for number in own
        }
        self.report: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Bytes written so far, to all files."""
        return sum(file.writer.size for file in self.files)

    @property
    def quantized(self) -> int:
        """How many tensors of the file have another type than the source's."""
        return sum(new is not tensor.type for tensor, new in self._variant.tensors)

    @property
    def made(self) -> Iterator[str]:
        """The names of the tensors of which something was quantized now."""
        return (self._variant.tensors[number][0].name for number in sorted(self._made))

    @property
    def found(self) -> set[int]:
        """The tensors that the cache had whole."""
        changed = {n for n, (t, new) in enumerate(self._variant.tensors) if new is not t.type}
        return changed - self._made

    def run(self) -> None:
        """Write the files; an error is kept for whoever started the lanes."""
        try:
            for file in self.files:
                file.begin(self._tell)
            for number, part in enumerate(self._work.ranges):
                file = self._home[part.number]
                while (until := file.until_due) is not None:
                    if self._work.ahead.is_ready(number, until):
                        break
                    file.save_now()
                made = self._work.ahead.take(number, file.writer.limits)[self._index]
                if made.digest is not None and not made.found:
                    self._made.add(part.number)
                file.add(made, self._tell, last=part.last)
                del made
                self._work.ahead.done(number)
                if file.ended:
                    self._release(file)
        except BaseException as error:
            self._work.fail(error)
            if isinstance(self._work.error, CancelledError):  # the user stopped the build
                for file in self.files:
                    with suppress(MbuildError):
                        file.stop()

    def _release(self, file: VariantFile) -> None:
        """A file is written: let those before it give their memory back, which waits for the disk.

        What ended last is most likely still on its way.
        """
        self._ended.append(file)
        while len(self._ended) > digests_at_once():
            self._ended.pop(0).writer.finish()

    def beside(self, cancel: Cancel) -> None:
        """As :meth:`run`, on a thread of its own; what ends it is an error of the work."""
        self.run()

    def _tell(self) -> None:
        """Called between pieces: raises when another variant failed."""
        self.report()
        if self._work.error is not None:
            raise CancelledError("another variant failed")
