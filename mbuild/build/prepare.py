"""From a build request to what can run: its recipe, its sources, its plans."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mbuild import __version__
from mbuild.build.fetching import Fetching, fetch, placed
from mbuild.build.history import keep_modelfile, modelfile_text
from mbuild.build.plan import Plan, plan
from mbuild.build.request import Target
from mbuild.build.sources.values import ChangeSource, ModelSource, OtherModel, Sources, StoredModel
from mbuild.core.digest import Digest, sha256
from mbuild.core.errors import (
    MbuildError,
    MissingFileError,
    ModelfileError,
    NameNotFoundError,
    RegistryError,
    SourceError,
    UsageError,
)
from mbuild.core.values import NamedTuple, replace
from mbuild.language.recipe import RECIPE_VERSION, ModelChange, Recipe, Reference
from mbuild.language.span import Span
from mbuild.store.records import POSTED, RECIPE

if TYPE_CHECKING:
    from mbuild.build.request import BuildRequest, Script
    from mbuild.build.sources.resolve import Context
    from mbuild.build.sources.values import SourceFile
    from mbuild.core.events import BuildEvent
    from mbuild.language.stages.values import Expectation, StageRecipe
    from mbuild.store import Store
    from mbuild.work.cancel import Cancel
    from mbuild.work.pools import WorkerPool

SourceT = TypeVar("SourceT")


class Resolved(NamedTuple):
    """What one target or several come from: a recipe, all that it names, and the request."""

    recipe: Recipe
    sources: Sources
    request: BuildRequest


class Gate(Protocol):
    """Looks at a build twice and may refuse it, by raising a :class:`MbuildError`."""

    def before(self, found: Sequence[Resolved], plans: Sequence[Plan]) -> None:
        """Everything is found, nothing has run: one part, or one for each stage's target."""

    def after(self, manifests: Sequence[bytes]) -> None:
        """Every target is built (their manifests' bytes), none has a name."""


class Notice(NamedTuple):
    """A warning about what is asked, and where in the Modelfile that stands, if it is in one."""

    message: str
    span: Span | None = None


class Build(NamedTuple):
    """A request made ready to run: its recipe, where what it names is found, and who watches.

    ``warnings`` are shown before the build starts. Without ``use_cache`` every step runs.
    ``fetching`` says what may be pulled before. ``stages`` are those of the targets, by their
    names, where the Modelfile has stages; ``recipe`` is then that of the first target.
    ``overruled`` tells which options of the command line count in place of the Modelfile's.
    ``pool`` computes for the build beside this process; ``cancel`` stops it from another thread.
    ``id`` is the one that the log shall have for the build, empty for a new one.
    ``checks`` is what the request's own checks mean; without ``checking`` neither these nor
    those of the stages are made.
    """

    request: BuildRequest
    recipe: Recipe
    context: Context
    use_cache: bool = True
    warnings: tuple[Notice, ...] = ()
    gate: Gate | None = None
    fetching: Fetching = Fetching()
    stages: Mapping[str, StageRecipe] = {}
    overruled: tuple[Notice, ...] = ()
    id: str = ""
    checks: tuple[Expectation, ...] = ()
    checking: bool = True
    pool: WorkerPool | None = None
    cancel: Cancel | None = None

    def expected(self, target: Target) -> tuple[Expectation, ...]:
        """What CHECK and ``--check`` demand of a target."""
        if not self.checking:
            return ()
        own = self.stages[target.stage].checks if target.stage in self.stages else ()
        return (*own, *self.checks)

    def recipes(self) -> Iterator[Recipe]:
        """The recipe of every stage that is built, and of models that give tensors."""
        for recipe, _ in self.parts():
            yield from recipe.every()

    def parts(self) -> Iterator[tuple[Recipe, BuildRequest]]:
        """The recipe of each stage's target, and the request for it; without stages one of all."""
        if not self.stages:
            yield self.recipe, self.request
        for target in self.request.targets if self.stages else ():
            yield self.stages[target.stage].recipe, self.request.for_stage(target)


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


def learn(wanted: Build, store: Store) -> None:
    """Find out what is on other machines, for whoever only looks: no weights are fetched.

    Raises what :func:`mbuild.build.fetching.fetch` raises.
    """
    looking = wanted._replace(fetching=wanted.fetching._replace(only_look=True))
    for _ in fetched(looking, store):
        pass


def fetched(wanted: Build, store: Store) -> Generator[BuildEvent, None, None]:
    """Fetch what a build names on other machines; the events of doing so.

    Raises what :func:`mbuild.build.fetching.fetch` raises, with the Modelfile's name and the line.
    """
    try:
        yield from fetch(wanted.recipes(), wanted.fetching, wanted.context, store)
    except (RegistryError, SourceError) as error:
        raise located(error, wanted, store) from None


def plans_of(wanted: Build, store: Store) -> tuple[Plan, ...]:
    """The graph of each target; raises what cannot be resolved."""
    return prepared(wanted, store)[1]


def prepared(wanted: Build, store: Store) -> tuple[Sequence[Resolved], tuple[Plan, ...]]:
    """What each part of a build comes from, and the graph of each target; raises as plans_of."""
    script = wanted.request.script
    several = len(wanted.request.targets) > 1
    found, plans = [], list[Plan]()
    for recipe, request in wanted.parts():
        try:
            sources = resolve(recipe, request, wanted.context)
        except MbuildError as error:
            if script is None:
                raise
            raise _located(error, script, store) from None
        found.append(Resolved(recipe, sources, request))
        made = plan(recipe, sources, request, several=several)
        for each, target in zip(made, request.targets, strict=True):
            expected = wanted.expected(target)
            try:
                plans.append(_checked(each, expected, wanted, target.label if several else ""))
            except MbuildError as error:
                if script is None:
                    raise
                raise _located(error, script, store) from None
    if wanted.gate is not None:
        wanted.gate.before(found, plans)
    return found, tuple(plans)


def _checked(planned: Plan, expected: Sequence[Expectation], wanted: Build, label: str) -> Plan:
    """The plan with the steps that look at the model."""
    if not expected:
        return planned
    from mbuild.build.gates import ON_TEXT, checks_of

    texts = {
        (each.text, each.beside): _text_of(each, wanted.context)
        for each in expected
        if each.measure in ON_TEXT
    }
    return planned._replace(checks=tuple(checks_of(planned, expected, texts, label)))


def _text_of(each: Expectation, context: Context) -> SourceFile:
    """The file of a check's text; an error is placed at its line."""
    try:
        return context.imatrix(each.text, beside=each.beside)
    except MbuildError as error:
        if not each.beside:  # the command line names it
            raise
        raise placed(error, Reference("", each.span)) from None


def read_checks(texts: Sequence[str], store: Store) -> tuple[Expectation, ...]:
    """What ``--check`` says; remembered, so that a build with nothing to do loads no grammar.

    Raises :class:`UsageError`.
    """
    if not texts:
        return ()
    from mbuild.language.stages.values import Expectation

    asked = "\0".join(("checks", str(RECIPE_VERSION), __version__, *texts))
    key = sha256(asked.encode()).hexdigest()
    remembered = store.cache.get(RECIPE, key)
    if remembered is not None:
        with suppress(ValueError, TypeError):
            return tuple(Expectation(*each) for each in remembered)
    from mbuild.language.stages.changing import checks_said

    found = checks_said(texts)
    store.cache.put(RECIPE, key, [list(each) for each in found])
    return found


def resolve(recipe: Recipe, request: BuildRequest, context: Context) -> Sources:
    """Find what the request and its instructions name.

    Of the instructions' errors one is raised as it is, several together.
    """
    named = [
        (name, target.beside)
        for target in request.targets
        if target.quantization
        for name in (target.quantization.imatrix, target.quantization.imatrix_from)
    ]
    imatrices = {
        name: context.imatrix(name, beside=beside) for name, beside in dict.fromkeys(named) if name
    }
    errors: list[MbuildError] = []

    def each(items: Sequence[Reference], find: Callable[[str], SourceT]) -> tuple[SourceT, ...]:
        found = []
        for item in items:
            try:
                found.append(find(item.value))
            except MbuildError as error:
                hidden = items is recipe.models and item is not items[-1]
                if not (hidden and isinstance(error, (MissingFileError, NameNotFoundError))):
                    errors.append(placed(error, item))
        return tuple(found)

    models = each(recipe.models, context.model)
    adapters = each(recipe.adapters, context.adapter)
    drafts = each(recipe.drafts, context.draft)
    changes: list[ChangeSource] = []
    for change in recipe.changes:
        try:
            changes.append(_of_change(change, request, context))
        except ModelfileError:
            raise
        except MbuildError as error:
            errors.append(placed(error, Reference("", change.span)))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ModelfileError([error.problem for error in errors])
    models = context.joined(_one_kind(models, recipe.models))
    return Sources(models, adapters, drafts, imatrices, tuple(changes))


def _of_change(change: ModelChange, request: BuildRequest, context: Context) -> ChangeSource:
    """What a change of the weights names."""
    if change.kind == "merge":
        return context.merged(change.name)
    if change.kind != "take":
        return None
    other = Recipe.from_json(change.value[1])
    return OtherModel(other, resolve(other, request._replace(targets=()), context))


def located(error: MbuildError, wanted: Build, store: Store) -> MbuildError:
    """The error of an instruction with the Modelfile's name and the line."""
    script = wanted.request.script
    return error if script is None else _located(error, script, store)


def _located(error: MbuildError, script: Script, store: Store) -> MbuildError:
    """The error with its file's name, and its line where the text is known."""
    from mbuild.language.parser import decode

    text = ""

    def located(problem: Any) -> Any:
        nonlocal text
        included = problem.span.file if problem.span else ""
        digest = script.brought.get(included) if included else script.text
        data = None if digest is None else modelfile_text(digest, store)
        text = "" if data is None else decode(data)
        return problem.located(text, included or script.name)

    if isinstance(error, ModelfileError):
        return ModelfileError([located(problem) for problem in error.problems])
    if error.problem is None:
        return error
    problem = located(error.problem)
    if isinstance(error, NameNotFoundError) and problem.span:
        from mbuild.core.suggest import did_you_mean
        from mbuild.lint.remedies import stage_meant

        if stage := stage_meant(text[problem.span.value : problem.span.end], text):
            hint = did_you_mean([f"the stage {stage}"])
            error = NameNotFoundError(error.message, hint=hint)
            problem = replace(problem, suggestion=hint)
    return error.at(problem)


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
        raise placed(error, named[-1])
    return (stored[-1],)
