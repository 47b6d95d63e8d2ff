"""From a build request to what can run: its recipe, its sources, its plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from mbuild import __version__
from mbuild.build.fetching import Fetching
from mbuild.build.history import keep_modelfile, modelfile_text
from mbuild.build.plan import Plan, Sources, plan
from mbuild.build.sources.values import ModelSource, StoredModel
from mbuild.core.digest import Digest, sha256
from mbuild.core.errors import (
    MbuildError,
    MissingFileError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
    UsageError,
)
from mbuild.core.values import NamedTuple
from mbuild.language.recipe import RECIPE_VERSION, Recipe, Reference
from mbuild.language.span import Span
from mbuild.store.records import POSTED, RECIPE

if TYPE_CHECKING:
    from mbuild.build.request import BuildRequest, Script
    from mbuild.build.sources.resolve import Context
    from mbuild.store import Store

SourceT = TypeVar("SourceT")


class Gate(Protocol):
    """Looks at a build twice and may refuse it, by raising a :class:`MbuildError`."""

    def before(self, sources: Sources, plans: Sequence[Plan]) -> None:
        """Everything is found, nothing has run."""

    def after(self, manifests: Sequence[bytes]) -> None:
        """Every target is built (their manifests' bytes), none has a name."""


class Notice(NamedTuple):
    """A warning about what is asked, and where in the Modelfile that stands, if it is in one."""

    message: str
    span: Span | None = None


class Build(NamedTuple):
    """A request made ready to run: its recipe, where what it names is found, and who watches.

    ``warnings`` are shown before the build starts. Without ``use_cache`` every step runs.
    ``fetching`` says what may be pulled before.
    """

    request: BuildRequest
    recipe: Recipe
    context: Context
    use_cache: bool = True
    warnings: tuple[Notice, ...] = ()
    gate: Gate | None = None
    fetching: Fetching = Fetching()


def read_recipe(data: bytes, filename: str, store: Store) -> tuple[Recipe, tuple[Notice, ...]]:
    """Parse and check a Modelfile; returns what it asks for, and warnings.

    What a text without errors came to is remembered, so that a build with
    nothing to do loads no grammar. Raises :class:`ModelfileError`.
    """
    key = sha256(f"{RECIPE_VERSION} {__version__} {filename}\0".encode() + data).hexdigest()
    remembered = store.cache.get(RECIPE, key)
    if remembered is not None:
        with suppress(ValueError, TypeError, KeyError):
            recipe, rows = remembered
            notices = tuple(Notice(text, span and Span(*span)) for text, span in rows)
            return Recipe.from_json(recipe), notices
    from mbuild.lint import check

    modelfile, problems = check(data, filename)
    asked = Recipe.of(modelfile)
    notices = tuple(Notice(problem.message, problem.span) for problem in problems)
    store.cache.put(RECIPE, key, [asked.to_json(), notices])
    keep_modelfile(data, store)
    return asked, notices


def keep_recipe(recipe: Recipe, store: Store) -> Digest:
    """Keep what a posted request asks for in the cache, under its digest, which is returned."""
    text = recipe.to_json()
    digest = Digest.of(text.encode())
    store.cache.put(POSTED, str(digest), text)
    return digest


def kept_recipe(digest: Digest, store: Store) -> Recipe | None:
    """What a posted request asked for, if the cache still has it."""
    text = store.cache.get(POSTED, str(digest))
    with suppress(ValueError, TypeError, KeyError):
        return None if text is None else Recipe.from_json(text)
    return None


def check_unasked_names(request: BuildRequest, store: Store) -> None:
    """Refuse to replace what nobody named: raises :class:`UsageError`.

    A build without ``-t`` takes its folder's name if that is free, or if the model that
    has it was built from this very Modelfile.
    """
    from mbuild.build.history import History

    if request.script is None:
        return
    for name in request.names:
        stored = store.manifests.resolve(name)
        data = store.manifests.read_bytes(stored)
        if data is None:
            continue
        if not History(store).made_from(request.script, str(name), Digest.of(data)):
            raise UsageError(
                f"the store has a model {stored} that was not built from this Modelfile",
                hint=f"name the result with -t NAME; -t {name} replaces that model",
            )


def plans_of(wanted: Build, store: Store) -> tuple[Plan, ...]:
    """The graph of each target; raises what cannot be resolved."""
    script = wanted.request.script
    try:
        sources = resolve(wanted.recipe, wanted.request, wanted.context)
    except MbuildError as error:
        if script is None:
            raise
        raise _located(error, script, store) from None
    plans = plan(wanted.recipe, sources, wanted.request)
    if wanted.gate is not None:
        wanted.gate.before(sources, plans)
    return plans


def resolve(recipe: Recipe, request: BuildRequest, context: Context) -> Sources:
    """Find what the request and its instructions name.

    Of the instructions' errors one is raised as it is, several together.
    """
    matrices = (t.quantization.imatrix for t in request.targets if t.quantization)
    imatrices = {name: context.imatrix(name) for name in dict.fromkeys(matrices) if name}
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
    models = context.joined(_one_kind(models, recipe.models))
    return Sources(models, adapters, drafts, imatrices)


def at_last_model(error: MbuildError, wanted: Build, store: Store) -> MbuildError:
    """An error about what the last FROM names, with its place in the Modelfile."""
    script = wanted.request.script
    placed = _placed(error, wanted.recipe.models[-1])
    return placed if script is None else _located(placed, script, store)


def _located(error: MbuildError, script: Script, store: Store) -> MbuildError:
    """The error with the Modelfile's name, and its line where the text is known."""
    from mbuild.language.parser import decode

    data = modelfile_text(script.text, store)
    text = "" if data is None else decode(data)
    if isinstance(error, ModelfileError):
        return ModelfileError([problem.located(text, script.name) for problem in error.problems])
    return error if error.problem is None else error.at(error.problem.located(text, script.name))


def _one_kind(
    models: tuple[ModelSource, ...], named: Sequence[Reference]
) -> tuple[ModelSource, ...]:
    """Of several FROM lines: the last stored model, or all files."""
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
    from mbuild.language.instructions import Problem

    return error.at(Problem(error.message, item.span, suggestion=error.hint))
