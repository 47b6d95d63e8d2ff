"""What is to be built: a recipe, where its paths lead, what to name the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from mbuild import __version__
from mbuild.build.history import keep_modelfile, modelfile_text
from mbuild.build.plan import Options, Plan, Sources, plan
from mbuild.build.sources.values import ModelSource, StoredModel
from mbuild.core.digest import Digest
from mbuild.core.errors import (
    MbuildError,
    MissingFileError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
    UsageError,
)
from mbuild.language.recipe import RECIPE_VERSION, Recipe, Reference
from mbuild.store.records import RECIPE

if TYPE_CHECKING:
    from mbuild.build.history import Script
    from mbuild.build.sources.resolve import Context
    from mbuild.core.names import ModelName
    from mbuild.store import Store

SourceT = TypeVar("SourceT")


class Gate(Protocol):
    """Looks at a build twice and may refuse it, by raising a :class:`MbuildError`."""

    def before(self, sources: Sources, plans: Sequence[Plan]) -> None:
        """Everything is found, nothing has run."""

    def after(self, manifests: Sequence[bytes]) -> None:
        """Every variant is built (their manifests' bytes), none has a name."""


class Request(NamedTuple):
    """One build: what is asked for, where its paths lead, and what to name the result.

    ``warnings`` are shown before the build starts. ``script`` is what a person
    wrote, for the log of builds; a program's request has none. Where ``named`` is
    False the names are only what to call the build.
    """

    recipe: Recipe
    context: Context
    names: tuple[ModelName, ...]
    options: Options = Options()
    use_cache: bool = True
    warnings: tuple[str, ...] = ()
    variant_names: tuple[tuple[ModelName, ...], ...] = ()
    script: Script | None = None
    gate: Gate | None = None
    named: bool = True

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name that the build gives."""
        groups = self.variant_names or (self.names,)
        return tuple(str(name) for group in groups for name in group)

    def names_of(self, variant: int) -> tuple[ModelName, ...]:
        """The names of one variant; ``variant_names`` where there are several."""
        return self.variant_names[variant] if self.variant_names else self.names


def read_recipe(data: bytes, filename: str, store: Store) -> tuple[Recipe, tuple[str, ...]]:
    """Parse and check a Modelfile; returns what it asks for, and warnings.

    What a text without errors came to is remembered, so that a build with
    nothing to do loads no grammar. Raises :class:`ModelfileError`.
    """
    key = hashlib.sha256(f"{RECIPE_VERSION} {__version__} {filename}\0".encode() + data).hexdigest()
    remembered = store.cache.get(RECIPE, key)
    if remembered is not None:
        with suppress(ValueError, TypeError):
            recipe, texts = remembered
            return Recipe.from_json(recipe), tuple(texts)
    from mbuild.lint import check

    modelfile, problems = check(data, filename)
    asked, warnings = Recipe.of(modelfile), tuple(problem.message for problem in problems)
    store.cache.put(RECIPE, key, [asked.to_json(), warnings])
    keep_modelfile(data, store)
    return asked, warnings


def check_unasked_names(request: Request, store: Store) -> None:
    """Refuse to replace what nobody named: raises :class:`UsageError`.

    A build without ``-t`` takes its folder's name if that is free, or if the model that
    has it was built from this very Modelfile.
    """
    from mbuild.build.history import History

    for number in range(max(1, len(request.variant_names))):
        for name in request.names_of(number):
            stored = store.manifests.resolve(name)
            data = store.manifests.read_bytes(stored)
            if data is None or request.script is None:
                continue
            if not History(store).made_from(request.script, str(name), Digest.of(data)):
                raise UsageError(
                    f"the store has a model {stored} that was not built from this Modelfile",
                    hint=f"name the result with -t NAME; -t {name} replaces that model",
                )


def plans_of(request: Request, store: Store) -> tuple[Plan, ...]:
    """The graph of each variant; raises what cannot be resolved."""
    try:
        sources = resolve(request.recipe, request.context)
    except MbuildError as error:
        if request.script is not None:
            _locate(error, request.script, store)
        raise
    plans = plan(request.recipe, sources, request.options)
    if request.gate is not None:
        request.gate.before(sources, plans)
    return plans


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


def _locate(error: MbuildError, script: Script, store: Store) -> None:
    """Put the Modelfile's name, and its line where the text is known, into an error."""
    from mbuild.language.parser import decode

    data = modelfile_text(script.text, store)
    text = "" if data is None else decode(data)
    if isinstance(error, ModelfileError):
        error.problems = tuple(problem.located(text, script.name) for problem in error.problems)
    if error.problem is not None:
        error.problem = error.problem.located(text, script.name)


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
            hint="keep the one to build from",
        )
        raise _placed(error, named[-1])
    return (stored[-1],)


def _placed(error: MbuildError, item: Reference) -> MbuildError:
    """The error with its place in the Modelfile."""
    from mbuild.language.instructions import Problem, Span

    span = Span(*item.span) if item.span else None
    error.problem = Problem(error.message, span, suggestion=error.hint)
    return error
