"""The weights that a model is quantized, changed or split from, and the steps that do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.build.sources.values import (
    CheckpointSource,
    OtherModel,
    StoredModel,
)
from mbuild.build.steps.gguf import Role
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.build.request import BuildRequest
    from mbuild.build.sources.values import DraftSource, GGUFSource, SourceFile, Sources
    from mbuild.build.splitting import Splitting
    from mbuild.build.steps.importances import MakeImatrix
    from mbuild.build.steps.origins import LayerOrigin, Origin
    from mbuild.build.steps.quantize import Quantize
    from mbuild.build.steps.shards import SplitWeights
    from mbuild.language.recipe import Recipe
    from mbuild.quant.choose.options import Quantization


def quantized(
    origin: Origin, wanted: Quantization, sources: Sources, splitting: Splitting | None
) -> Quantize:
    """The step that quantizes, with what computes its importance matrix or chooses its types."""
    from mbuild.build.steps.quantize import Quantize

    imatrix: SourceFile | MakeImatrix | None = None
    choice = None
    if wanted.imatrix:
        imatrix = sources.imatrices[wanted.imatrix]
    elif wanted.imatrix_from:
        from mbuild.build.steps.importances import MakeImatrix

        text = sources.imatrices[wanted.imatrix_from]
        imatrix = MakeImatrix(origin, text, wanted.imatrix_chunks or 0)
    if wanted.prune_layers:
        from mbuild.build.altering import pruned

        origin = pruned(origin, wanted.prune_layers)
    if wanted.file_type.budget is not None:
        from mbuild.build.steps.choosing import ChooseTypes

        choice = ChooseTypes(origin, wanted, imatrix)
    return Quantize(origin, wanted, Role.MODEL, imatrix, splitting, choice)


def origin_of(recipe: Recipe, sources: Sources, request: BuildRequest) -> Origin:
    """The model's weights, with what the recipe changes in them; no projector, no adapter."""
    base = sources.base
    origin = _of_files(sources.files[0], request) if base is None else _stored(base)
    if not recipe.changes:
        return origin
    from mbuild.build.altering import altered

    others = [
        origin_of(*source, request) if isinstance(source, OtherModel) else source
        for source in sources.changes
    ]
    return altered(origin, recipe.changes, others)


def _stored(base: StoredModel) -> LayerOrigin:
    """The weights of a stored model; raises :class:`UnsupportedError` where it has none."""
    from mbuild.build.steps.origins import LayerOrigin

    layers = base.manifest.of_kind(MODEL)
    if not layers:
        raise UnsupportedError(
            f"{base.name} has no GGUF weights", hint="name another model in FROM"
        )
    if base.remote is None:
        return LayerOrigin(layers, base.aliases)
    from mbuild.build.steps.pull import pull_of

    return LayerOrigin(layers, base.aliases, pull_of(base, layers))


def split_stored(base: StoredModel, splitting: Splitting) -> SplitWeights:
    """The step that splits the weights of a stored model anew."""
    from mbuild.build.steps.shards import SplitWeights

    return SplitWeights(_stored(base), splitting)


def _of_files(source: GGUFSource | CheckpointSource, request: BuildRequest) -> Origin:
    """The weights of a source, to be quantized."""
    from mbuild.build.steps.origins import CheckpointOrigin, GGUFOrigin

    if isinstance(source, CheckpointSource):
        return CheckpointOrigin(source, request.convert_options)
    return GGUFOrigin(source.files)


def quantized_draft(source: DraftSource, request: BuildRequest) -> Quantize:
    """The step that quantizes a draft; raises :class:`UsageError` for what is no type."""
    from mbuild.build.steps.quantize import Quantize
    from mbuild.quant.choose.options import Quantization

    wanted = request.draft_quantize
    assert wanted is not None
    if wanted.budget is not None:
        raise UsageError(f"--draft-quantize {wanted} is not a type", hint="name one, such as q4_0")
    return Quantize(_of_files(source, request), Quantization(wanted), Role.DRAFT)
