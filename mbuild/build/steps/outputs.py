"""The files that a quantized model is written to, and where in them each finished range lies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.split import split
from mbuild.gguf.writer import SLICE, layout, padded
from mbuild.store.records import RangePlace

if TYPE_CHECKING:
    from contextlib import ExitStack

    from mbuild.build.steps.ranges import MadeRange, RangeCache
    from mbuild.gguf.model import KV, MetadataEntry
    from mbuild.gguf.types import GGMLType
    from mbuild.quant.choose.imatrix import Imatrix
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore, Writer

HandOut = Callable[["VariantFile", Sequence[tuple[str, RangePlace]]], object]
"""Is given a file, and where its ranges lie, by their keys."""

_SAVE_BYTES = 128 << 20  # output after which finished ranges are made durable at the latest
_LOOK_SECONDS = 0.05


class SaveRule(NamedTuple):
    """When finished ranges are saved: after so many seconds, and so many bytes.

    At most one part in ``share`` of the disk's time goes to that. What is not ``durable`` outlives
    a build that is killed; a power cut may cost it, which its digest shows.
    """

    seconds: float
    size: int
    share: int
    durable: bool


OWN_WORK = SaveRule(1.0, 8 << 20, 10, durable=True)
"""What was made here: making it again costs this machine a second, and what it read meanwhile."""

WORK_OF_OTHERS = SaveRule(0.1, 1, 2, durable=False)
"""What workers made: a build that is killed loses what runs, and a tenth of a second's work."""


class Variant(NamedTuple):
    """One quantized model to be: tensors with their new types in the file's order.

    ``name`` is what a killed build's unfinished files are found under. ``shards`` says how
    many of the tensors each file gets; it is empty for a model in one file. ``as_it_is``: as a
    conversion writes it and not llama-quantize, and without a name.
    """

    name: str
    tensors: tuple[tuple[Tensor, GGMLType], ...]
    metadata: tuple[MetadataEntry | KV, ...]
    imatrix: Imatrix | None
    shards: tuple[int, ...] = ()
    as_it_is: bool = False

    @property
    def files(self) -> tuple[Model, ...]:
        """What each file holds; loading a tensor gives the source's bytes."""
        tensors = tuple(
            Tensor(t.name, t.dims if self.as_it_is else _needed(t.dims), new, t.load)
            for t, new in self.tensors
        )
        model = Model(tuple(self.metadata), tensors)
        return split(model, self.shards) if self.shards else (model,)


def _needed(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions without ones at the end: a conversion keeps those, llama-quantize does not."""
    while len(dims) > 1 and dims[-1] == 1:
        dims = dims[:-1]
    return dims


def files_of(
    variant: Variant,
    cache: RangeCache,
    store: BuildStore,
    stack: ExitStack,
    rule: SaveRule = OWN_WORK,
) -> list[VariantFile]:
    """The files of a variant, under construction; unfinished ones outlive a kill."""
    models = variant.files
    found = []
    for number, model in enumerate(models, start=1):
        several = variant.name and len(models) > 1
        name = f"{variant.name}{number:05d}-" if several else variant.name
        writer = stack.enter_context(store.blobs.writer(name))
        found.append(VariantFile(model, writer, cache, rule, waits=len(models) > 1))
    return found


def in_shards(tensors: int, shards: Sequence[int]) -> list[range]:
    """The numbers of the tensors in each file: all in one, or as many as each shard has."""
    found, start = [], 0
    for count in shards or (tensors,):
        found.append(range(start, start + count))
        start += count
    return found


class VariantFile:
    """One file of a variant: its header, its ranges in order, and where in it they lie.

    ``waits``: it is one of several, which are published together when all are written.
    """

    def __init__(
        self, model: Model, writer: Writer, cache: RangeCache, rule: SaveRule, *, waits: bool
    ) -> None:
        self.writer = writer
        self._waits = waits
        self.layout = layout(model)
        self._cache = cache
        self._rule = rule
        self._done: list[tuple[str, RangePlace]] = []  # keys, and places but for the file's name
        self._noted = 0  # of these
        self._saved = self._durable = 0
        self._saving = False
        self._due = time.monotonic() + rule.seconds
        self._tensors = 0  # that are written
        self._wanted: HandOut | None = None
        self.before: Callable[[MadeRange], object] = lambda made: None
        """Is told of each range before it is written."""

    def hand_out(self, take: HandOut) -> None:
        """Have ``take`` told soon, once, where all ranges lie that are written by then."""
        self._wanted = take

    @property
    def ended(self) -> bool:
        """Whether all of it is written."""
        return self._tensors == len(self.layout.sizes)

    def begin(self, tell: Callable[[], None]) -> None:
        """Write the header."""
        self._write(memoryview(self.layout.header), tell)

    def add(self, made: MadeRange, tell: Callable[[], None], *, last: bool) -> None:
        """Write the next range; ``last``: its tensor ends with it."""
        self.before(made)
        if made.digest is not None:
            place = RangePlace("", self.writer.size, memoryview(made.data).nbytes, made.digest)
            self._done.append((made.key, place))
        self._write(memoryview(made.data).cast("B"), tell)
        if last:
            size = self.layout.sizes[self._tensors]
            self._write(memoryview(bytes(padded(size, self.layout.alignment) - size)), tell)
            self._tensors += 1
        wanted, self._wanted = self._wanted, None
        if wanted is not None or (self._waits if self.ended else self._is_due()):
            self._save(wanted, begun=wanted is not None or self._waits or self._rule.durable)

    @property
    def until_due(self) -> float | None:
        """In how many seconds to save, though nothing more comes; None where that can wait."""
        if self._rule.durable or self._saved == self.writer.size or not self._done:
            return None
        return _LOOK_SECONDS if self._saving else max(0.0, self._due - time.monotonic())

    def save_now(self) -> None:
        """Nothing more came in time; nothing is done while the last save is under way."""
        if not self._saving:
            self._save()

    def stop(self) -> None:
        """The build was stopped: let the next one find what is written."""
        if self._done and not self.ended:
            self._save(durable=True)
            self.writer.wait()

    def commit(self) -> Blob:
        """Publish the file, and note where its ranges lie."""
        blob = self.writer.commit()
        self._record(f"blobs/{blob.digest.filename}")
        return blob._replace(limits=self.writer.limits.rounded())

    def _write(self, data: memoryview, tell: Callable[[], None]) -> None:
        for start in range(0, len(data), SLICE):
            self.writer.write(data[start : start + SLICE])
            tell()

    def _is_due(self) -> bool:
        """Whether to save: one at a time, and by the rule."""
        new = self.writer.size - self._saved
        late = time.monotonic() >= self._due and new >= self._rule.size
        return bool(self._done) and not self._saving and (late or new >= _SAVE_BYTES)

    def _save(
        self, wanted: HandOut | None = None, *, durable: bool = False, begun: bool = True
    ) -> None:
        """Save what was written, and make the ranges in it findable, beside the writing.

        Without ``begun`` all but the last few megabytes: while more comes these are saved soon.
        """

        def note(path: str, written: int) -> None:
            for key, place in self._done[self._noted :]:
                if place.offset + place.size > written:
                    break
                self._noted += 1
                self._cache.record(key, place._replace(path=path))
            self._cache.flush()
            now = time.monotonic()
            self._due = now + max(self._rule.seconds, self._rule.share * (now - began))
            self._saving = False
            if wanted is not None:
                there = self._done[: self._noted]
                wanted(self, [(key, place._replace(path=path)) for key, place in there])

        began = time.monotonic()
        full = self.writer.size - self._durable >= _SAVE_BYTES
        durable = durable or self._rule.durable or full or self._waits
        self._saving = True
        self._saved = self.writer.size if begun else self._saved
        self._durable = self.writer.size if durable else self._durable
        self.writer.save(note, durable=durable, begun=begun)

    def _record(self, path: str) -> None:
        for key, place in self._done:
            self._cache.record(key, place._replace(path=path))
