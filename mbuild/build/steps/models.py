"""GGUF models become layers; what their headers say becomes facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import Made, StepContext
from mbuild.build.steps.opened import OpenFiles
from mbuild.core.errors import SourceError
from mbuild.core.system import allow_open_files
from mbuild.core.units import human_size
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from mbuild.build.splitting import Splitting
    from mbuild.core.digest import Digest
    from mbuild.gguf.facts import ModelFacts
    from mbuild.gguf.model import Model, Tensor
    from mbuild.gguf.reader import GGUFFile
    from mbuild.store import Layer
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore


_DISK = 4  # digests at once that give a disk enough to write


def write_model(
    context: StepContext, model: Model, files: OpenFiles, splitting: Splitting | None = None
) -> list[Blob]:
    """Stream a model into a blob, or one a shard, loading tensors on all cores.

    The blobs are published once the model's files are hashed.
    """
    from mbuild.gguf.writer import Output, layout, write_all

    shards = shards_of(model, splitting, context)
    plans = [layout(shard) for shard in shards]
    total = sum(plan.size for plan in plans)
    context.store.blobs.check_room(total)
    allow_open_files(len(shards))
    with ExitStack() as stack:
        writers = [stack.enter_context(context.store.blobs.writer()) for _ in shards]
        write_all(
            [
                Output(shard, plan, writer.write, writer.finish, writer.limits)
                for shard, plan, writer in zip(shards, plans, writers, strict=True)
            ],
            together=digests_at_once(),
            progress=lambda done: context.report(done, total),
        )
        files.finish(context)
        return [writer.commit()._replace(limits=writer.limits.rounded()) for writer in writers]


def shards_of(model: Model, splitting: Splitting | None, context: StepContext) -> tuple[Model, ...]:
    """The files that a model is written to: itself, or its shards."""
    from mbuild.gguf.split import split

    counts = splitting.counts(model) if splitting else ()
    if not counts:
        return (model,)
    warn_of_large(model.tensors, splitting, context)
    return split(model, counts)


def sizes_written(models: Sequence[Model]) -> tuple[int, int]:
    """Bytes of the files that models are written to, and the most that is loaded at once."""
    from mbuild.gguf.writer import largest_load, layout

    plans = [layout(model) for model in models]
    largest = max(map(largest_load, models, plans), default=0)
    return sum(plan.size for plan in plans), largest


def warn_of_large(
    tensors: Sequence[Tensor], splitting: Splitting | None, context: StepContext
) -> None:
    """Say that a shard will be larger than what was asked for."""
    most = splitting.size if splitting else None
    if most is None:
        return
    for tensor in tensors:
        if tensor.nbytes > most:
            context.warn(
                f"the tensor {tensor.name} takes {human_size(tensor.nbytes)} and cannot be"
                f" divided, so its shard is larger than {human_size(most)}"
            )
            return


def digests_at_once() -> int:
    """How many files to write at once: a digest takes a core, and few of them keep a disk busy."""
    return max(1, min(_DISK, cores() // 2))


def read_facts(paths: Sequence[Path], name: str) -> ModelFacts:
    """Read the header of a GGUF file, or those of all shards of a model.

    Raises :class:`FormatError` naming the user's file, and :class:`SourceError` for one shard
    without the others.
    """
    from mbuild.gguf.reader import open_gguf

    with ExitStack() as stack:
        # No shard is called like the first: a name that contradicts the metadata is refused.
        named = [f"{name} ({number})" for number in range(1, len(paths) + 1)]
        pairs = zip(paths, named if len(paths) > 1 else [name], strict=True)
        return facts_of([stack.enter_context(open_gguf(p, name=n)) for p, n in pairs], name)


def facts_of(files: Sequence[GGUFFile], name: str) -> ModelFacts:
    """As :func:`read_facts`, of files that are open."""
    from mbuild.gguf.facts import describe
    from mbuild.gguf.shards import is_shard
    from mbuild.gguf.weights import GGUFWeights

    if len(files) == 1 and is_shard(files[0]):
        raise SourceError(
            f"{name} is one shard of a split GGUF, under another name",
            hint="keep the names that gguf-split gave the shards, and name the first",
        )
    return describe(GGUFWeights(files))


def open_layers(store: BuildStore, layers: Sequence[Layer], name: str, stack: ExitStack) -> Model:
    """The model that layers of weights are: one, or all shards."""
    from mbuild.store.contents import open_group

    return stack.enter_context(open_group(store.blobs, layers, name)).model()


def made_of(
    context: StepContext,
    blobs: Sequence[Blob],
    media_type: str,
    name: str,
    files: Mapping[str, Digest] = {},
    *,
    origin: str = "",
) -> Made:
    """What a step made: weights in one layer or several, with the facts that their headers say."""
    paths = [context.store.blobs.local_path(blob.digest) for blob in blobs]
    facts = read_facts(paths, name)
    _warn_of_unrunnable(facts, name, context)
    return Made.of(blobs, media_type, as_json(facts), files, origin=origin)


def _warn_of_unrunnable(facts: ModelFacts, name: str, context: StepContext) -> None:
    """Say if no program that is known can run a model; a part of one has no architecture of it."""
    from mbuild.gguf.architectures import ARCHITECTURES
    from mbuild.gguf.facts import ModelKind

    if facts.kind is not ModelKind.MODEL:
        return
    if facts.parameter_count == 0:
        context.warn(f"{name} has no weights: no program can run it")
    elif facts.architecture not in ARCHITECTURES:
        context.warn(
            f"{name} has the architecture {facts.architecture!r}, which neither llama.cpp of"
            " October 2026 nor Ollama 0.35 runs"
        )


def check_loadable(file: GGUFFile, context: StepContext) -> None:
    """Raise :class:`FormatError` for a GGUF file that no program loads as it is.

    What has weights of zeros alone loads, and is said.
    """
    from mbuild.gguf.checks import check_order
    from mbuild.gguf.hyperparameters import check_hyperparameters
    from mbuild.gguf.zeros import nothing_but_zeros, zero_tensors

    check_order(file.name, file.tensors, file.data_start, file.alignment)
    check_hyperparameters(file.kvs.values(), file.name)
    for text in nothing_but_zeros(list(zero_tensors(file))):
        context.warn(f"{file.name}: {text}")


def as_json(facts: ModelFacts) -> dict[str, Any]:
    """The facts that later steps need, in the words of Ollama's config."""
    return {
        "kind": str(facts.kind),
        "model_format": "gguf",
        "model_family": facts.architecture,
        "model_families": list(facts.families),
        "model_type": facts.parameter_size,
        "file_type": facts.file_type,
    }
