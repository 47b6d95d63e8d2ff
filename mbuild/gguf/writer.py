"""Writing a model as a GGUF file: a pure layout, and a stream of bytes to a sink.

The layout is llama.cpp's: version 3, header, metadata, tensor entries, padding,
then each tensor's data padded to the alignment, the last one too (gguf.cpp).
Equal models give equal bytes, whatever the number of workers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple
from mbuild.gguf.checks import check_key, valid_alignment, with_nul
from mbuild.gguf.encoding import U32, U64, encode_string
from mbuild.gguf.foreign import MAGIC
from mbuild.gguf.memory import reused
from mbuild.gguf.model import InPieces, Model, Tensor, held_for
from mbuild.gguf.types import ALIGNMENT, ValueType
from mbuild.work.ahead import Ahead, Job, budget
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mbuild.work.limits import Limits

Sink = Callable[["Buffer"], None]

VERSION = 3
SLICE = 8 << 20
"""Largest piece in bytes that a sink is handed: progress and Ctrl-C are this fine."""


class FileLayout(NamedTuple):
    """Where everything of a written file lies.

    ``header`` is all that precedes tensor data, padding included; ``offsets``
    and ``sizes`` (bytes, unpadded) are in tensor order, offsets from the start
    of the file; ``size`` is the whole file's length.
    """

    header: bytes
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    alignment: int
    size: int


def layout(model: Model) -> FileLayout:
    """Lay a model out; nothing is loaded but raw metadata.

    Raises :class:`FormatError` for a key or tensor name that occurs twice, a
    value that does not fit its type, a key or text that llama.cpp would cut at a NUL, a
    name over 63 bytes or a bad alignment.
    """
    _refuse_twice("metadata key", [kv.key for kv in model.metadata])
    _refuse_twice("tensor", [t.name for t in model.tensors])
    _refuse_odd(model)
    alignment = _alignment(model)
    sizes = tuple(t.nbytes for t in model.tensors)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(model.tensors), len(model.metadata))]
    parts += [kv.encode() for kv in model.metadata]
    relative: list[int] = []
    end = 0
    for tensor, size in zip(model.tensors, sizes, strict=True):
        relative.append(end)
        parts.append(_encode_info(tensor, end))
        end = padded(end + size, alignment)
    header = b"".join(parts)
    header += bytes(padded(len(header), alignment) - len(header))
    offsets = tuple(len(header) + offset for offset in relative)
    return FileLayout(header, offsets, sizes, alignment, len(header) + end)


def padded(size: int, alignment: int) -> int:
    """A size with what fills it up to a multiple of the alignment."""
    return -(-size // alignment) * alignment


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{what} {twice!r} occurs twice in the model")


def _refuse_odd(model: Model) -> None:
    """Keys and texts of which llama.cpp would read only the beginning; the reader refuses them."""
    for kv in model.metadata:
        if problem := check_key(kv.key):
            raise FormatError(f"metadata key {kv.key!r} {problem}")
    for kv in with_nul(model.metadata):
        raise FormatError(
            f"the text of {kv.key} has a NUL, where llama.cpp would end it",
            hint="take it out of the file that the text comes from",
        )


def _alignment(model: Model) -> int:
    for kv in model.metadata:
        if kv.key == "general.alignment":
            value = kv.value
            if kv.type is not ValueType.UINT32 or not valid_alignment(value):
                raise FormatError(f"general.alignment is {value!r} of type {kv.type.name}")
            return int(value)
    return ALIGNMENT


def _encode_info(tensor: Tensor, offset: int) -> bytes:
    name = encode_string(tensor.name)
    if not 1 <= len(name) - 8 <= 63 or not 1 <= len(tensor.dims) <= 4:
        raise FormatError(
            f"tensor {tensor.name!r} with dimensions {list(tensor.dims)}: "
            "GGUF takes names of 1 to 63 bytes and 1 to 4 dimensions"
        )
    return b"".join(
        (
            name,
            U32.pack(len(tensor.dims)),
            *map(U64.pack, tensor.dims),
            U32.pack(tensor.type),
            U64.pack(offset),
        )
    )


def write(
    model: Model,
    sink: Sink,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    plan: FileLayout | None = None,
    limits: Limits | None = None,
) -> FileLayout:
    """Write a model to ``sink``, in order, in pieces of at most 8 MiB.

    As :func:`write_all` of this one file. ``limits`` is told how long the writing waited for
    loads. Returns the layout, ``plan`` where that is known.
    """
    plan = plan or layout(model)
    output = Output(model, plan, sink, limits=limits)
    write_all([output], workers=workers, progress=progress)
    return plan


class Output(NamedTuple):
    """A file to write: what it holds, its layout, and who takes its bytes.

    ``finish`` is called when the last tensor is written, which may be long before the last
    file is; of a file without tensors it is not. ``limits`` is told how long the writing of
    the file waited for loads.
    """

    model: Model
    plan: FileLayout
    sink: Sink
    finish: Callable[[], object] = lambda: None
    limits: Limits | None = None


def write_all(
    files: Sequence[Output],
    *,
    together: int = 1,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write files to their sinks, each in order, ``together`` of them at once.

    ``workers`` threads (by default one a core) load tensors ahead of the calling thread,
    which alone calls sinks and ``progress`` (with the bytes written so far). What is
    loaded and not yet written is within a budget (:func:`mbuild.work.ahead.budget`), but
    for a tensor that is larger and cannot be loaded in pieces.
    Whatever is raised, by a load, by a sink or by Ctrl-C, ends the writing at
    once and is raised here; a load that is running then is left to end by
    itself, its result dropped.
    """
    loads = [_loads(file.model, file.plan) for file in files]
    order = interleaved([[load.size for load in each] for each in loads], together)
    ordered = [loads[file][number] for file, number in order]
    jobs = [Job(load.run, held_for(load.size)) for load in ordered]
    threads = cores() if workers is None else max(1, workers)
    largest = max((job.size for job in jobs), default=0)
    ahead = Ahead(jobs, threads, budget(threads, largest))
    written = 0

    def emit(file: int, data: memoryview) -> None:
        nonlocal written
        for start in range(0, len(data), SLICE):
            piece = data[start : start + SLICE]
            files[file].sink(piece)
            written += len(piece)
            if progress is not None:
                progress(written)

    with reused():
        try:
            ahead.start()
            for file, output in enumerate(files):
                emit(file, memoryview(output.plan.header))
            for index, (file, number) in enumerate(order):
                emit(file, ahead.take(index, files[file].limits))
                ahead.done(index)
                emit(file, memoryview(bytes(loads[file][number].padding)))
                if number == len(loads[file]) - 1:
                    files[file].finish()
        finally:
            ahead.stop()


def interleaved(sizes: Sequence[Sequence[int]], together: int) -> list[tuple[int, int]]:
    """In which order to make pieces of several files, so that ``together`` of them grow at once.

    ``sizes`` are those of each file's pieces, in bytes; what comes out are pairs of a file and
    a piece of it. Each file's pieces stay in order. The digest of one file cannot be made in
    parallel, those of several files can.
    """
    order: list[tuple[int, int, int, int]] = []
    for file, pieces in enumerate(sizes):
        at = 0
        for number, size in enumerate(pieces):
            order.append((file // together, at, file, number))
            at += size
    return [(file, number) for _, _, file, number in sorted(order)]


def largest_load(model: Model, plan: FileLayout) -> int:
    """Bytes that the largest piece takes that :func:`write` loads as a whole."""
    return max((held_for(load.size) for load in _loads(model, plan)), default=0)


class _Load(NamedTuple):
    """A load: all of a tensor or a piece of one, and how many zeros follow it."""

    name: str
    load: Callable[[], Buffer]
    size: int
    padding: int

    def run(self) -> memoryview:
        """The bytes, flat, after a check of their number."""
        view = memoryview(self.load())
        if view.nbytes != self.size:
            raise FormatError(f"tensor {self.name!r}: {view.nbytes} bytes loaded, not {self.size}")
        try:
            return view.cast("B") if self.size else memoryview(b"")
        except (TypeError, ValueError):  # not contiguous, or of a type that Python does not know
            return memoryview(view.tobytes())


def _loads(model: Model, plan: FileLayout) -> list[_Load]:
    loads: list[_Load] = []
    for tensor, size in zip(model.tensors, plan.sizes, strict=True):
        padding = padded(size, plan.alignment) - size
        # A range of another length than the tensor's goes whole, to be refused.
        if isinstance(tensor.load, InPieces) and tensor.load.count == size > 0:
            pieces = list(tensor.load.pieces(SLICE))
            loads += [_Load(tensor.name, piece, piece.count, 0) for piece in pieces[:-1]]
            loads.append(_Load(tensor.name, pieces[-1], pieces[-1].count, padding))
        else:
            loads.append(_Load(tensor.name, tensor.load, size, padding))
    return loads
