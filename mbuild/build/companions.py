"""What stands beside a model's weights: the projector of a checkpoint, adapters, drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.build.sources.values import (
    CheckpointSource,
    Sources,
    StoredModel,
)
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.build.request import BuildRequest


def check_projector_alone(sources: Sources, request: BuildRequest) -> None:
    """Raise :class:`UsageError` unless a projector without a model can be what is asked."""
    if not all(
        isinstance(source, CheckpointSource) and source.encoders for source in sources.models
    ):
        raise UsageError("--mmproj converts the encoders of a checkpoint, and FROM names none")
    if any(target.quantization for target in request.targets):
        raise UsageError("a projector is not quantized", hint="its type is --mmproj-outtype")
    if sources.adapters or sources.drafts or request.splitting:
        raise UsageError("--mmproj makes no model that has adapters, drafts or shards")


def projector(source: CheckpointSource, request: BuildRequest, *, beside: bool) -> Step:
    """The step that makes the projector of a checkpoint, ``beside`` its text model or alone."""
    from mbuild.build.steps.checkpoint import ConvertProjector
    from mbuild.build.steps.origins import CheckpointOrigin

    outtype = request.halves.outtype or request.outtype
    text = CheckpointOrigin(source, request.convert_options) if beside else None
    naming = request.conversion.naming
    return ConvertProjector(source, outtype, text, naming, request.converter)


def with_target(draft: CheckpointSource, sources: Sources) -> CheckpointSource:
    """A draft without a tokenizer, with that of the checkpoint that FROM names."""
    targets = (each for each in sources.models if isinstance(each, CheckpointSource))
    target = next(targets, None)
    return draft if target is None else draft.drafting_for(target)


def converted_adapter(
    source: CheckpointSource,
    base: StoredModel | None,
    shapes: tuple[Step, ...],
    needs: tuple[Step, ...],
) -> Step:
    """The step that converts a PEFT adapter, checked against the stored model that is its base.

    Without one it is checked against what ``shapes`` knows of the model's header.
    """
    from mbuild.build.steps.weights import ConvertAdapter

    if base is None:
        return ConvertAdapter(source, (), shapes)
    layers = base.manifest.of_kind(MODEL)
    if not layers:
        raise UnsupportedError(
            f"{base.name} has no weights, so no adapter can be converted for it",
            hint="name another model in FROM, or convert the adapter to GGUF",
        )
    return ConvertAdapter(source, layers, (), needs)
