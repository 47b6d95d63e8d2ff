"""From instructions and sources to the graph of steps: a pure function.

Kinds of steps that few builds have are loaded where they are planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mbuild.build.converter import ConvertOptions
from mbuild.build.sources.values import (
    AdapterSource,
    CheckpointSource,
    DraftSource,
    GGUFDirectory,
    GGUFSource,
    ModelSource,
    SourceFile,
    StoredModel,
)
from mbuild.build.splitting import Splitting
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF, Role
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.template import DetectTemplate
from mbuild.core import gojson
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.store import Layer
from mbuild.store.manifest import LEAST_OLLAMA
from mbuild.store.media import (
    ADAPTER,
    DRAFT,
    LICENSE,
    MEDIA_TYPES,
    MESSAGES,
    MODEL,
    PARAMS,
    SPLIT,
    SYSTEM,
    TEMPLATE,
    Inheritance,
)

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.build.request import BuildRequest
    from mbuild.build.steps.changed import ChangeWeights
    from mbuild.build.steps.checking import CheckModel
    from mbuild.build.steps.importances import MakeImatrix
    from mbuild.build.steps.origins import LayerOrigin, Origin
    from mbuild.build.steps.quantize import Quantize
    from mbuild.build.steps.shards import SplitWeights
    from mbuild.core.digest import Digest
    from mbuild.language.recipe import Recipe, Turn
    from mbuild.quant.choose.options import Quantization


class Sources(NamedTuple):
    """What the instructions that name files and models mean.

    ``models`` is one stored model, or all the files that FROM lines name
    (a model and its projectors). ``imatrices`` are the importance matrices by their names.
    """

    models: tuple[ModelSource, ...]
    adapters: tuple[AdapterSource, ...] = ()
    drafts: tuple[DraftSource, ...] = ()
    imatrices: Mapping[str, SourceFile] = {}
    changes: tuple[ChangeSource, ...] = ()

    def learned(self, files: Mapping[str, Digest]) -> Sources:
        """The same with the digests, by path, that a build found by reading."""
        return Sources(
            tuple(source.learned(files) for source in self.models),
            tuple(source.learned(files) for source in self.adapters),
            tuple(source.learned(files) for source in self.drafts),
            {name: file.learned(files) for name, file in self.imatrices.items()},
            tuple(each.learned(files) if each else each for each in self.changes),
        )


class OtherModel(NamedTuple):
    """The model that TAKE names: what it comes to, and all that it names."""

    recipe: Recipe
    sources: Sources

    def learned(self, files: Mapping[str, Digest]) -> OtherModel:
        """As :meth:`Sources.learned`."""
        return self._replace(sources=self.sources.learned(files))


ChangeSource = AdapterSource | OtherModel | None
"""What each change of a recipe names: an adapter, another model, or nothing."""


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
        _check_projector_alone(sources, request)
    drafts = tuple(_draft(_with_target(draft, sources), request) for draft in sources.drafts)
    base = next((source for source in sources.models if isinstance(source, StoredModel)), None)
    wanted = [target.quantization for target in request.targets]
    origin = None
    if recipe.changes or any(wanted):
        origin = _changed(recipe, sources, request)
    several = len(wanted) > 1 if several is None else several
    plans: list[Plan] = []
    for each in wanted:
        step: Quantize | ChangeWeights | None = None
        if each is not None and origin is not None:
            step = _quantized(origin, each, sources, request.splitting)
        elif origin is not None and recipe.changes:
            from mbuild.build.altering import changed_weights

            step = changed_weights(origin, request.splitting)
        label = request.targets[len(plans)].label if several else ""
        header = origin if each is not None else None
        plans.append(_plan(recipe, sources, request, base, drafts, step, header, label))
    return tuple(plans)


def _quantized(
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


def _check_projector_alone(sources: Sources, request: BuildRequest) -> None:
    """Raise :class:`UsageError` unless a projector without a model can be what is asked."""
    if not all(
        isinstance(source, CheckpointSource) and source.encoders for source in sources.models
    ):
        raise UsageError("--mmproj converts the encoders of a checkpoint, and FROM names none")
    if any(target.quantization for target in request.targets):
        raise UsageError("a projector is not quantized", hint="its type is --mmproj-outtype")
    if sources.adapters or sources.drafts or request.splitting:
        raise UsageError("--mmproj makes no model that has adapters, drafts or shards")


def _plan(
    recipe: Recipe,
    sources: Sources,
    request: BuildRequest,
    base: StoredModel | None,
    drafts: tuple[Step, ...],
    made: Quantize | ChangeWeights | None = None,
    header: Origin | None = None,
    variant: str = "",
) -> Plan:
    """One variant's graph; ``made`` takes the place of the model's weights.

    ``header`` is the unquantized model of a quantized one, which is written nowhere.

    Where there are several, what depends on the variant has its name in its label.
    """
    entries = _Entries(base, recipe.unset)
    instead = made or _split(base, request)
    if instead is not None and base is not None:
        entries.put_in_place(instead, MODEL)
    _add_weights(entries, sources, request, made)
    models = entries.steps()
    detected: tuple[Step, ...] = ()
    if base is None and TEMPLATE not in entries.unset and not request.halves.mmproj:
        detected = (DetectTemplate((_knowing("CHAT_TEMPLATE", models, header),)),)
        entries.put(detected[0], TEMPLATE)
    stored = base if made is None else None
    needs = _base_needs(base, replaced=instead is not None)
    adapters = tuple(
        _adapter(each, stored, models, header, request, needs) for each in sources.adapters
    )
    for step in (*adapters, *drafts):
        entries.append(step)
    _add_texts(entries, recipe, detected, needs)
    weights = (*models, *adapters, *drafts)
    base_config = base.manifest.config if base else None
    least = LEAST_OLLAMA if entries.several(base) else ""
    lifted = "" if least or base is None or not _is_split(base) else LEAST_OLLAMA
    left = tuple(key for key in UNSET_CONFIG if key in recipe.unset)
    alone = request.halves.mmproj
    config = MakeConfig(
        base_config, weights, recipe.config, variant, least, lifted, left, alone, needs
    )
    manifest = AssembleManifest(config, entries.all(), variant, needs)
    warning = _SEVERAL if least else _kept_nothing(sources, request)
    return Plan(manifest, base, warning, (), entries.weights(), header)


def _add_weights(
    entries: _Entries, sources: Sources, request: BuildRequest, made: Step | None
) -> None:
    """The weights that FROM names: the model, or ``made`` in its place, and the projectors."""
    for number, source in enumerate(_files(sources.models)):
        sees = isinstance(source, CheckpointSource) and bool(source.encoders)
        first = number == 0 and not request.halves.mmproj
        if made is not None and first:
            entries.append(made)
        elif first or not sees:
            splitting = request.splitting if first else None  # a projector is one file
            entries.append(_weights(source, Role.MODEL, request, splitting))
        if isinstance(source, CheckpointSource) and sees and not request.halves.text_only:
            entries.append(_projector(source, request, beside=first))


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


def _changed(recipe: Recipe, sources: Sources, request: BuildRequest) -> Origin:
    """The model's weights, with what the recipe changes in them."""
    base = next((source for source in sources.models if isinstance(source, StoredModel)), None)
    origin = _model_origin(sources, base, request)
    if not recipe.changes:
        return origin
    from mbuild.build.altering import altered

    others = [
        _changed(*source, request) if isinstance(source, OtherModel) else source
        for source in sources.changes
    ]
    return altered(origin, recipe.changes, others)


def _model_origin(sources: Sources, base: StoredModel | None, request: BuildRequest) -> Origin:
    """What is quantized: the model's weights, never a projector or an adapter."""
    if base is not None:
        return _stored(base)
    return _origin(_files(sources.models)[0], request)


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


def _split(base: StoredModel | None, request: BuildRequest) -> SplitWeights | None:
    """The step that splits the weights of a stored model, if that is asked for."""
    splitting = request.splitting
    if base is None or splitting is None or splitting.keep:
        return None
    from mbuild.build.steps.shards import SplitWeights

    return SplitWeights(_stored(base), splitting)


def _origin(source: GGUFSource | CheckpointSource, request: BuildRequest) -> Origin:
    """The weights of a source, to be quantized."""
    from mbuild.build.steps.origins import CheckpointOrigin, GGUFOrigin

    if isinstance(source, CheckpointSource):
        return CheckpointOrigin(source, _convert_options(request))
    return GGUFOrigin(source.files)


UNSET_LAYERS = {
    "template": TEMPLATE,
    "system": SYSTEM,
    "license": LICENSE,
    "message": MESSAGES,
    "adapter": ADAPTER,
    "draft": DRAFT,
}
"""Which inherited layers UNSET leaves out, by its word."""

UNSET_CONFIG = ("renderer", "parser", "requires", "draft")
"""Which keys of an inherited config it leaves out."""

_PARAMETER = "parameter "


def _convert_options(request: BuildRequest) -> ConvertOptions:
    return ConvertOptions(request.outtype, request.pre, request.conversion, request.converter)


class _Entries:
    """The layers of the model to be: inherited ones first, replaced and added to as Ollama does."""

    def __init__(self, base: StoredModel | None, unset: Sequence[str] = ()) -> None:
        self.unset = frozenset(UNSET_LAYERS[word] for word in unset if word in UNSET_LAYERS)
        self._entries: list[tuple[str, Layer | Step]] = []
        for layer in base.manifest.layers if base else ():
            if layer.media_type in self.unset:
                continue
            inherited = Layer(layer.media_type, layer.digest, layer.size, str(base.name))  # type: ignore[union-attr]
            self._entries.append((layer.media_type, inherited))

    def append(self, step: Step, media_type: str = "") -> None:
        """Add a step's layers at the end."""
        self._entries.append((media_type, step))

    def put(self, step: Step, media_type: str) -> None:
        """Add a step's layers at the end, beside or instead of those of their type: its rule."""
        if MEDIA_TYPES[media_type].rule in (Inheritance.REPLACED, Inheritance.MERGED):
            self._entries = [entry for entry in self._entries if entry[0] != media_type]
        self.append(step, media_type)

    def put_in_place(self, step: Step, media_type: str) -> None:
        """Put a step where the layer of that type stands, or the first of several."""
        places = [place for place, (kind, _) in enumerate(self._entries) if kind == media_type]
        for place in reversed(places[1:]):
            del self._entries[place]
        for place in places[:1]:
            self._entries[place] = media_type, step

    def several(self, base: StoredModel | None) -> bool:
        """Whether weights are in several layers, of a step or of the base."""
        steps = [entry for _, entry in self._entries if not isinstance(entry, Layer)]
        if any(step.several_layers for step in steps):
            return True
        kept = [self.inherited(kind) for kind in SPLIT] if base else []
        return any(len(layers) > 1 for layers in kept)

    def inherited(self, media_type: str) -> list[Layer]:
        """The base's layers of that type."""
        return [e for kind, e in self._entries if kind == media_type and isinstance(e, Layer)]

    def weights(self) -> Step | tuple[Layer, ...] | None:
        """The step that makes the model's weights, or the layers that are inherited."""
        inherited = self.inherited(MODEL)
        if inherited:
            return tuple(inherited)
        steps = (entry for _, entry in self._entries if not isinstance(entry, Layer))
        return next((step for step in steps if step.makes_weights), None)

    def steps(self) -> tuple[Step, ...]:
        """The steps so far."""
        return tuple(e for _, e in self._entries if not isinstance(e, Layer))

    def all(self) -> tuple[Layer | Step, ...]:
        """Layers and steps in order."""
        return tuple(entry for _, entry in self._entries)


def _add_texts(
    entries: _Entries, recipe: Recipe, detected: tuple[Step, ...], needs: tuple[Step, ...]
) -> None:
    """Template, system, licenses, parameters, messages: replaced, added or merged."""
    if recipe.template:
        entries.put(PutLayer(TEMPLATE, recipe.template), TEMPLATE)
    if recipe.system:
        entries.put(PutLayer(SYSTEM, recipe.system), SYSTEM)
    carried = {layer.digest for layer in entries.inherited(LICENSE)}
    for text in recipe.licenses:
        if _digest(text) not in carried:  # Ollama adds it again at every build
            entries.put(PutLayer(LICENSE, text), LICENSE)
    inherited = entries.inherited(PARAMS)
    if recipe.parameters or inherited or detected:
        base = inherited[-1] if inherited else None
        without = tuple(w.partition(" ")[2] for w in recipe.unset if w.startswith(_PARAMETER))
        entries.put(MergeParameters(recipe.parameters, base, detected, without, needs), PARAMS)
    if recipe.messages:
        messages = [_message(turn) for turn in recipe.messages]
        text = gojson.dumps(messages).decode()
        entries.put(PutLayer(MESSAGES, text), MESSAGES)


def _message(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": turn.content, **turn.further}


def _digest(text: str) -> Digest:
    from mbuild.core.digest import Digest

    return Digest.of(text.encode())


def _files(models: Sequence[ModelSource]) -> list[GGUFSource | CheckpointSource]:
    """The files among the sources, weights before projectors."""
    files: list[GGUFSource | CheckpointSource] = []
    for source in models:
        if isinstance(source, GGUFDirectory):
            files += (source.model, *source.projectors)
        elif not isinstance(source, StoredModel):
            files.append(source)
    return files


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

        return ConvertCheckpoint(source, _convert_options(request), role, cut)
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


def _projector(source: CheckpointSource, request: BuildRequest, *, beside: bool) -> Step:
    """The step that makes the projector of a checkpoint, ``beside`` its text model or alone."""
    from mbuild.build.steps.checkpoint import ConvertProjector
    from mbuild.build.steps.origins import CheckpointOrigin

    outtype = request.halves.outtype or request.outtype
    text = CheckpointOrigin(source, _convert_options(request)) if beside else None
    naming = request.conversion.naming
    return ConvertProjector(source, outtype, text, naming, request.converter)


def _with_target(draft: DraftSource, sources: Sources) -> DraftSource:
    """A draft without a tokenizer gets that of the checkpoint that FROM names."""
    if not isinstance(draft, CheckpointSource) or not draft.needs_target:
        return draft
    targets = (each for each in sources.models if isinstance(each, CheckpointSource))
    target = next(targets, None)
    return draft if target is None else draft.drafting_for(target)


def _draft(source: DraftSource, request: BuildRequest) -> Step:
    """The step that makes a draft's layer."""
    if request.draft_quantize is None:
        keep = request.splitting if request.splitting and request.splitting.keep else None
        return _weights(source, Role.DRAFT, request, keep)
    if request.draft_quantize.budget is not None:
        raise UsageError(
            f"--draft-quantize {request.draft_quantize} is not a type",
            hint="name one, such as q4_0",
        )
    from mbuild.build.steps.quantize import Quantize
    from mbuild.quant.choose.options import Quantization as Wanted

    return Quantize(_origin(source, request), Wanted(request.draft_quantize), Role.DRAFT)


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


def _adapter(
    source: AdapterSource,
    base: StoredModel | None,
    models: Sequence[Step],
    header: Origin | None,
    request: BuildRequest,
    needs: tuple[Step, ...],
) -> Step:
    """The step that makes an adapter's layer; a PEFT adapter is checked against the base."""
    if isinstance(source, GGUFSource):
        return _weights(source, Role.ADAPTER, request)
    from mbuild.build.steps.weights import ConvertAdapter

    if header is None and base is not None:
        layers = base.manifest.of_kind(MODEL)
        if not layers:
            raise UnsupportedError(
                f"{base.name} has no weights, so no adapter can be converted for it",
                hint="name another model in FROM, or convert the adapter to GGUF",
            )
        return ConvertAdapter(source, layers, (), needs)
    return ConvertAdapter(source, (), (_knowing("SHAPES", models, header),))
