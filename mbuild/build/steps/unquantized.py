"""Weights as they are before they are quantized, in files that an engine can load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.results import cache_key, describe
from mbuild.build.steps.changed import ChangeWeights
from mbuild.build.steps.changes import ChangedOrigin
from mbuild.build.steps.checkpoint import ConvertCheckpoint
from mbuild.build.steps.opened import open_source
from mbuild.build.steps.origins import (
    ORIGIN_NAMES,
    CheckpointOrigin,
    GGUFOrigin,
    LayerOrigin,
    Origin,
)
from mbuild.build.steps.weights import CHECKPOINT_NAMES
from mbuild.core.errors import DamagedError
from mbuild.store.records import STEP

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.store import Layer, Store
    from mbuild.store.ports import BuildStore


class Unquantized(BaseStep):
    """Weights that are otherwise only made on their way become a file, for an engine to load.

    It runs if somebody who runs needs the file. What it makes is what ``weights`` would, and is
    kept under the key of that, too: a target that is not quantized need not make it again.
    """

    weights: Step

    kind: ClassVar[str] = "unquantized"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    fetches: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {**CHECKPOINT_NAMES, **ORIGIN_NAMES}

    @property
    def subject(self) -> str:
        """The name of the source."""
        return self.weights.subject

    @property
    def label(self) -> str:
        """What is written, and that it is no layer of the model."""
        return f"{self.weights.label}, for the engine"

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine."""
        return self.weights.needs

    @property
    def reads(self) -> int:
        """The source's size."""
        return self.weights.reads

    @property
    def materials(self) -> Any:
        """The source."""
        return self.weights.materials

    def key_fields(self) -> Mapping[str, Any] | None:
        """Those of the step that it stands for."""
        return self.weights.key_fields()

    def cost(self, store: BuildStore) -> Cost:
        """The unquantized file."""
        return self.weights.cost(store)

    def is_there(self, store: BuildStore, *, bring: bool) -> bool:
        """Whether the file is in the store, or kept by the cache; then it goes again afterwards."""
        layers = _made_before(self.weights, store)
        if not layers:
            return False
        sizes = {layer.digest: layer.size for layer in layers}
        if not bring:
            return not store.blobs.missing(sizes)
        if not all(store.blobs.bring(*item) for item in sizes.items()):
            return False
        cast("Store", store).discard(sizes)
        return True

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Write the file; no model names it, so that only the cache keeps it."""
        made = self.weights.run(context, inputs)
        for layer in made.new:
            context.store.blobs.keep(layer.digest)
        described = describe(self.weights.learned(made.files), ())
        if described is not None:
            context.store.cache.put(STEP, cache_key(described), made.result.to_json())
        cast("Store", context.store).discard(layer.digest for layer in made.new)
        return made

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(weights=self.weights.learned(files))


def _writing(origin: Origin) -> Step | None:
    """The step that writes an origin as it is; None for what is in files already."""
    if isinstance(origin, CheckpointOrigin):
        return ConvertCheckpoint(origin.source, origin.options)
    return ChangeWeights(origin) if isinstance(origin, ChangedOrigin) else None


def _made_before(weights: Step, store: BuildStore) -> tuple[Layer, ...]:
    """What a step without inputs came to, if the cache knows."""
    described = describe(weights, ())
    text = None if described is None else store.cache.get(STEP, cache_key(described))
    return () if text is None else Result.from_json(text).layers


def files_for_engine(origin: Origin) -> tuple[Step, ...]:
    """What has to run before :func:`loadable` can give an origin's weights."""
    weights = _writing(origin)
    return origin.needs if weights is None else (Unquantized(weights),)


@contextmanager
def loadable(origin: Origin, context: StepContext) -> Iterator[str]:
    """A path by which an engine loads an origin's weights, as long as the block runs."""
    weights = _writing(origin)
    if weights is not None:
        layers = _made_before(weights, context.store)
        if not layers:
            raise DamagedError(
                f"the unquantized weights of {origin.name} are gone from the cache",
                hint="build again",
            )
        with loadable_layers(layers, context) as path:
            yield path
    elif isinstance(origin, LayerOrigin):
        with loadable_layers(origin.layers, context) as path:
            yield path
    else:
        assert isinstance(origin, GGUFOrigin)
        with ExitStack() as stack:
            opened = [stack.enter_context(open_source(file)) for file in origin.sources]
            yield stack.enter_context(_linked([file.path.absolute() for file in origin.sources]))
            for file, source in zip(opened, origin.sources, strict=True):
                file.check_unchanged(change_time=source.stamp.ctime_ns is not None)


@contextmanager
def loadable_layers(layers: Sequence[Layer], context: StepContext) -> Iterator[str]:
    """A path by which an engine loads weights of the store, in one layer or in shards."""
    for layer in layers:
        context.store.blobs.bring(layer.digest, layer.size)
    paths = [context.store.blobs.local_path(layer.digest).absolute() for layer in layers]
    with _linked(paths) as path:
        yield path


@contextmanager
def _linked(paths: Sequence[Path]) -> Iterator[str]:
    """A file's path; shards get names for a while by which they find each other."""
    from mbuild.runtime.abandoned import OwnFolder
    from mbuild.runtime.process import linked_shards

    if len(paths) == 1:
        yield str(paths[0])
        return
    with OwnFolder() as folder:
        yield linked_shards([str(path) for path in paths], folder.path)
