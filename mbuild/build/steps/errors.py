"""How far each quantized tensor is from its source: without an engine, from the values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin
from mbuild.build.steps.together import OfOrigin, readable
from mbuild.core.errors import DamagedError
from mbuild.core.values import NamedTuple, aside
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.gguf.model import Model, Tensor
    from mbuild.gguf.reader import TensorInfo
    from mbuild.gguf.weights import GGUFWeights
    from mbuild.store.ports import BuildStore
    from mbuild.work.spread import Part

ERRORS_VERSION = 1
"""Counts up when the same tensors would come out as other numbers."""

_VALUES = 1 << 20  # that are looked at together: a multiple of every type's block


class TensorError(NamedTuple):
    """A tensor: its type before and after, and the relative RMS error of its values."""

    name: str
    before: str
    after: str
    error: float


class CompareTensors(OfOrigin):
    """The error of every quantized tensor against its source.

    ``weights`` is the step that quantizes, or the layers of a model that is there. The facts
    are the largest error with its tensor, the mean of all, and each one.
    """

    origin: Origin
    weights: Step | tuple[Layer, ...]
    target: str = aside(default="")

    kind: ClassVar[str] = "compare"
    role: ClassVar[str] = ""
    version: ClassVar[int] = ERRORS_VERSION
    shows: ClassVar[tuple[str, ...]] = ("error", "tensor", "mean_error")
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {**ORIGIN_NAMES, ("layers",): "weights"}

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What quantizes."""
        return () if isinstance(self.weights, tuple) else (self.weights,)

    @property
    def label(self) -> str:
        """What is compared, and for which of several variants."""
        made = f" for {self.target}" if self.target else ""
        return f"compare tensors with {self.origin.shown}{made}"

    def key_fields(self) -> Mapping[str, Any] | None:
        """The description of the unquantized model; what was made of it comes with the inputs."""
        origin = self.origin.fields()
        if origin is None:
            return None
        layers = self.weights if isinstance(self.weights, tuple) else ()
        return {"origin": origin, **({"layers": [str(x.digest) for x in layers]} if layers else {})}

    def cost(self, store: BuildStore) -> Cost:
        """It writes nothing, and all cores work on it."""
        from mbuild.build.costs import Cost

        return Cost(writes=0, every_core=True)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(origin=self.origin.learned(files))

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Read both, in pieces, on all cores."""
        from mbuild.store.contents import open_group

        layers = self.weights if isinstance(self.weights, tuple) else inputs[0].layers
        quiet = context._replace(status=lambda code, values: None, warn=lambda text: None)
        with ExitStack() as stack:
            sources = {str(file.path): file for file in self.origin.files.values()}
            by_name = self.origin.by_name
            files = OpenFiles(sources, stack, by_name=by_name, context=context)
            model = self.origin.open(quiet, readable(self.origin, files), stack)
            made = stack.enter_context(open_group(context.store.blobs, layers, self.origin.name))
            rows = tensor_errors(model, made, context)
            files.finish(context)
            digests = files.digests(context)
        return Made(Result(facts=_facts(rows)), files=digests)


def _facts(rows: Sequence[TensorError]) -> dict[str, Any]:
    """The largest error, its tensor, the mean, and all; nothing is as far off as 0."""
    worst = max(rows, key=lambda row: row.error, default=None)
    return {
        "error": worst.error if worst else 0.0,
        "tensor": f"{worst.name} ({worst.after})" if worst else "",
        "mean_error": sum(row.error for row in rows) / max(len(rows), 1),
        "tensors": [list(row) for row in rows],
    }


def tensor_errors(model: Model, made: GGUFWeights, context: StepContext) -> list[TensorError]:
    """The error of each tensor whose type is not that of the model, in the file's order.

    Raises :class:`DamagedError` where the file is not one that was made of the model.
    """
    from mbuild.work.spread import spread

    sources = {tensor.name: tensor for tensor in model.tensors}
    pairs = []
    for info in made.tensors:
        source = sources.get(info.name)
        if source is None or source.dims != info.dims:
            raise DamagedError(
                f"{info.name} of the quantized model is not a tensor of its source",
                hint="the source is another model now: build again",
            )
        if source.type is not info.type:
            pairs.append((source, info))

    def work(pair: tuple[Tensor, TensorInfo], part: Part) -> TensorError:
        return _error(*pair, made, part)

    total = sum(info.nbytes for _, info in pairs)
    return spread(work, pairs, total, context.report, name="mbuild-compare")


def _error(source: Tensor, info: TensorInfo, made: GGUFWeights, part: Part) -> TensorError:
    import numpy as np

    from mbuild.build.steps.ranges import ranges_of
    from mbuild.gguf.types import BLOCKS
    from mbuild.quant.decode import decoded
    from mbuild.quant.distance import Squares, squares

    before, after = BLOCKS[source.type], BLOCKS[info.type]
    found, at = Squares(), 0  # values so far
    for piece in ranges_of(0, source):
        data = np.frombuffer(memoryview(piece.load()).cast("B"), np.uint8)
        count = len(data) // before.size * before.weights
        for start in range(0, count, _VALUES):
            some = min(_VALUES, count - start)
            first = start // before.weights * before.size
            own = data[first : first + some // before.weights * before.size]
            place, size = at // after.weights * after.size, some // after.weights * after.size
            new = np.frombuffer(made.read(info, place, size), np.uint8)
            found = found.plus(squares(decoded(own, source.type), decoded(new, info.type)))
            part.add(size)
            at += some
    return TensorError(info.name, source.type.name, info.type.name, found.relative)
