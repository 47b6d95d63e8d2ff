"""From instructions and sources to the graph of steps: a pure function.

Kinds of steps that few builds have are loaded where they are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mbuild.build.inheriting import UNSET_CONFIG, ModelLayers, add_texts
from mbuild.build.sources.values import (
    CheckpointSource,
    DraftSource,
    GGUFSource,
    Sources,
    StoredModel,
)
from mbuild.build.splitting import Splitting
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF, Role
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.template import DetectTemplate
from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.store import Layer
from mbuild.store.manifest import LEAST_OLLAMA
from mbuild.store.media import (
    MODEL,
    SPLIT,
    TEMPLATE,
)

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.build.request import BuildRequest
    from mbuild.build.steps.checking import CheckModel
    from mbuild.build.steps.origins import Origin
    from mbuild.language.recipe import Recipe


class Plan(NamedTuple):
    """The graph to run, by its last step; ``base`` is the stored model that FROM names.

    ``warning`` says what is to be known of the model, where there is something, and
    ``checks`` are what has to hold before it is named. ``weights`` is what makes the model's
    weights, or the layers that it has from its base; ``origin`` is what they are quantized
    from, if they are.
    """

    manifest: AssembleManifest
    base: StoredModel | None
    warning: str = ""
    checks: tuple[CheckModel, ...] = ()
    weights: Step | tuple[Layer, ...] | None = None
    origin: Origin | None = None

    @property
    def ends(self) -> tuple[Step, ...]:
        """The steps that nothing else needs: what has to run."""
        return (self.manifest, *self.checks)


def plan(
    recipe: Recipe, sources: Sources, request: BuildRequest, *, several: bool | None = None
) -> tuple[Plan, ...]:
    """The steps that build each target, in Ollama's order of layers.

    What targets have in common are equal steps, and so one node: only the weights, the
    config and the manifest are each target's own. ``several`` tells whether there are other
    targets, so that labels have to say which one a step is for. Raises :class:`UsageError`
    when a draft shall be quantized and there is none.
    """
    if request.draft_quantize is not None and not sources.drafts:
        raise UsageError("--draft-quantize requires a DRAFT model")
    if request.halves.mmproj:
        from mbuild.build.companions import check_projector_alone

        check_projector_alone(sources, request)
    drafts = tuple(_draft(draft, sources, request) for draft in sources.drafts)
    wanted = [target.quantization for target in request.targets]
    origin = None
    if recipe.changes or any(wanted):
        from mbuild.build.quantizing import origin_of

        origin = origin_of(recipe, sources, request)
    several = len(wanted) > 1 if several is None else several
    plans: list[Plan] = []
    for each, target in zip(wanted, request.targets, strict=True):
        variant = _Variant(label=target.label if several else "")
        if each is not None and origin is not None:
            from mbuild.build.quantizing import quantized

            made = quantized(origin, each, sources, request.splitting)
            variant = variant._replace(made=made, header=origin)
        elif origin is not None and recipe.changes:
            from mbuild.build.altering import changed_weights

            variant = variant._replace(made=changed_weights(origin, request.splitting))
        plans.append(_plan(recipe, sources, request, drafts, variant))
    return tuple(plans)


class _Variant(NamedTuple):
    """What is one target's own.

    ``made`` takes the place of the model's weights; ``header`` is the unquantized model of a
    quantized one, which is written nowhere. Where there are several variants, what depends on
    one has its ``label``.
    """

    made: Step | None = None
    header: Origin | None = None
    label: str = ""


def _plan(
    recipe: Recipe,
    sources: Sources,
    request: BuildRequest,
    drafts: tuple[Step, ...],
    variant: _Variant,
) -> Plan:
    """One variant's graph."""
    base, (made, header, label) = sources.base, variant
    entries = ModelLayers(base, recipe.unset)
    instead = made or _split_anew(base, request)
    if instead is not None and base is not None:
        entries.put_in_place(instead, MODEL)
    _add_weights(entries, sources, request, made)
    models = entries.steps()
    detected: tuple[Step, ...] = ()
    if base is None and TEMPLATE not in entries.unset and not request.halves.mmproj:
        detected = (DetectTemplate((_knowing("CHAT_TEMPLATE", models, header),)),)
        entries.put(detected[0], TEMPLATE)
    needs = _base_needs(base, replaced=instead is not None)
    adapters = _adapters(sources, request, base if made is None else None, models, header, needs)
    for step in (*adapters, *drafts):
        entries.append(step)
    add_texts(entries, recipe, detected, needs)
    weights = (*models, *adapters, *drafts)
    base_config = base.manifest.config if base else None
    least = LEAST_OLLAMA if entries.several(base) else ""
    lifted = "" if least or base is None or not _is_split(base) else LEAST_OLLAMA
    left = tuple(key for key in UNSET_CONFIG if key in recipe.unset)
    alone = request.halves.mmproj
    config = MakeConfig(
        base_config, weights, recipe.config, label, least, lifted, left, alone, needs
    )
    manifest = AssembleManifest(config, entries.all(), label, needs)
    warning = _SEVERAL if least else _kept_nothing(sources, request)
    return Plan(manifest, base, warning, (), entries.weights(), header)


def _split_anew(base: StoredModel | None, request: BuildRequest) -> Step | None:
    """The step that splits the weights of a stored model, if that is asked for."""
    if base is None or request.splitting is None or request.splitting.keep:
        return None
    from mbuild.build.quantizing import split_stored

    return split_stored(base, request.splitting)


def _add_weights(
    entries: ModelLayers, sources: Sources, request: BuildRequest, made: Step | None
) -> None:
    """The weights that FROM names: the model, or ``made`` in its place, and the projectors."""
    for number, source in enumerate(sources.files):
        sees = isinstance(source, CheckpointSource) and bool(source.encoders)
        first = number == 0 and not request.halves.mmproj
        if made is not None and first:
            entries.append(made)
        elif first or not sees:
            splitting = request.splitting if first else None  # a projector is one file
            entries.append(_weights(source, Role.MODEL, request, splitting))
        if isinstance(source, CheckpointSource) and sees and not request.halves.text_only:
            from mbuild.build.companions import projector

            entries.append(projector(source, request, beside=first))


def _base_needs(base: StoredModel | None, *, replaced: bool) -> tuple[Step, ...]:
    """The step that fetches what a model inherits from one in a registry.

    Weights that are ``replaced`` by others are fetched by a step of their own, which runs
    only for whoever reads them.
    """
    if base is None or base.remote is None:
        return ()
    from mbuild.build.steps.pull import pull_of

    blobs = base.manifest.blobs()
    return pull_of(base, [b for b in blobs if not (replaced and b.media_type == MODEL)])


def _is_split(base: StoredModel) -> bool:
    """Whether a stored model has several layers of weights."""
    kinds = [layer.media_type for layer in base.manifest.layers]
    return any(kinds.count(kind) > 1 for kind in SPLIT)


def _kept_nothing(sources: Sources, request: BuildRequest) -> str:
    """What to say where files are to be kept and the weights come from a checkpoint."""
    kept = request.splitting is not None and request.splitting.keep
    if not kept or not any(isinstance(each, CheckpointSource) for each in sources.models):
        return ""
    return (
        "--keep-split keeps the files of a split GGUF; FROM is a checkpoint, which becomes one"
        " file: use --split SIZE"
    )


_SEVERAL = (
    f"the model's weights are in several files: Ollama before {LEAST_OLLAMA} lists the model,"
    " but cannot run it"
)


def _weights(
    source: GGUFSource | CheckpointSource,
    role: Role,
    request: BuildRequest,
    splitting: Splitting | None = None,
) -> Step:
    """The step that makes a layer of weights, or several of them."""
    cut = None if splitting is None or splitting.keep else splitting
    if isinstance(source, CheckpointSource):
        from mbuild.build.steps.checkpoint import ConvertCheckpoint

        return ConvertCheckpoint(source, request.convert_options, role, cut)
    if cut is not None:
        from mbuild.build.steps.origins import GGUFOrigin
        from mbuild.build.steps.shards import SplitWeights

        return SplitWeights(GGUFOrigin(source.files), cut, role)
    if len(source.files) > 1:
        if splitting is not None or source.keep:
            from mbuild.build.steps.shards import KeepShards

            return KeepShards(source.files, role, request.link)
        return MergeGGUF(source.files, role)
    return ImportGGUF(source.files[0], role, request.link)


def _draft(source: DraftSource, sources: Sources, request: BuildRequest) -> Step:
    """The step that makes a draft's layer."""
    if isinstance(source, CheckpointSource) and source.needs_target:
        from mbuild.build.companions import with_target

        source = with_target(source, sources)
    if request.draft_quantize is None:
        keep = request.splitting if request.splitting and request.splitting.keep else None
        return _weights(source, Role.DRAFT, request, keep)
    from mbuild.build.quantizing import quantized_draft

    return quantized_draft(source, request)


def _knowing(
    part: Literal["CHAT_TEMPLATE", "SHAPES"], models: Sequence[Step], header: Origin | None
) -> Step:
    """The step that knows a part of the model's header: its layer's, if it is not quantized.

    What depends on it is then the same for all variants of a quantized model.
    """
    if header is None:
        return models[0]
    from mbuild.build.steps.header import HeaderPart, ReadHeader

    return ReadHeader(header, HeaderPart[part])


def _adapters(
    sources: Sources,
    request: BuildRequest,
    base: StoredModel | None,
    models: Sequence[Step],
    header: Origin | None,
    needs: tuple[Step, ...],
) -> tuple[Step, ...]:
    """The steps that make the layers of adapters; PEFT's are checked against the base."""
    found: list[Step] = []
    for source in sources.adapters:
        if isinstance(source, GGUFSource):
            found.append(_weights(source, Role.ADAPTER, request))
            continue
        from mbuild.build.companions import converted_adapter

        if header is None and base is not None:
            found.append(converted_adapter(source, base, (), needs))
        else:
            shapes = (_knowing("SHAPES", models, header),)
            found.append(converted_adapter(source, None, shapes, needs))
    return tuple(found)
