"""Quantization as a step: one pass over the source for all variants, no tensor ever twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.sources.values import Material, SourceFile
from mbuild.build.splitting import SPLITTING_NAMES, split_fields
from mbuild.build.steps.gguf import Role, check_role
from mbuild.build.steps.models import made_of, warn_of_large
from mbuild.build.steps.opened import OpenFiles, open_source
from mbuild.build.steps.origins import ORIGIN_NAMES, Origin, open_quietly
from mbuild.build.steps.together import OverOrigin
from mbuild.core.digest import canonical_json
from mbuild.core.errors import UnsupportedError
from mbuild.core.events import Code
from mbuild.quant.choose.options import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.costs import Cost, PlannedTensor
    from mbuild.build.splitting import Splitting
    from mbuild.build.steps.choosing import ChooseTypes
    from mbuild.build.steps.importances import MakeImatrix
    from mbuild.build.steps.making import UsedMatrix
    from mbuild.build.steps.outputs import Variant
    from mbuild.core.digest import Digest
    from mbuild.gguf.model import Model, Tensor
    from mbuild.gguf.types import GGMLType
    from mbuild.quant.choose.imatrix import Imatrix
    from mbuild.quant.choose.options import Quantization
    from mbuild.quant.choose.types import FileType
    from mbuild.quant.engine import Unavailable
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore

QUANTIZER_VERSION = 5
"""Counts up when a recipe or a kernel gives other bytes."""

_POLL_SECONDS = 0.1
_PATIENCE = 3.0  # seconds; kernels of the cache load in a fraction of that
_SLOWER = 80  # times that numpy takes as long; docs/benchmarks.md has it by type

OPTION_NAMES: dict[tuple[str, ...], str] = {
    ("quantization", "file_type"): "type",
    **{("quantization", field): option.flag for field, option in OPTIONS.items()},
}
"""What the options are called in explanations."""


class Quantize(OverOrigin):
    """A model becomes a quantized layer, with the bytes of llama-quantize.

    ``role`` says whether it is the model or its draft, ``imatrix`` is the file that
    ``quantization`` names, or the step that computes one; ``splitting`` says whether the model
    becomes several layers. ``choice`` is the step that chooses the types where the
    quantization names but a size.
    """

    origin: Origin
    quantization: Quantization
    role: Role = Role.MODEL
    imatrix: SourceFile | MakeImatrix | None = None
    splitting: Splitting | None = None
    choice: ChooseTypes | None = None

    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = QUANTIZER_VERSION
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = (
        ORIGIN_NAMES | OPTION_NAMES | SPLITTING_NAMES
    )

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What computes the importance matrix, and what chooses the types, if they do."""
        computed = None if isinstance(self.imatrix, SourceFile) else self.imatrix
        return tuple(step for step in (computed, self.choice) if step is not None)

    @property
    def matrix(self) -> SourceFile | None:
        """The importance matrix, if it is a file."""
        return self.imatrix if isinstance(self.imatrix, SourceFile) else None

    @property
    def used_matrix(self) -> UsedMatrix | None:
        """That file, with what of it is used."""
        from mbuild.build.steps.making import UsedMatrix

        found = self.matrix
        return None if found is None else UsedMatrix(found, self.quantization.matrix_use)

    def settled(self, inputs: Sequence[Result], context: StepContext) -> Quantize:
        """The step with the computed matrix as a file, and with the chosen types."""
        results = dict(zip(self.inputs, inputs, strict=True))
        changed: dict[str, Any] = {}
        for step, result in results.items():
            if step is self.choice:
                from mbuild.build.steps.choosing import chosen

                changed |= {"quantization": chosen(result, self.quantization), "choice": None}
            else:
                from mbuild.build.steps.importances import matrix_of

                changed["imatrix"] = matrix_of(result, context.store)
        return self.changed(**changed) if changed else self

    @property
    def target(self) -> str:
        """The type."""
        return self.quantization.file_type.name

    @property
    def several_layers(self) -> bool:
        """Where it is split, or its source is and that is kept."""
        if self.splitting is None:
            return False
        return self.origin.is_split or not self.splitting.keep

    @property
    def label(self) -> str:
        """What becomes what."""
        return f"quantize {self.role.prefix}{self.origin.shown} to {self.target}"

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The source's files, and the importance matrix."""
        return (*super().files, *((self.matrix,) if self.matrix else ()))

    @property
    def materials(self) -> tuple[Material, ...]:
        """The source, and the importance matrix."""
        return (*self.origin.materials, *((self.matrix.material,) if self.matrix else ()))

    def key_fields(self) -> Mapping[str, Any] | None:
        """The description of the unquantized model, and the recipe with its options."""
        origin, options = self.origin.fields(), self.quantization.fields()
        if origin is None:
            return None
        if self.matrix is not None:
            if self.matrix.content is None:
                return None
            # llama-quantize writes the imatrix's name into the file.
            options["imatrix"] = [self.matrix.name, str(self.matrix.content)]
        further = {**self.role.fields(), **split_fields(self.splitting)}
        return {"origin": origin, "quantization": options, **further}

    def cost(self, store: BuildStore) -> Cost:
        """The new file, and each tensor in it; all cores work on it."""
        from mbuild.build.costs import BLOCKS_BESIDE, Cost, memory_for
        from mbuild.build.steps.changes import held_factors
        from mbuild.work.cores import cores

        if self.choice is not None:  # nobody knows the types yet
            return self.choice.cost_of_file(store)
        tensors, size, largest, result = _preview(self, store)
        memory = memory_for(self.reads + size, largest, cores()) + held_factors(self.origin)
        # Two ranges at least are worked on at once.
        beside = BLOCKS_BESIDE + 2 * result
        return Cost(size, memory, tensors, every_core=True, beside=beside)

    def tensors(self, store: BuildStore) -> tuple[PlannedTensor, ...]:
        """Each tensor's types and size in the order of the file."""
        return () if self.choice is not None else _preview(self, store)[0]

    @classmethod
    def make(
        cls, steps: Sequence[Quantize], model: Model, files: OpenFiles, context: StepContext
    ) -> list[Made]:
        """Quantize one source to several variants in one pass."""
        written = _write_variants(steps, model, files, context)
        return [
            made_of(context, blobs, step.role.media_type, step.origin.name)
            for step, blobs in zip(steps, written, strict=True)
        ]

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        imatrix = None if self.imatrix is None else self.imatrix.learned(files)
        choice = None if self.choice is None else self.choice.learned(files)
        return self.changed(origin=self.origin.learned(files), imatrix=imatrix, choice=choice)


def _write_variants(
    steps: Sequence[Quantize], model: Model, files: OpenFiles, context: StepContext
) -> list[list[Blob]]:
    """Write all variants side by side."""
    from mbuild.build.steps.changes import ChangedOrigin
    from mbuild.build.steps.making import WorkSource
    from mbuild.build.steps.ranges import RangeCache
    from mbuild.build.steps.tensors import write_variants

    variants = [variant_of(step, model, files.paths, context) for step in steps]
    origin = steps[0].origin
    cache = RangeCache(context.store, origin.fields(), read=context.use_cache)
    if isinstance(origin, ChangedOrigin):  # what nothing changes is the base's, digested before
        cache.also_from(origin.base, origin.unchanged(model))
    if context.store.shared is not None and not cache.sources:
        from mbuild.build.steps.by_parts import digests_by_parts

        cache.learn(digests_by_parts(origin, context.store.shared, files.opened))
    source = WorkSource(origin, tuple(step.used_matrix for step in steps))
    blobs = write_variants(variants, model, cache, files, context, source)
    cache.remember_sources(origin, files.known())
    if isinstance(origin, ChangedOrigin):
        cache.remember_sources(origin.base, files.known(), origin.unchanged(model))
    return blobs


def variant_of(
    step: Quantize, model: Model, paths: Mapping[str, Path], context: StepContext
) -> Variant:
    """What a step makes of the model, said and its kernels loaded.

    ``paths`` has the file of the importance matrix by the path that the step knows.
    """
    from mbuild.gguf.facts import file_type_name
    from mbuild.quant.choose.recipes import unused

    imatrix = step.matrix
    variant = _planned(step, model, paths[str(imatrix.path)] if imatrix else None)
    for rule in unused(model.tensors, step.quantization):
        example = model.tensors[0].name if model.tensors else ""
        context.warn(
            f"--tensor-type {rule} matches no tensor; a tensor is named, for example, {example}"
        )
    made = [tensor for file in variant.files for tensor in file.tensors]
    warn_of_large(made, step.splitting, context)
    source = file_type_name(model.get("general.file_type"))
    values = {"source": source, "target": step.target, "role": step.role.value}
    context.status(Code.QUANTIZING, values)
    _load_kernels(variant, context)
    return variant


def _say_compiling(types: tuple[str, ...], context: StepContext) -> None:
    """That quantizers are compiled, and whether the next build has them."""
    from mbuild.quant.compiled import cache

    context.status(Code.COMPILING_QUANTIZERS, {"types": types, "kept": not cache.problem()})


def _warn_of_kernels(unavailable: Unavailable | None, context: StepContext) -> None:
    """That compiled quantizers cannot be used, or are not kept, and why; once in a process."""
    if unavailable is None:
        from mbuild.quant.compiled import cache, packed

        problem = "" if packed.level() else cache.problem()
    else:
        problem = (
            f"the compiled quantizers cannot be used, because {unavailable.reason}: quantizing"
            f" takes up to {_SLOWER} times as long; {unavailable.remedy}"
        )
    if problem and problem not in _WARNED:
        _WARNED.add(problem)
        context.warn(problem)


_WARNED: set[str] = set()


def _load_kernels(variant: Variant, context: StepContext) -> None:
    """Before threads start; where they have to be compiled, that is said after a while.

    A compilation cannot be stopped. It has a thread of its own, which a stopped
    build leaves behind and which does not hold up the end of the program.
    """
    from concurrent.futures import Future, wait
    from threading import Thread, Timer

    from mbuild.quant.quantize import prepare

    changed = {new for tensor, new in variant.tensors if new is not tensor.type}
    names = tuple(type_.name for type_ in sorted(changed))
    timer = Timer(_PATIENCE, _say_compiling, [names, context])
    timer.start()
    done: Future[Unavailable | None] = Future()

    def work() -> None:
        try:
            done.set_result(prepare(sorted(changed), weighted=variant.imatrix is not None))
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, name="mbuild-compile", daemon=True).start()
    try:
        while not wait([done], timeout=_POLL_SECONDS).done:
            context.report(0, 0)
        unavailable = done.result()
    finally:
        timer.cancel()
        timer.join()
    if changed:
        _warn_of_kernels(unavailable, context)


def _planned(step: Quantize, model: Model, imatrix_path: Path | None) -> Variant:
    """Metadata, and each tensor's new type, in order; nothing is loaded but the imatrix."""
    from mbuild.build.steps.outputs import Variant
    from mbuild.gguf.facts import describe
    from mbuild.gguf.hyperparameters import check_hyperparameters
    from mbuild.quant.choose.imatrix import open_imatrix
    from mbuild.quant.choose.metadata import count_last, quantized
    from mbuild.quant.choose.recipes import plan, unpruned

    quantization = step.quantization
    check_role(step.role, describe(model), step.origin.name)
    check_hyperparameters(model.metadata, step.origin.name)
    target = quantization.file_type
    imatrix: Imatrix | None = None
    about = None
    if step.matrix is not None and imatrix_path is not None:
        use = quantization.matrix_use
        imatrix = open_imatrix(imatrix_path, name=step.matrix.name, use=use)
        about = imatrix.source(step.matrix.name)
    computed = step.imatrix is not None and step.matrix is None  # it will be there by then
    kept = step.splitting is not None and step.splitting.keep and bool(model.shards)
    before = unpruned(model.get, quantization.prune_layers)
    tensors = plan(model.tensors, before, quantization, keep_order=kept)
    for tensor, new in tensors:
        if new is not tensor.type and not computed:
            _check_type(tensor, new, target, imatrix)
    overrides = quantization.override_kv
    pairs, metadata = tuple(tensors), quantized(model.metadata, target, about, overrides)
    if quantization.prune_layers:
        metadata = count_last(metadata)
    shards = _shards(step.splitting, pairs, model.shards)
    described = [step.origin.shown, quantization.to_json(), *shards]
    name = hashlib.sha256(canonical_json(described).encode()).hexdigest()[:16] + "-"
    return Variant(name, pairs, metadata, imatrix, shards)


def _shards(
    splitting: Splitting | None,
    tensors: Sequence[tuple[Tensor, GGMLType]],
    kept: tuple[int, ...],
) -> tuple[int, ...]:
    """How many of the quantized tensors each file gets; nothing for one file."""
    from mbuild.gguf.model import Model, Tensor

    if splitting is None:
        return ()
    made = tuple(Tensor(t.name, t.dims, new, t.load) for t, new in tensors)
    return splitting.counts(Model((), made, kept))


def _check_type(tensor: Tensor, new: GGMLType, target: FileType, imatrix: Imatrix | None) -> None:
    """What cannot be made is refused, by the tensor's name, before anything is read or written."""
    from mbuild.quant.choose.recipes import needs_importances
    from mbuild.quant.quantize import unsupported
    from mbuild.quant.table import supports

    weighted = imatrix is not None and imatrix.has(tensor.name, tensor.dims)
    if imatrix is not None and not weighted and needs_importances(tensor.name, new, target):
        raise UnsupportedError(
            f"{tensor.name}: {imatrix.name} has no values for it, which {new.name} needs",
            hint="use the importance matrix of this model, or another type: --tensor-type",
        )
    if not supports(new, weighted):
        error = unsupported(new)
        raise UnsupportedError(f"{tensor.name}: {error.message}", hint=error.hint)


def _preview(step: Quantize, store: BuildStore) -> tuple[tuple[PlannedTensor, ...], int, int, int]:
    """Each tensor's types and size in the order of the file, and three sizes in bytes.

    That is the file's, what the largest range takes while it is worked on, and its result's.
    Only headers are read, and nothing is written. Raises what running the step
    would raise before it starts to quantize.
    """
    from mbuild.build.costs import PlannedTensor
    from mbuild.build.steps.ranges import ranges_of, room_for
    from mbuild.gguf.writer import layout

    imatrix = step.matrix
    with ExitStack() as stack:
        model = open_quietly(step.origin, store, stack)
        at = stack.enter_context(open_source(imatrix)).path if imatrix else None
        variant = _planned(step, model, at)
        plans = [layout(file) for file in variant.files]
        sizes = (size for plan in plans for size in plan.sizes)
        rows = tuple(
            PlannedTensor(tensor.name, tensor.type, new, size)
            for (tensor, new), size in zip(variant.tensors, sizes, strict=True)
        )
        ranges = [(part, new) for tensor, new in variant.tensors for part in ranges_of(0, tensor)]
        rooms = [(room_for(part, [new]), room_for(part, [])) for part, new in ranges]
        largest = max((whole for whole, _ in rooms), default=0)
        result = max((whole - source for whole, source in rooms), default=0)
    return rows, sum(plan.size for plan in plans), largest, result
