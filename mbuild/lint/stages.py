"""What can be known to be wrong with a file of stages without building it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Problem, Severity
from mbuild.language.span import Span
from mbuild.language.stages.evaluate import Bring, chosen, evaluate
from mbuild.language.stages.stage import Stage
from mbuild.language.stages.values import ALL, QuantizeLine
from mbuild.lint import check_instructions, consequences, paths, templates
from mbuild.lint.consequences import StageInFile


class CheckedStages(NamedTuple):
    """The stages that were asked for, all that there are, and warnings."""

    stages: tuple[Stage, ...]
    every: tuple[Stage, ...]
    warnings: tuple[Problem, ...]


def check_stages(
    data: bytes,
    filename: str,
    bring: Bring,
    arguments: Mapping[str, str] = {},
    targets: Sequence[str] = (ALL,),
    folder: Path | None = None,
    models: frozenset[str] = frozenset(),
) -> CheckedStages:
    """Evaluate a file, and check the stages that ``targets`` name as Modelfiles of their own.

    ``folder`` is where its paths start from; without one no folder is looked at. ``models`` are
    the names of the store's models, each as it writes it. Raises :class:`ModelfileError` with
    all problems if any of them is an error.
    """
    evaluated = evaluate(data, filename, arguments, bring)
    wanted = tuple(chosen(evaluated.stages, tuple(targets)))
    found = dict.fromkeys(evaluated.warnings)
    stored = frozenset(name.lower() for name in models)
    for stage in _with_bases(wanted):
        found |= dict.fromkeys(_of_stage(stage, folder))
        before = evaluated.stages[: evaluated.stages.index(stage)]
        found |= dict.fromkeys(consequences.check(StageInFile(stage, before, stored)))
    found |= dict.fromkeys(_without_a_name(evaluated.stages[:-1]))
    problems = [evaluated.located(problem, filename) for problem in found]
    problems.sort(key=_place)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ModelfileError(problems)
    return CheckedStages(wanted, evaluated.stages, tuple(problems))


def _place(problem: Problem) -> tuple[str, int]:
    return (problem.span.file, problem.span.start) if problem.span else ("", 0)


def _without_a_name(stages: Sequence[Stage]) -> Iterator[Problem]:
    """Stages before the last one that no other can begin from, as of a model with a projector."""
    for stage in stages:
        if stage.name.isdecimal():
            message = "this stage has no name, and only the last stage is built by itself"
            hint = "name it: FROM MODEL AS NAME; a projector lies in the folder that FROM names"
            yield Problem(message, stage.span, Severity.WARNING, "unnamed-stage", hint)


def _with_bases(stages: Sequence[Stage]) -> list[Stage]:
    """The stages and all that they begin from, each once."""
    found: dict[int, Stage] = {}
    for stage in stages:
        each: Stage | None = stage
        while each is not None:
            found[id(each)] = each
            each = each.base
    return list(found.values())


def _of_stage(stage: Stage, folder: Path | None) -> Iterator[Problem]:
    """What is wrong with its own lines: those of its base are the base's matter.

    That a line takes the place of one of the base is what a stage is for.
    """
    inherited = {id(item) for item in stage.base.instructions} if stage.base else set()
    before = {item.span for item in stage.instructions if id(item) in inherited}
    modelfile = stage.modelfile
    problems = [*check_instructions(modelfile), *templates.execution(modelfile)]
    if folder is not None:
        problems += paths.check(modelfile, folder)
        own = stage.changes[len(stage.base.changes) if stage.base else 0 :]
        problems += paths.check_changes(own, folder)
    for problem in problems:
        if not any(_within(problem.span, each) for each in before):
            yield problem
    for line in stage.quantize:
        yield from _of_line(line)


def _within(inner: Span | None, outer: Span | None) -> bool:
    if inner is None or outer is None or inner.file != outer.file:
        return False
    return outer.start <= inner.start < outer.end


def _of_line(line: QuantizeLine) -> Iterator[Problem]:
    """What QUANTIZE names that there is not."""
    from mbuild.quant.choose.options import Quantization

    seen: set[str] = set()
    for text in line.types:
        try:
            name = Quantization.parse(text, line.options).file_type.name
        except MbuildError as error:
            yield Problem(error.message, line.span, code="bad-quantize", suggestion=error.hint)
            continue
        if name in seen:
            hint = "remove one of them"
            message = f"QUANTIZE names {name} twice"
            yield Problem(message, line.span, code="twice", suggestion=hint)
        seen.add(name)
