"""GGUF models become layers; what their headers say becomes facts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import StepContext
from mbuild.build.steps.opened import OpenFiles
from mbuild.core.errors import SourceError

if TYPE_CHECKING:
    from mbuild.gguf.facts import ModelFacts
    from mbuild.gguf.model import Model
    from mbuild.store.manifest import Blob


def write_model(context: StepContext, model: Model, files: OpenFiles) -> Blob:
    """Stream a model into a blob, loading tensors on all cores, once its files are hashed."""
    from mbuild.gguf.writer import layout, write

    plan = layout(model)
    total = plan.size
    context.store.blobs.check_room(total)
    with context.store.blobs.writer() as writer:
        write(
            model,
            writer.write,
            progress=lambda done: context.report(done, total),
            plan=plan,
            limits=writer.limits,
        )
        files.finish(context)
        return writer.commit()._replace(limits=writer.limits.rounded())


def read_facts(path: Path, name: str) -> ModelFacts:
    """Read a GGUF file's header; raises :class:`FormatError` naming the user's file."""
    from mbuild.gguf.facts import describe
    from mbuild.gguf.reader import open_gguf
    from mbuild.gguf.shards import is_shard

    with open_gguf(path, name=name) as file:
        if is_shard(file):
            raise SourceError(
                f"{name} is one shard of a split GGUF, under another name",
                hint="keep the names that gguf-split gave the shards, and name the first",
            )
        return describe(file)


def check_loadable(path: Path, name: str) -> None:
    """Raise :class:`FormatError` for a GGUF file that no program loads as it is."""
    from mbuild.gguf.checks import check_order
    from mbuild.gguf.hyperparameters import check_hyperparameters
    from mbuild.gguf.reader import open_gguf

    with open_gguf(path, name=name) as file:
        check_order(name, file.tensors, file.data_start, file.alignment)
        check_hyperparameters(file.kvs.values(), name)


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
