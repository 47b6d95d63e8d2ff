"""Tensors through the quantizer, by ranges of rows: read once for all variants, looked up first.

A range is some rows of a source tensor, about 16 MiB of them: the unit of work. It is read,
digested, looked up for each variant and quantized where no variant before had it, on one
of the threads; the results are taken in the order of the file by one thread a variant,
which digests the file and hands it to the disk. So everything overlaps, a huge tensor is
cut and needs no more memory than others, and a model of small tensors keeps all cores busy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mbuild.digest import BLAKE3, hashing
from mbuild.errors import CancelledError, MbuildError
from mbuild.gguf.memory import reused
from mbuild.gguf.model import KV, InPieces, Model, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.gguf.writer import SLICE, layout, padded
from mbuild.graph import StepContext, canonical_json
from mbuild.quant.quantize import SOURCES, VERSION, NotFiniteError, quantize
from mbuild.work.ahead import Ahead, Job, budget
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from mbuild.digest import Digest
    from mbuild.gguf.model import Entry
    from mbuild.quant.imatrix import Imatrix
    from mbuild.steps.files import OpenFiles
    from mbuild.steps.origins import Origin
    from mbuild.store import Store
    from mbuild.store.blobs import Blob, BlobWriter

RANGE = 16 << 20
"""Bytes of a source tensor that are worked on at once: some hundredths of a second's work."""

_RECORD = "range"
_SOURCES = "source-ranges"
_NAMED = 4  # tensors that were not in the cache are named if they are so few
_SAVE_BYTES = 128 << 20  # output after which finished ranges are made durable

Array = np.ndarray[Any, np.dtype[Any]]


class Variant(NamedTuple):
    """One quantized model to be: tensors with their new types in the file's order.

    ``name`` is what a killed build's unfinished file is found under.
    """

    name: str
    tensors: tuple[tuple[Tensor, GGMLType], ...]
    metadata: tuple[Entry | KV, ...]
    imatrix: Imatrix | None


class Found(NamedTuple):
    """Where the bytes of a quantized range lie: in which file of the store, and their digest."""

    path: str
    offset: int
    size: int
    digest: str


class RangeCache:
    """Remembers quantized ranges by what they were made of, and source ranges' digests.

    Digests of ranges never leave this cache, so they are BLAKE3, which takes a third of
    the time that SHA-256 does: each source byte is hashed twice, as part of its file too.

    A range's key is its source bytes' digest, its types, the importances used
    and the kernels' version. Its bytes lie in blobs or in the unfinished file
    of a build that was killed; they count only if their digest is right.
    Without ``read`` nothing is found, only recorded.
    """

    def __init__(
        self, store: Store, origin: Mapping[str, Any] | None, *, read: bool = True
    ) -> None:
        self._store = store
        self._read = read
        self._digests: dict[str, str] = {}
        if read and origin is not None:
            known = store.database.get(_SOURCES, _key([origin, RANGE]))
            self._digests = json.loads(known) if known else {}

    def source_digest(self, part: Range, load: Callable[[], Array]) -> str:
        """The digest of a range's bytes, remembered or from loading it."""
        name = f"{part.first} {part.tensor.name}"
        known = self._digests.get(name)
        if known is None:
            known = _digest(load())
            self._digests[name] = known
        return known

    def remember_sources(self, origin: Origin, files: Mapping[str, Digest]) -> None:
        """Keep the source ranges' digests under the origin's own description."""
        fields = _fields_with(origin, files)
        if fields is not None:
            key = _key([fields, RANGE])
            self._store.database.put(_SOURCES, key, canonical_json(self._digests))

    def key(self, source: str, part: Range, new: GGMLType, importances: Array | None) -> str:
        """The key of one quantized range."""
        weights = importances if importances is None else _digest(importances)
        tensor = part.tensor
        made_of = [source, tensor.type.name, new.name, tensor.dims[0], weights, VERSION]
        return _key({"range": made_of})

    def find(self, key: str) -> Made | None:
        """A quantized range, if its bytes are somewhere in the store and undamaged."""
        places = self._store.database.find(_RECORD, key) if self._read else []
        for place, text in places:
            with suppress(ValueError, TypeError):
                found = Found(*json.loads(text))
                data = self._bytes_at(found)
                if data is None:
                    self._store.database.forget(_RECORD, place)
                elif len(data) == found.size and _digest(data) == found.digest:
                    return Made(data, key, found.digest, found=True)
        return None

    def _bytes_at(self, found: Found) -> bytes | None:
        """What lies at a place; None when the file is gone, under its name and as a kept one."""
        path = self._store.root / found.path
        for file_path in (path, self._store.kept.folder / path.name):
            with suppress(OSError), file_path.open("rb") as file:
                file.seek(found.offset)
                return file.read(found.size)
        return None

    def record(self, key: str, found: Found) -> None:
        """Note a place where a quantized range lies, beside others; written by the next flush."""
        self._store.database.put(_RECORD, f"{key} {found.path}", json.dumps(found))

    def flush(self) -> None:
        """Write what was noted."""
        self._store.database.flush()


def _fields_with(origin: Origin, files: Mapping[str, Digest]) -> Mapping[str, Any] | None:
    from mbuild.graph import Result

    return origin.learned(Result(files=files)).fields()


def _digest(data: Array | bytes) -> str:
    state = hashing(BLAKE3)
    flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
    state.update(flat.reshape(-1).view(np.uint8).data)
    return str(state.hexdigest())


def _key(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Range(NamedTuple):
    """Some rows of a source tensor, the unit of work.

    ``number`` is the tensor's; ``first`` and ``size`` are bytes of the tensor, whole rows
    of it; ``load`` gives them. ``last`` tells that the tensor ends here. Where the tensor is
    several matrices (experts), a range lies within one of them or is some whole ones.
    """

    number: int
    tensor: Tensor
    load: Callable[[], Any]
    first: int
    size: int
    last: bool

    @property
    def rows(self) -> tuple[int, int]:
        """The first row and how many there are."""
        row = _row_bytes(self.tensor)
        return self.first // row, self.size // row


def ranges_of(number: int, tensor: Tensor) -> Iterator[Range]:
    """A tensor's ranges in order: of about :data:`RANGE` bytes, as far as it can be cut."""
    pieces = list(_pieces(tensor))
    if not pieces:
        yield Range(number, tensor, tensor.load, 0, tensor.nbytes, last=True)
    for place, (first, piece) in enumerate(pieces, start=1):
        yield Range(number, tensor, piece, first, piece.count, last=place == len(pieces))


def _pieces(tensor: Tensor) -> Iterator[tuple[int, InPieces]]:
    """Loads of a tensor's parts and where they begin: cut at matrices, then at rows."""
    if not isinstance(tensor.load, InPieces) or not tensor.nbytes:
        return
    row = _row_bytes(tensor)
    matrix = row * tensor.dims[1] if len(tensor.dims) > 2 else tensor.nbytes
    at = 0
    for whole in tensor.load.pieces(matrix, matrix):
        for piece in whole.pieces(RANGE, row):
            yield at, piece
            at += piece.count


class Made(NamedTuple):
    """One variant's result of a range; without a key it is the source's bytes as they are."""

    data: Any
    key: str = ""
    digest: str = ""
    found: bool = False


def write_variants(
    variants: Sequence[Variant],
    model: Model,
    cache: RangeCache,
    files: OpenFiles,
    context: StepContext,
) -> list[Blob]:
    """Write every variant's file on its own thread, all fed by one pass over the source."""
    work = _Work(variants, cache, context)
    with ExitStack() as stack:
        lanes = [
            _Lane(index, variant, work, cache, stack.enter_context(writer))
            for index, variant in enumerate(variants)
            for writer in [context.store.blobs.writer(variant.name)]
        ]
        total = sum(lane.layout.size for lane in lanes)
        context.store.blobs.check_room(total)
        _run_lanes(lanes, work, lambda done: context.report(done, total))
        files.finish(context)
        blobs = []
        for lane in lanes:
            blobs.append(lane.writer.commit())
            lane.record(f"blobs/{blobs[-1].digest.filename}")
    cache.flush()
    reused_count = sum(len(lane.found) for lane in lanes)
    if reused_count:
        total = sum(lane.quantized for lane in lanes)
        context.status(f"reused {reused_count} of {total} quantized tensors")
        made = dict.fromkeys(name for lane in lanes for name in lane.made)
        if 0 < len(made) <= _NAMED:
            context.status(f"quantized anew: {', '.join(made)}")
    return blobs


def _run_lanes(lanes: Sequence[_Lane], work: _Work, report: Callable[[int], None]) -> None:
    """Run all lanes to their ends; the first error stops the others and is raised."""
    threads = [threading.Thread(target=lane.run, name="mbuild-variant") for lane in lanes[1:]]
    lanes[0].report = lambda: report(sum(lane.writer.size for lane in lanes))
    with reused():
        work.ahead.start()
        for thread in threads:
            thread.start()
        try:
            lanes[0].run()
            while any(thread.is_alive() for thread in threads):
                threads[-1].join(0.1)
                for thread in threads:
                    thread.join(0.01)
                if work.error is None:
                    report(sum(lane.writer.size for lane in lanes))
        except BaseException as error:
            work.fail(error)
        finally:
            for thread in threads:
                thread.join()
            work.ahead.stop()
    if work.error is not None:
        raise work.error


class _Work:
    """What is made of each range, for all variants at once."""

    def __init__(
        self, variants: Sequence[Variant], cache: RangeCache, context: StepContext
    ) -> None:
        self.error: BaseException | None = None
        self._variants = variants
        self._cache = cache
        self._context = context
        self._threads = cores()
        sources = [tensor for tensor, _ in variants[0].tensors]
        self.ranges = [r for number, each in enumerate(sources) for r in ranges_of(number, each)]
        jobs = [Job(partial(self._make, part), self._size(part)) for part in self.ranges]
        largest = max((job.size for job in jobs), default=0)
        limit = budget(self._threads, largest)
        self.ahead: Ahead[tuple[Made, ...]] = Ahead(jobs, self._threads, limit, len(variants))

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
        return [variant.tensors[part.number][1] for variant in self._variants]

    def _size(self, part: Range) -> int:
        """Bytes that a range takes while it is worked on: its source and its results."""
        source, (_, rows) = part.tensor.type, part.rows
        changed = {new for new in self._types(part) if new is not source}
        size = part.size + sum(rows * _bytes_of_row(part.tensor, new) for new in changed)
        if changed and source not in SOURCES:
            size += rows * _bytes_of_row(part.tensor, GGMLType.F32)
        return size

    def _make(self, part: Range) -> tuple[Made, ...]:
        """A range for every variant: as it is, as found, or quantized now."""
        self._check()
        source = _Loaded(part)
        made: list[Made] = []
        for variant, new in zip(self._variants, self._types(part), strict=True):
            if new is part.tensor.type:
                made.append(Made(source.load()))
            else:
                made.append(self._changed(part, new, variant.imatrix, source))
        return tuple(made)

    def _changed(
        self, part: Range, new: GGMLType, imatrix: Imatrix | None, source: _Loaded
    ) -> Made:
        importances = _importances(part, imatrix)
        key = self._cache.key(self._cache.source_digest(part, source.load), part, new, importances)
        found = self._cache.find(key)
        if found is not None:
            return found
        made = self._quantized(part, new, importances, source.load())
        return Made(made, key, _digest(made))

    def _quantized(
        self, part: Range, new: GGMLType, importances: Array | None, data: Array
    ) -> Array:
        """Quantize a range; a build that is stopped stops in the middle of it.

        A tensor that cannot be cut is one range, however large: then it is spread.
        """
        from mbuild.steps.quantize import not_finite

        type_, values = _readable(part.tensor, data)
        try:
            return quantize(
                new,
                type_,
                values,
                part.tensor.dims[0],
                imatrix=importances,
                threads=max(1, min(self._threads, part.size // (2 * RANGE))),
                first_row=part.rows[0],
                check=self._check,
            )
        except NotFiniteError as error:
            raise not_finite(part.tensor.name, error) from error


def _importances(part: Range, imatrix: Imatrix | None) -> Array | None:
    """The importances of a range: of a tensor of several matrices those of its own."""
    every = imatrix.of(part.tensor.name, part.tensor.dims) if imatrix else None
    if every is None or len(part.tensor.dims) < 3:
        return every
    table = every.reshape(-1, part.tensor.dims[0])
    if len(table) == 1:
        return every
    rows = int(np.prod(part.tensor.dims[1:])) // len(table)
    first, count = part.rows
    return table[first // rows : -(-(first + count) // rows)].reshape(-1)


class _Loaded:
    """A range's bytes, loaded when they are first asked for."""

    def __init__(self, part: Range) -> None:
        self._part = part
        self._data: Array | None = None

    def load(self) -> Array:
        """The bytes, flat."""
        if self._data is None:
            self._data = np.frombuffer(memoryview(self._part.load()).cast("B"), np.uint8)
        return self._data


class _Lane:
    """One variant's way: its ranges, made or found, written in order."""

    def __init__(
        self,
        index: int,
        variant: Variant,
        work: _Work,
        cache: RangeCache,
        writer: BlobWriter,
    ) -> None:
        self._index = index
        self._variant = variant
        self._work = work
        self._cache = cache
        self._done: list[tuple[str, Found]] = []  # keys, and places but for the file's name
        self._saved = 0
        self._made: set[int] = set()  # tensors of which something had to be quantized
        self.writer = writer
        self.report: Callable[[], None] = lambda: None
        tensors = [Tensor(t.name, t.dims, new, t.load) for t, new in variant.tensors]
        self.layout = layout(Model(tuple(variant.metadata), tuple(tensors)))

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
        """Write the file; an error is kept for whoever started the lanes."""
        try:
            self._write(memoryview(self.layout.header))
            for number, part in enumerate(self._work.ranges):
                made = self._work.ahead.take(number)[self._index]
                self._note(part, made)
                self._write(memoryview(made.data).cast("B"))
                if part.last:
                    size = self.layout.sizes[part.number]
                    self._write(memoryview(bytes(padded(size, self.layout.alignment) - size)))
                del made
                self._work.ahead.done(number)
        except BaseException as error:
            self._work.fail(error)
            if isinstance(self._work.error, CancelledError):  # the user stopped the build
                with suppress(MbuildError):
                    self._save()
                    self.writer.wait()

    def _note(self, part: Range, made: Made) -> None:
        """Remember where a quantized range will lie in the file."""
        if made.key:
            place = Found("", self.writer.size, memoryview(made.data).nbytes, made.digest)
            self._done.append((made.key, place))
            if not made.found:
                self._made.add(part.number)

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), SLICE):
            self.writer.write(data[start : start + SLICE])
            self.report()
            if self._work.error is not None:
                raise CancelledError("another variant failed")
        if self.writer.size - self._saved >= _SAVE_BYTES:
            self._saved = self.writer.size
            self._save()

    def _save(self) -> None:
        """Make what was written durable, and the ranges in it findable, beside the writing."""

        def note(path: str, written: int) -> None:
            self.record(path, written)
            self._cache.flush()

        self.writer.save(note)

    def record(self, path: str, written: int | None = None) -> None:
        """Note where the finished ranges lie."""
        for key, place in list(self._done):
            if written is None or place.offset + place.size <= written:
                self._cache.record(key, place._replace(path=path))


def _readable(tensor: Tensor, data: Array) -> tuple[GGMLType, Array]:
    """A tensor's values in a type that can be quantized: what is quantized already is decoded."""
    if tensor.type in SOURCES:
        return tensor.type, data
    import gguf

    kind = gguf.GGMLQuantizationType(int(tensor.type))
    return GGMLType.F32, gguf.quants.dequantize(data.reshape(-1, _row_bytes(tensor)), kind)


def _row_bytes(tensor: Tensor) -> int:
    return _bytes_of_row(tensor, tensor.type)


def _bytes_of_row(tensor: Tensor, type_: GGMLType) -> int:
    block = BLOCKS[type_]
    return tensor.dims[0] // block.weights * block.size
