"""Ranges that workers make for this build: asked for in its order, checked, written by it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mbuild.build.steps.filling import (
    VERSIONS,
    Filled,
    FillSource,
    FillTask,
    Place,
    close_idle,
    fill,
    layers_of,
    pickled,
)
from mbuild.build.steps.making import LoadedRange, WorkSource
from mbuild.build.steps.ranges import (
    MadeRange,
    Range,
    RangeCache,
    bytes_of_row,
    digest_of,
    importances_of,
)
from mbuild.core.errors import WorkerError
from mbuild.core.events import Code
from mbuild.work.elsewhere import Elsewhere

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.steps.opened import OpenFiles
    from mbuild.build.steps.outputs import Variant
    from mbuild.core.digest import Digest
    from mbuild.gguf.types import GGMLType

TASK = 64 << 20
"""Bytes of source in a task: some tenths of a second's work, of which handing it out is little."""

_HELD = 1 << 30
"""Bytes of results that may be on their way, or wait for those before them."""


class RangesElsewhere:
    """Gives ranges that the workers of the context's pool make of a source; thread-safe.

    ``types`` tells which types a range becomes. Where a range was made before and is found
    here nobody is asked for it.
    """

    def __init__(
        self,
        source: WorkSource,
        variants: Sequence[Variant],
        ranges: Sequence[Range],
        types: Callable[[Range], list[GGMLType]],
        cache: RangeCache,
        files: OpenFiles,
        context: StepContext,
    ) -> None:
        assert context.pool is not None
        pool = self._pool = context.pool
        self._variants = variants
        self._types = types
        self._cache = cache
        self._files = files
        self._context = context
        self._seen: set[str] = set()
        self._told = False
        self._lock = threading.Lock()
        asked = [part for part in ranges if self._is_work(part) and not self._is_here(part)]
        groups = list(_groups(asked, pool.slots))
        self._homes = {
            (part.number, part.first): (number, place)
            for number, group in enumerate(groups)
            for place, part in enumerate(group)
        }
        self._left = [len(group) for group in groups]
        tasks = _tasks(source, groups, types, files.spanned, context)
        largest = max((sum(_result(part, types(part)) for part in g) for g in groups), default=1)
        window = max(2, min(2 * pool.slots, _HELD // largest))
        self._work: Elsewhere[FillTask, Filled] = Elsewhere(pool, fill, tasks, window)
        if groups:
            context.status(Code.WORKERS, {"place": pool.place, "threads": pool.slots})

    def take(self, part: Range, check: Callable[[], object]) -> tuple[MadeRange, ...] | None:
        """A range for every variant; None where it has to be made here.

        Raises what a worker refused it with.
        """
        home = self._homes.get((part.number, part.first))
        if home is None:
            return None
        number, place = home
        filled = self._work.take(number, check)
        with self._lock:
            self._left[number] -= 1
            last = not self._left[number]
        if last:
            self._work.dropped(number)
        if filled is None:
            self._tell(self._work.lost[0] if self._work.lost else "it ended")
            return None
        if last:
            for path, span in filled.spans:
                self._files.absorb(path, span)
        source, results = filled.ranges[place]
        self._check_source(part, filled.worker, source)
        if any(digest_of(data) != digest for data, digest in results):
            self._tell(f"different bytes arrived from those that {filled.worker} sent")
            return None
        self._cache.note_source(part, source)
        made = []
        for variant, new, result in zip(self._variants, self._types(part), results, strict=True):
            if new is part.tensor.type:
                made.append(MadeRange(result[0]))
            else:
                key = self._cache.key(source, part, new, importances_of(part, variant.imatrix))
                made.append(MadeRange(result[0], key, result[1]))
        return tuple(made)

    def _check_source(self, part: Range, worker: str, source: Digest) -> None:
        """Read the first range that a worker made here, too: it must have read the same bytes."""
        if worker in self._seen:
            return
        self._seen.add(worker)
        if digest_of(LoadedRange(part).load()) != source:
            raise WorkerError(
                f"the worker {worker} reads other bytes in {part.tensor.name} than this machine",
                hint="let all machines see the same files under the same paths",
            )

    def stop(self) -> None:
        """Let workers begin nothing more; those that are threads of this process let go."""
        self._work.stop()
        close_idle()

    def _is_work(self, part: Range) -> bool:
        """Whether there is more to do than to read, which is as fast here."""
        return any(
            variant.as_it_is or new is not part.tensor.type
            for variant, new in zip(self._variants, self._types(part), strict=True)
        )

    def _is_here(self, part: Range) -> bool:
        """Whether a range is likely to be found, in every type, without reading its source."""
        source = self._cache.known_source(part)
        if source is None:
            return False
        pairs = zip(self._variants, self._types(part), strict=True)
        keys = [
            self._cache.key(source, part, new, importances_of(part, variant.imatrix))
            for variant, new in pairs
            if new is not part.tensor.type
        ]
        return bool(keys) and self._cache.has_places(keys)

    def _tell(self, reason: str) -> None:
        """Say once that work of others was lost, and that the build goes on."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._context.warn(
                f"{self._pool.place} lost some of the work ({reason}): it is done here"
            )


def _result(part: Range, types: Sequence[GGMLType]) -> int:
    """Bytes that a range becomes, all types together."""
    return sum(part.rows[1] * bytes_of_row(part.tensor, new) for new in types)


def _groups(ranges: Sequence[Range], slots: int) -> list[list[Range]]:
    """Neighbouring ranges together: few enough in a task for every worker to have some."""
    total = sum(part.size for part in ranges)
    most = min(TASK, total // (4 * slots))
    groups: list[list[Range]] = []
    size = most
    for part in ranges:
        if size + part.size > most:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.size
    return groups


def _tasks(
    source: WorkSource,
    groups: Sequence[Sequence[Range]],
    types: Callable[[Range], list[GGMLType]],
    spanned: tuple[str, ...],
    context: StepContext,
) -> list[FillTask]:
    from mbuild.quant.quantize import prepare

    local_path = context.store.blobs.local_path
    blobs = {
        layer.digest: os.path.abspath(local_path(layer.digest))
        for layer in layers_of(source.origin)
    }
    data = pickled(FillSource(source.origin, source.imatrices, os.getcwd(), blobs, spanned))
    changed = {new for group in groups for part in group for new in types(part)}
    weighted = any(source.imatrices)
    compiled = prepare(sorted(changed), weighted=weighted) is None
    return [
        FillTask(
            VERSIONS,
            data,
            tuple(Place(part.tensor.name, part.first, tuple(types(part))) for part in group),
            compiled,
        )
        for group in groups
    ]
