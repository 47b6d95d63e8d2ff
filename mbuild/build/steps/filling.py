"""What a worker does: it makes some ranges of a source, and hands them back with their digests.

A task has values only, and reads nothing but files under the paths that the build has, so any
process on any machine that sees them can run it (:func:`fill`). It refuses to where that would
give other bytes, or the same ones tens of times slower.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mbuild import __version__
from mbuild.build.graph import StepContext
from mbuild.build.sources.spans import SpanPart, Spans
from mbuild.build.steps.changes import MERGING_VERSION, ChangedOrigin, TakeTensors
from mbuild.build.steps.making import LoadedRange, RangeMaker
from mbuild.build.steps.origins import LayerOrigin, Readable
from mbuild.build.steps.ranges import RANGE, Array, Range, RangeCache, ranges_of
from mbuild.build.steps.weights import CONVERTER_VERSION
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError, WorkerError
from mbuild.core.system import allow_open_files
from mbuild.core.values import NamedTuple
from mbuild.gguf.memory import reused
from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled.chunks import why_unavailable
from mbuild.quant.quantize import VERSION, prepare
from mbuild.store.copying import OpenFile

if TYPE_CHECKING:
    from mbuild.build.sources.values import SourceFile
    from mbuild.build.steps.making import UsedMatrix
    from mbuild.build.steps.origins import Origin
    from mbuild.gguf.model import Model
    from mbuild.quant.choose.imatrix import Imatrix
    from mbuild.store import Layer

VERSIONS = (__version__, CONVERTER_VERSION, MERGING_VERSION, RANGE, VERSION)
"""What has to be the same wherever a build's ranges are made."""

_KEPT = 4  # sources that a process holds open


class Place(NamedTuple):
    """A range of a source: the tensor's name, its first byte there, and the types to make."""

    tensor: str
    first: int
    types: tuple[GGMLType, ...]


class FillTask(NamedTuple):
    """Some ranges to make.

    ``source`` is a :class:`FillSource`, pickled, so that a worker of another version can refuse
    before it reads it. ``compiled``: whether compiled quantizers are demanded.
    """

    versions: tuple[Any, ...]
    source: bytes
    places: tuple[Place, ...]
    compiled: bool


class FillSource(NamedTuple):
    """What ranges are made of: an origin, each variant's importance matrix, where paths start.

    ``blobs`` are the files of the store that have the layers of stored models, by digest,
    ``spanned`` the paths of files of which the build wants the parts of their digests.
    """

    origin: Origin
    imatrices: tuple[UsedMatrix | None, ...]
    folder: str
    blobs: Mapping[Digest, str] = {}
    spanned: tuple[str, ...] = ()


class Filled(NamedTuple):
    """What came of a task, range by range: each one's source digest, and a result a variant.

    A result comes with its digest, because it goes over a network. ``worker`` is who made it, in
    words for people; ``spans`` are parts of files' digests, with the files' paths.
    """

    worker: str
    ranges: tuple[tuple[Digest, tuple[tuple[Array, Digest], ...]], ...]
    spans: tuple[tuple[str, SpanPart], ...] = ()


def fill(task: FillTask) -> Filled:
    """Make a task's ranges: the one function that workers run.

    Raises :class:`WorkerError` where this process must not or cannot, and whatever the
    source itself is refused with.
    """
    _check_versions(task.versions)
    source = FillSource(*pickle.loads(task.source))
    with _opened(task.source, source) as opened:
        _check_kernels(task, opened.imatrices)
        cache = RangeCache(opened.store, None, read=False)
        maker = RangeMaker(opened.imatrices, cache, 1, lambda: None)
        _READ.spans = []
        made = tuple(_made(opened.part(place), place, maker, cache) for place in task.places)
    return Filled(_name(), made, tuple(_READ.spans))


def _made(
    part: Range, place: Place, maker: RangeMaker, cache: RangeCache
) -> tuple[Digest, tuple[tuple[Array, Digest], ...]]:
    source = LoadedRange(part)
    digest = cache.source_digest(part, source.load)
    made = maker.make(part, place.types, source)
    return digest, tuple((each.data, each.digest or digest) for each in made)


class _Read(threading.local):
    """What the task of this thread has read of files that the build wants digested."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, SpanPart]] = []


_READ = _Read()


def _show(path: str, spans: Spans, start: int, data: memoryview) -> None:
    """A part of a file was read."""
    _READ.spans.append((path, spans.part(start, data)))


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _check_versions(versions: Sequence[Any]) -> None:
    if tuple(versions) == VERSIONS:
        return
    own, asked = VERSIONS[0], versions[0] if versions else "?"
    more = " of another state" if own == asked else ""
    raise WorkerError(
        f"the worker {_name()} has mbuild {own}, and the build was started by mbuild {asked}{more}",
        hint="install the same version on every worker",
    )


_COMPILING = threading.Lock()


def _check_kernels(task: FillTask, imatrices: Sequence[Imatrix | None]) -> None:
    """Load the kernels, once in a process; raises where there are none and some are demanded."""
    for number, imatrix in enumerate(imatrices):
        types = sorted({place.types[number] for place in task.places})
        with _COMPILING:
            reason = prepare(types, weighted=imatrix is not None)
        if reason is not None and task.compiled:
            raise WorkerError(
                f"the worker {_name()} cannot use the compiled quantizers, because {reason.reason}",
                hint=reason.remedy,
            )


# Sources that stay open from task to task: opening a checkpoint takes a second.


class _Blobs:
    """The blobs that a task names, in the place of a store: they can be read, no more."""

    def __init__(self, paths: Mapping[Digest, str]) -> None:
        self._paths = paths
        self.blobs = self
        self.shared = None

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is there with that size; raises :class:`WorkerError` where it is not."""
        path = self._paths[digest]
        try:
            found = os.stat(path).st_size
        except OSError as error:
            raise _unreadable(path, error) from None
        return found == size

    def local_path(self, digest: Digest) -> Path:
        """The blob's file."""
        return Path(self._paths[digest])

    def scratch(self) -> BinaryIO:
        """A file without a name where this machine keeps such: a worker has no store."""
        from tempfile import TemporaryFile

        return TemporaryFile(buffering=0)


class _Opened:
    """A source that is open in this process, and how many tasks use it."""

    def __init__(self, source: FillSource) -> None:
        self._stack = ExitStack()
        self.users = 0
        self._stack.enter_context(reused())  # from task to task
        self.store: Any = _Blobs(source.blobs)
        try:
            self.model = self._model(source)
            self.imatrices = [self._imatrix(used, source.folder) for used in source.imatrices]
        except BaseException:
            self._stack.close()
            raise
        self._tensors = {tensor.name: tensor for tensor in self.model.tensors}
        self._parts: dict[str, dict[int, Range]] = {}

    def _model(self, source: FillSource) -> Model:
        files = source.origin.files
        allow_open_files(len(files))
        paths = {name: self._path(file, source.folder) for name, file in files.items()}
        seen = {
            name: partial(_show, str(file.path), Spans(file.stamp.size))
            for name, file in files.items()
            if str(file.path) in source.spanned and why_unavailable() is None
        }
        context = StepContext.silent(self.store)
        return source.origin.open(context, Readable(paths, seen), self._stack)

    def _imatrix(self, used: UsedMatrix | None, folder: str) -> Imatrix | None:
        from mbuild.quant.choose.imatrix import open_imatrix

        if used is None:
            return None
        return open_imatrix(self._path(used.file, folder), name=used.file.name, use=used.use)

    def _path(self, file: SourceFile, folder: str) -> Path:
        """Open a file of the build; here it has another inode, and must have the same times."""
        place = Path(folder) / file.path
        try:
            opened = self._stack.enter_context(OpenFile.open(place, file.name))
        except (SourceError, OSError) as error:
            raise _unreadable(str(place), error) from None
        info, stamp = opened.info, file.stamp
        same_time = stamp.mtime_ns == info.st_mtime_ns or stamp.ctime_ns is None
        if info.st_size != stamp.size or not same_time:
            raise WorkerError(
                f"the worker {_name()} finds a different file under {place} from the build's",
                hint="let all machines see the same files under the same paths",
            )
        return opened.reading_path

    def part(self, place: Place) -> Range:
        """A range of a tensor, cut as the build cuts it."""
        if place.tensor not in self._parts:
            tensor = self._tensors[place.tensor]
            self._parts[place.tensor] = {each.first: each for each in ranges_of(0, tensor)}
        return self._parts[place.tensor][place.first]

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def _unreadable(place: str, error: Exception) -> WorkerError:
    return WorkerError(
        f"the worker {_name()} cannot read {place}: {error}",
        hint="let all machines see the same files under the same paths",
    )


_SOURCES: dict[bytes, _Opened] = {}
_LOCK = threading.Lock()


@contextmanager
def _opened(key: bytes, source: FillSource) -> Iterator[_Opened]:
    """A source, opened now or before; those that were used last stay open."""
    with _LOCK:
        opened = _SOURCES.pop(key, None) or _Opened(source)
        _SOURCES[key] = opened  # the last one
        opened.users += 1
        idle = [other for other, each in _SOURCES.items() if not each.users]
        for other in idle[: max(0, len(_SOURCES) - _KEPT)]:
            _SOURCES.pop(other).close()
    try:
        yield opened
    finally:
        with _LOCK:
            opened.users -= 1


def close_idle() -> None:
    """Close what tasks of this process have left open: an executor's threads may be in it."""
    with _LOCK:
        for key in [key for key, opened in _SOURCES.items() if not opened.users]:
            _SOURCES.pop(key).close()


def pickled(source: FillSource) -> bytes:
    """A source as a task carries it."""
    return pickle.dumps(tuple(source), protocol=5)


def layers_of(origin: Origin) -> Iterator[Layer]:
    """The layers of stored models that an origin reads."""
    if isinstance(origin, LayerOrigin):
        yield from origin.layers
    elif isinstance(origin, ChangedOrigin):
        yield from layers_of(origin.base)
        for change in origin.changes:
            if isinstance(change, TakeTensors):
                yield from layers_of(change.origin)
