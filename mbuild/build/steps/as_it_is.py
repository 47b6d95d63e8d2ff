"""Unquantized weights become layers: written here, or made by whoever computes for the build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.build.steps.models import warn_of_large, write_model

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.splitting import Splitting
    from mbuild.build.steps.opened import OpenFiles
    from mbuild.build.steps.origins import Origin
    from mbuild.gguf.model import Model
    from mbuild.store.manifest import Blob


def write_as_it_is(
    context: StepContext,
    model: Model,
    files: OpenFiles,
    splitting: Splitting | None,
    origin: Origin,
) -> list[Blob]:
    """Stream the model that an origin is into a blob, or one a shard."""
    if context.pool is None:
        return write_model(context, model, files, splitting)
    from mbuild.build.steps.making import WorkSource
    from mbuild.build.steps.outputs import Variant
    from mbuild.build.steps.ranges import RangeCache
    from mbuild.build.steps.tensors import write_variants

    shards = splitting.counts(model) if splitting else ()
    if shards:
        warn_of_large(model.tensors, splitting, context)
    tensors = tuple((tensor, tensor.type) for tensor in model.tensors)
    variant = Variant("", tensors, model.metadata, None, shards, as_it_is=True)
    cache = RangeCache(context.store, None, read=False)
    source = WorkSource(origin, (None,))
    (blobs,) = write_variants([variant], model, cache, files, context, source)
    return blobs
