"""Tensors through the quantizer: loaded once for all variants, looked up before they are made."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mbuild.digest import BLAKE3, hashing
from mbuild.errors import CancelledError, MbuildError
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.gguf.writer import layout, write
from mbuild.graph import StepContext, canonical_json
from mbuild.quant.quantize import SOURCES, VERSION, NotFiniteError, quantize

if TYPE_CHECKING:
    from mbuild.digest import Digest
    from mbuild.gguf.model import Entry
    from mbuild.quant.imatrix import Imatrix
    from mbuild.steps.files import OpenFiles
    from mbuild.steps.origins import Origin
    from mbuild.store import Store
    from mbuild.store.blobs import Blob, BlobWriter

_AHEAD = 2  # tensors that the fastest variant may be ahead of the slowest
_RECORD = "tensor"
_SOURCES = "source-tensors"
_SAVE_BYTES = 128 << 20  # output after which finished tensors are made durable
_CORES = 2

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
    """Where the bytes of a quantized tensor lie: in which file of the store, and their digest."""

    path: str
    offset: int
    size: int
    digest: str


class TensorCache:
    """Remembers quantized tensors by what they were made of, and source tensors' digests.

    Digests of tensors never leave this cache, so they are BLAKE3, which takes a third of
    the time that SHA-256 does: each source byte is hashed twice, as part of its file too.

    A tensor's key is its source bytes' digest, its types, the importances used
    and the kernels' version. Its bytes lie in a blob or in the unfinished file
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
            known = store.database.get(_SOURCES, _key(origin))
            self._digests = json.loads(known) if known else {}

    def source_digest(self, tensor: Tensor, load: Callable[[], Array]) -> str:
        """The digest of a tensor's bytes, remembered or from loading it."""
        known = self._digests.get(tensor.name)
        if known is None:
            known = _digest(load())
            self._digests[tensor.name] = known
        return known

    def remember_sources(self, origin: Origin, files: Mapping[str, Digest]) -> None:
        """Keep the source tensors' digests under the origin's own description."""
        fields = _fields_with(origin, files)
        if fields is not None:
            self._store.database.put(_SOURCES, _key(fields), canonical_json(self._digests))

    def key(self, source: str, tensor: Tensor, new: GGMLType, importances: Array | None) -> str:
        """The key of one quantized tensor."""
        weights = importances if importances is None else _digest(importances)
        made_of = [source, tensor.type.name, new.name, tensor.dims[0], weights, VERSION]
        return _key({"tensor": made_of})

    def find(self, key: str) -> bytes | None:
        """A quantized tensor's bytes, if they are somewhere in the store and undamaged."""
        places = self._store.database.find(_RECORD, key) if self._read else []
        for place, text in places:
            with suppress(ValueError, TypeError):
                found = Found(*json.loads(text))
                data = self._bytes_at(found)
                if data is None:
                    self._store.database.forget(_RECORD, place)
                elif len(data) == found.size and _digest(data) == found.digest:
                    return data
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
        """Note a place where a quantized tensor lies, beside others; written by the next flush."""
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


def write_variants(
    variants: Sequence[Variant],
    model: Model,
    cache: TensorCache,
    files: OpenFiles,
    context: StepContext,
) -> list[Blob]:
    """Write every variant's file in its own thread, all fed by one pass over the source."""
    from contextlib import ExitStack

    shared = _Shared(len(variants))
    with ExitStack() as stack:
        lanes = [
            _Lane(index, variant, shared, cache, context, stack.enter_context(writer))
            for index, variant in enumerate(variants)
            for writer in [context.store.blobs.writer(variant.name)]
        ]
        total = sum(lane.layout.size for lane in lanes)
        context.store.blobs.check_room(total)
        _run_lanes(lanes, shared, lambda done: context.report(done, total))
        files.finish(context)
        blobs = []
        for lane in lanes:
            blobs.append(lane.writer.commit())
            lane.record(f"blobs/{blobs[-1].digest.filename}")
    cache.flush()
    reused = sum(len(lane.found) for lane in lanes)
    if reused:
        total = sum(lane.quantized for lane in lanes)
        made = dict.fromkeys(name for lane in lanes for name in lane.made)
        context.status(f"reused {reused} of {total} quantized tensors")
        if 0 < len(made) <= _NAMED:
            context.status(f"quantized anew: {', '.join(made)}")
    return blobs


def _run_lanes(lanes: Sequence[_Lane], shared: _Shared, report: Callable[[int], None]) -> None:
    """Run all lanes to their ends; the first error stops the others and is raised."""
    threads = [threading.Thread(target=lane.run, name="mbuild-variant") for lane in lanes[1:]]
    lanes[0].report = lambda: report(sum(lane.writer.size for lane in lanes))
    for thread in threads:
        thread.start()
    try:
        lanes[0].run()
        while any(thread.is_alive() for thread in threads) and shared.error is None:
            threads[-1].join(0.1)
            for thread in threads:
                thread.join(0.01)
            report(sum(lane.writer.size for lane in lanes))
    except BaseException as error:
        shared.fail(error)
        if not isinstance(error, CancelledError):
            raise
    finally:
        for thread in threads:
            thread.join()
    if shared.error is not None:
        raise shared.error


_NAMED = 4
"""So many tensors are named that a build did not find in the cache; more are only counted."""


class _Lane:
    """One variant's way: its tensors, made or found, written in order."""

    def __init__(
        self,
        index: int,
        variant: Variant,
        shared: _Shared,
        cache: TensorCache,
        context: StepContext,
        writer: BlobWriter,
    ) -> None:
        self._index = index
        self._variant = variant
        self._shared = shared
        self._cache = cache
        self._done: dict[int, tuple[str, str]] = {}  # number: key, digest of the bytes
        self._saved = 0
        self.found: set[int] = set()  # tensors that the cache had
        self.writer = writer
        self._check: Callable[[], None] = lambda: context.report(0, 0)
        self.report: Callable[[], None] = lambda: None
        # Few big tensors profit from threads inside, many variants from each other.
        self._threads = max(1, _CORES // shared.users)
        tensors = [
            Tensor(tensor.name, tensor.dims, new, self._maker(number, tensor, new))
            for number, (tensor, new) in enumerate(variant.tensors)
        ]
        self.model = Model(tuple(variant.metadata), tuple(tensors))
        self.layout = layout(self.model)

    @property
    def made(self) -> Iterator[str]:
        """The names of the tensors that were quantized now: the source's are new, or changed."""
        for number, (tensor, new) in enumerate(self._variant.tensors):
            if new is not tensor.type and number not in self.found:
                yield tensor.name

    @property
    def quantized(self) -> int:
        """How many tensors of the file have another type than the source's."""
        return sum(new is not tensor.type for tensor, new in self._variant.tensors)

    def run(self) -> None:
        """Write the file; an error is kept for whoever started the lanes."""
        try:
            workers = _CORES if self._shared.users == 1 else 1
            write(
                self.model,
                self.writer.write,
                workers=workers,
                progress=self._progress,
                plan=self.layout,
            )
            self._shared.advance(self._index, len(self._variant.tensors))
        except BaseException as error:
            self._shared.fail(error)
            if isinstance(self._shared.error, CancelledError):  # the user stopped the build
                with suppress(MbuildError):
                    self._save()
                    self.writer.wait()
            if self._index == 0:
                raise

    def _progress(self, done: int) -> None:
        self.report()
        if self._shared.error is not None:
            raise CancelledError("another variant failed")
        if done - self._saved >= _SAVE_BYTES:
            self._saved = done
            self._save()

    def _save(self) -> None:
        """Make what was written durable, and the tensors in it findable, beside the writing."""

        def note(path: str, written: int) -> None:
            self.record(path, written)
            self._cache.flush()

        self.writer.save(note)

    def record(self, path: str, written: int | None = None) -> None:
        """Note where the finished tensors lie."""
        for number, (key, digest) in list(self._done.items()):
            offset, size = self.layout.offsets[number], self.layout.sizes[number]
            if written is None or offset + size <= written:
                self._cache.record(key, Found(path, offset, size, digest))

    def _maker(self, number: int, tensor: Tensor, new: GGMLType) -> Callable[[], Any]:
        return lambda: self._make(number, tensor, new)

    def _make(self, number: int, tensor: Tensor, new: GGMLType) -> Any:
        """A tensor's new bytes: as they are, as found, or quantized now."""
        shared, cache = self._shared, self._cache
        shared.advance(self._index, number)
        if new is tensor.type:
            data: Any = shared.load(tensor)
        else:
            imatrix = self._variant.imatrix
            importances = imatrix.of(tensor.name, tensor.dims) if imatrix else None
            source = cache.source_digest(tensor, lambda: shared.load(tensor))
            key = cache.key(source, tensor, new, importances)
            data = cache.find(key)
            if data is None:
                data = self._quantized(tensor, new, importances)
            else:
                self.found.add(number)
            self._done[number] = (key, _digest(data))
        shared.used(tensor)
        return data

    def _quantized(self, tensor: Tensor, new: GGMLType, importances: Array | None) -> Array:
        """Quantize one tensor; a build that is stopped stops in the middle of it."""
        from mbuild.steps.quantize import not_finite

        source, data = _readable(tensor, self._shared.load(tensor))
        try:
            return quantize(
                new,
                source,
                data,
                tensor.dims[0],
                imatrix=importances,
                threads=self._threads,
                check=self._check,
            )
        except NotFiniteError as error:
            raise not_finite(tensor.name, error) from error


def _readable(tensor: Tensor, data: Array) -> tuple[GGMLType, Array]:
    """A tensor's values in a type that can be quantized: what is quantized already is decoded."""
    if tensor.type in SOURCES:
        return tensor.type, data
    import gguf

    kind = gguf.GGMLQuantizationType(int(tensor.type))
    return GGMLType.F32, gguf.quants.dequantize(data.reshape(-1, _row_bytes(tensor)), kind)


def _row_bytes(tensor: Tensor) -> int:
    block = BLOCKS[tensor.type]
    return tensor.dims[0] // block.weights * block.size


class _Shared:
    """Source tensors, each loaded once and kept until every variant has used it."""

    def __init__(self, users: int) -> None:
        self.users = users
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._at = [0] * users
        self._loaded: dict[str, Array | None] = {}
        self._uses: dict[str, int] = {}

    def advance(self, lane: int, number: int) -> None:
        """A lane comes to a tensor; it waits while it is too far ahead of the slowest."""
        with self._changed:
            self._at[lane] = max(self._at[lane], number)
            self._changed.notify_all()
            while self.error is None and number > min(self._at) + _AHEAD and self.users > 1:
                self._changed.wait(0.5)
            if self.error is not None:
                raise CancelledError("another variant failed")

    def load(self, tensor: Tensor) -> Array:
        """A tensor's bytes; the first lane that asks loads them, the others wait."""
        with self._changed:
            while tensor.name in self._loaded and self._loaded[tensor.name] is None:
                self._changed.wait(0.5)
                if self.error is not None:
                    raise CancelledError("another variant failed")
            found = self._loaded.get(tensor.name)
            if found is not None:
                return found
            self._loaded[tensor.name] = None
        data = np.frombuffer(memoryview(tensor.load()).cast("B"), np.uint8)
        with self._changed:
            self._loaded[tensor.name] = data
            self._changed.notify_all()
        return data

    def used(self, tensor: Tensor) -> None:
        """A lane is done with a tensor; the last one lets it go."""
        with self._changed:
            self._uses[tensor.name] = self._uses.get(tensor.name, 0) + 1
            if self._uses[tensor.name] == self.users:
                self._loaded.pop(tensor.name, None)

    def fail(self, error: BaseException) -> None:
        """Stop all lanes; the first error counts."""
        with self._changed:
            if self.error is None:
                self.error = error
            self._changed.notify_all()
