"""Builds: from a Modelfile's bytes to a named model, as a stream of events."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mbuild import __version__
from mbuild.digest import Digest
from mbuild.engine import Engine, Outcome
from mbuild.errors import (
    MbuildError,
    MissingFileError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
)
from mbuild.events import (
    BuildEvent,
    BuildFinished,
    BuildStarted,
    LayerReady,
    ModelBuilt,
    Status,
    Warned,
    WritingManifest,
)
from mbuild.graph import Step, in_order
from mbuild.modelfile.recipe import RECIPE_VERSION, Recipe, Reference
from mbuild.planner import Options, Plan, Sources, plan
from mbuild.sources import ModelSource, StoredModel
from mbuild.steps import (
    ConvertCheckpoint,
    PlannedTensor,
    Quantize,
    preview,
    unquantized_size,
)
from mbuild.steps.origins import CheckpointOrigin
from mbuild.store import Layer, Manifest

if TYPE_CHECKING:
    from mbuild.context import Context
    from mbuild.names import ModelName
    from mbuild.store import Store

SourceT = TypeVar("SourceT")

_RECIPE = "recipe"
_NOTICE_SECONDS = 1.0


class Request(NamedTuple):
    """One build: what is asked for, where its paths lead, and what to name the result.

    ``warnings`` are shown before the build starts.
    """

    recipe: Recipe
    context: Context
    names: tuple[ModelName, ...]
    options: Options = Options()
    use_cache: bool = True
    warnings: tuple[str, ...] = ()
    variant_names: tuple[tuple[ModelName, ...], ...] = ()

    def names_of(self, variant: int) -> tuple[ModelName, ...]:
        """The names of one variant; ``variant_names`` where there are several."""
        return self.variant_names[variant] if self.variant_names else self.names


class PlannedStep(NamedTuple):
    """A step as ``--dry-run`` shows it; ``writes`` is bytes, None when nobody can know yet.

    ``tensors`` are those of a quantization.
    """

    kind: str
    label: str
    cached: bool
    writes: int | None
    tensors: tuple[PlannedTensor, ...] = ()


def build(request: Request, store: Store) -> Iterator[BuildEvent]:
    """Build and name the model; raises :class:`MbuildError` for everything that can go wrong.

    Closing the iterator stops the build; nothing half done is left.
    """
    started = time.monotonic()
    if not store.begin(timeout=_NOTICE_SECONDS):
        yield Status("waiting for another mbuild, which is removing blobs")
        store.begin()
    try:
        for warning in request.warnings:
            yield Warned(warning)
        plans = _plan(request)
        targets = [planned.manifest for planned in plans]
        yield BuildStarted(str(request.names_of(0)[0]), len(in_order(targets)))
        outcome = Outcome()
        yield from Engine(store, request.use_cache).run(targets, outcome)
        for number, planned in enumerate(plans):
            data = outcome.results[planned.manifest].facts["manifest"].encode()
            yield from _layers(planned, outcome)
            for name in request.names_of(number):
                yield WritingManifest(str(name))
                _name(store, name, data)
            yield ModelBuilt(str(request.names_of(number)[0]), Digest.of(data))
        yield _finished(request, plans, outcome, started)
    finally:
        store.end()


def dry_run(request: Request, store: Store) -> list[PlannedStep]:
    """What :func:`build` would do, without writing anything."""
    targets = [planned.manifest for planned in _plan(request)]
    rows = Engine(store, request.use_cache).survey(targets)
    return [_planned(step, cached, store) for step, cached in rows]


def _planned(step: Step, cached: bool, store: Store) -> PlannedStep:
    if isinstance(step, Quantize):
        tensors, size = preview(step, store)
        return PlannedStep(step.kind, step.label, cached, 0 if cached else size, tensors)
    if isinstance(step, ConvertCheckpoint) and not cached:
        origin = CheckpointOrigin(step.source, step.outtype, step.pre)
        return PlannedStep(step.kind, step.label, cached, unquantized_size(origin, store))
    return PlannedStep(step.kind, step.label, cached, 0 if cached else _size(step))


def read_recipe(data: bytes, filename: str, store: Store) -> tuple[Recipe, tuple[str, ...]]:
    """Parse and check a Modelfile; returns what it asks for, and warnings.

    What a text without errors came to is remembered, so that a build with
    nothing to do loads no grammar. Raises :class:`ModelfileError`.
    """
    key = hashlib.sha256(f"{RECIPE_VERSION} {__version__} {filename}\0".encode() + data).hexdigest()
    remembered = store.database.get(_RECIPE, key)
    if remembered is not None:
        with suppress(ValueError, TypeError):
            recipe, texts = json.loads(remembered)
            return Recipe.from_json(recipe), tuple(texts)
    from mbuild.lint import check

    modelfile, problems = check(data, filename)
    asked, warnings = Recipe.of(modelfile), tuple(problem.message for problem in problems)
    store.database.put(_RECIPE, key, json.dumps([asked.to_json(), warnings]))
    return asked, warnings


def _plan(request: Request) -> tuple[Plan, ...]:
    sources = resolve(request.recipe, request.context)
    return plan(request.recipe, sources, request.options)


def resolve(recipe: Recipe, context: Context) -> Sources:
    """Find what the instructions name; one error is raised as it is, several together."""
    errors: list[MbuildError] = []

    def each(items: Sequence[Reference], find: Callable[[str], SourceT]) -> tuple[SourceT, ...]:
        found = []
        for item in items:
            try:
                found.append(find(item.value))
            except MbuildError as error:
                hidden = items is recipe.models and item is not items[-1]
                if not (hidden and isinstance(error, (MissingFileError, NameNotFoundError))):
                    errors.append(_placed(error, item))
        return tuple(found)

    models = each(recipe.models, context.model)
    adapters = each(recipe.adapters, context.adapter)
    drafts = each(recipe.drafts, context.draft)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ModelfileError([error.problem for error in errors])
    return Sources(_one_kind(models, recipe.models), adapters, drafts)


def _one_kind(
    models: tuple[ModelSource, ...], named: Sequence[Reference]
) -> tuple[ModelSource, ...]:
    """Of several FROM lines: the last model of the store, or all files."""
    stored = [source for source in models if isinstance(source, StoredModel)]
    if not stored:
        return models
    if len(stored) != len(models):
        error = SourceError(
            f"FROM names both the model {stored[-1].name} and a file",
            hint="keep the one that the model shall be built from",
        )
        raise _placed(error, named[-1])
    return (stored[-1],)


def _placed(error: MbuildError, item: Reference) -> MbuildError:
    """The error with its place in the Modelfile."""
    from mbuild.modelfile.instructions import Problem, Span

    span = Span(*item.span) if item.span else None
    error.problem = Problem(error.message, span, suggestion=error.hint)
    return error


def _layers(planned: Plan, outcome: Outcome) -> Iterator[BuildEvent]:
    """One event for each layer of the manifest, in its order."""
    # Of two steps that make the same blob at once only one finds it there.
    new = {
        layer.digest
        for step in outcome.ran
        for layer in outcome.results[step].layers
        if layer.digest not in outcome.results[step].existed
    }
    said = {
        layer.digest: result.facts["announce"]
        for result in outcome.results.values()
        if "announce" in result.facts
        for layer in result.layers
    }
    data = outcome.results[planned.manifest].facts["manifest"].encode()
    for layer in Manifest.decode(data, "the new manifest").layers:
        if layer.digest in said:
            yield Status(said[layer.digest])
        else:
            existing = layer.digest not in new
            yield LayerReady(layer.digest, layer.media_type, layer.size, existing)
            new.discard(layer.digest)


def _name(store: Store, name: ModelName, data: bytes) -> None:
    """Give the model its name, unless it has it already."""
    stored = store.manifests.resolve(name)
    if store.manifests.read_bytes(stored) != data:
        store.replace(stored, data)


def _finished(
    request: Request, plans: Sequence[Plan], outcome: Outcome, started: float
) -> BuildFinished:
    new: dict[Digest, Layer] = {
        layer.digest: layer
        for step in outcome.ran
        for layer in outcome.results[step].layers
        if layer.digest not in outcome.results[step].existed
    }
    data = outcome.results[plans[0].manifest].facts["manifest"].encode()
    return BuildFinished(
        ", ".join(str(request.names_of(number)[0]) for number in range(len(plans))),
        Digest.of(data),
        len(outcome.ran),
        len(outcome.results) - len(outcome.ran),
        sum(layer.size for layer in new.values()),
        time.monotonic() - started,
    )


def _size(step: Step) -> int | None:
    """Bytes that a step will write, as far as its inputs tell."""
    text = getattr(step, "text", None)
    if isinstance(text, str):
        return len(text.encode())
    files = getattr(step, "files", None) or (getattr(step, "file", None),)
    stamps = [file.stamp.size for file in files if file is not None]
    return sum(stamps) if stamps else None
