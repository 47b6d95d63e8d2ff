"""Builds of a Modelfile with stages: its targets, and what the options say over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.asked import NameOf, distinct, says, types_asked, variant_name
from mbuild.build.prepare import Notice
from mbuild.build.request import OUTTYPE, Target
from mbuild.build.splitting import SPLITTING, Splitting
from mbuild.build.staging import FilesBeside, read_stages
from mbuild.core.errors import MbuildError, ModelfileError, UsageError
from mbuild.core.names import ModelName
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Problem
from mbuild.language.stages.opening import SYNTAX_LINE
from mbuild.quant.choose.options import OPTIONS, Quantization, spelled

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.staging import StagesRead
    from mbuild.language.stages.values import QuantizeLine, StageRecipe
    from mbuild.store import Store


def check_no_stages(given: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for what only a Modelfile with stages can mean."""
    for name, flag in (("build_arg", "--build-arg"), ("target", "--target")):
        if given.get(name):
            raise UsageError(
                f"{flag} has no effect: this Modelfile has no arguments and no stages",
                hint=f"make {SYNTAX_LINE} its first line to use them",
            )


def arguments_of(given: Sequence[str]) -> dict[str, str]:
    """``--build-arg``: ``NAME=VALUE``, or ``NAME`` for a variable of the environment, if set."""
    found: dict[str, str] = {}
    environment = dict(os.environ)  # any variable, by the name of the argument
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--build-arg {text!r} has no name", hint="write NAME=VALUE")
        if equals:
            found[name] = value
        elif name in environment:
            found[name] = environment[name]
    return found


def stages_of(
    data: bytes, name: str, folder: Path, given: Mapping[str, Any], store: Store
) -> StagesRead:
    """The stages that the command line asks for; ``folder`` is where a Modelfile's paths start."""
    bring = FilesBeside(folder)
    arguments = arguments_of(given.get("build_arg", ()))
    targets = given.get("target", ())
    return read_stages(data, name, store, bring, arguments, targets)


class StagedTargets(NamedTuple):
    """The targets, and which options of the command line count in place of the Modelfile's."""

    targets: tuple[Target, ...]
    overruled: tuple[Notice, ...]


class _Wanted(NamedTuple):
    """A target before it has names."""

    stage: StageRecipe
    quantization: Quantization | None
    line: QuantizeLine | None


def staged_targets(
    stages: Sequence[StageRecipe],
    names: Sequence[str],
    default: Callable[[], str],
    given: Mapping[str, Any],
    name_of: NameOf,
) -> StagedTargets:
    """The models that stages make, by their QUANTIZE lines and the command line's options.

    ``-q`` counts in place of all QUANTIZE lines, another option in place of the same one of
    each. Raises :class:`UsageError` for names that cannot be, and for options without effect.
    """
    flags = {row.name: given[row.name] for row in OPTIONS.values()}
    flags = {name: value for name, value in flags.items() if _given(name, value)}
    types = distinct(types_asked(given))
    wanted: list[_Wanted] = []
    notes: list[Notice] = []
    for stage in stages:
        wanted += _of_stage(stage, types, flags, notes)
    if flags and not any(each.quantization for each in wanted):
        flag = f"--{next(iter(flags)).replace('_', '-')}"
        raise UsageError(
            f"{flag} has no effect: no target is quantized",
            hint="add QUANTIZE TYPE to the stage, or --quantize TYPE",
        )
    if given["outtype"].lower() != OUTTYPE:
        notes += _overruled(stages, "outtype", f"--outtype {given['outtype']}", "OUTTYPE")
    splitting = {row.name: given[row.name] for row in SPLITTING.values() if given[row.name]}
    if splitting:
        flag = f"--{next(iter(splitting)).replace('_', '-')}"
        notes += _overruled(stages, "splitting", flag, "SPLIT")
    each = ":{target}" if len(stages) > 1 else ""
    every = names or (default().removesuffix(":latest") + each,)
    named = _named(wanted, every, stages, name_of)
    targets = tuple(
        _target(each, own, given, split=bool(splitting))
        for each, own in zip(wanted, named, strict=True)
    )
    return StagedTargets(targets, tuple(notes))


def _given(name: str, value: Any) -> bool:
    option = next(row for row in OPTIONS.values() if row.name == name)
    return says(option, value)


def _of_stage(
    stage: StageRecipe, types: Sequence[str], flags: Mapping[str, Any], notes: list[Notice]
) -> Iterator[_Wanted]:
    """The targets of one stage."""
    if types:
        for line in stage.quantize:
            count = f"-q {' -q '.join(types)} counts, not QUANTIZE {' '.join(line.types)}"
            notes.append(Notice(f"{count} of stage {stage.name}", line.span))
        for type_ in types:
            yield _Wanted(stage, Quantization.parse(type_, flags), None)
        return
    if not stage.quantize:
        yield _Wanted(stage, None, None)
    for line in stage.quantize:
        for name in flags.keys() & line.options.keys():
            text = f"--{name.replace('_', '-')} counts, not that of QUANTIZE"
            notes.append(Notice(f"{text} {' '.join(line.types)} of stage {stage.name}", line.span))
        for type_ in line.types:
            try:
                quantization = Quantization.parse(type_, {**line.options, **flags})
            except MbuildError as error:
                problem = Problem(error.message, line.span, suggestion=error.hint)
                raise ModelfileError([problem]) from None
            yield _Wanted(stage, quantization, line._replace(options=_left(line, flags)))


def _left(line: QuantizeLine, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a line that count."""
    return {name: value for name, value in line.options.items() if name not in flags}


def _overruled(
    stages: Sequence[StageRecipe], field: str, flag: str, keyword: str
) -> Iterator[Notice]:
    for stage in stages:
        for line in stage.quantize:
            if getattr(line, field) is not None:
                yield Notice(f"{flag} counts, not {keyword} of stage {stage.name}", line.span)


def _target(
    wanted: _Wanted, names: tuple[ModelName, ...], given: Mapping[str, Any], *, split: bool
) -> Target:
    """A target with what its line says of the options that the command line leaves open."""
    line = wanted.line
    outtype = line.outtype if line and given["outtype"].lower() == OUTTYPE else None
    splitting = None
    if line and line.splitting and not split:
        try:
            splitting = Splitting.parse(line.splitting)
        except MbuildError as error:
            problem = Problem(error.message, line.span, suggestion=error.hint)
            raise ModelfileError([problem]) from None
    beside = line is not None and not {"imatrix", "imatrix_from"}.isdisjoint(line.options)
    stage = wanted.stage.name
    return Target(names, wanted.quantization, stage, outtype, splitting, beside)


def _named(
    wanted: Sequence[_Wanted],
    templates: Sequence[str],
    stages: Sequence[StageRecipe],
    name_of: NameOf,
) -> list[tuple[ModelName, ...]]:
    """The names of each target; raises :class:`UsageError` where two would have the same."""
    if len(stages) > 1:
        for template in templates:
            if "{target}" not in template:
                raise UsageError(
                    f"{len(stages)} targets cannot all be called {template}",
                    hint=f"put the target into the name: -t {template}" + ":{target}"
                    if ":" not in template
                    else "put {target} into the name",
                )
        for stage in stages:
            if not stage.is_named:
                raise UsageError(
                    f"stage {stage.name} has no name to put in the place of {{target}}",
                    hint="give it one: FROM ... AS NAME",
                )
    if not any(each.quantization for each in wanted) and any("{quant}" in t for t in templates):
        raise UsageError(
            "{quant} in a name stands for a type, but no target is quantized",
            hint="add QUANTIZE TYPE to the stage, or give a name without {quant}",
        )
    found: list[tuple[ModelName, ...]] = []
    taken: set[ModelName] = set()
    for each in wanted:
        count = sum(other.stage is each.stage for other in wanted)
        own = tuple(_name(template, each, count, name_of) for template in templates)
        same = next((name for name in own if name in taken), None)
        if same is not None:
            raise UsageError(
                f"two targets would be called {same}",
                hint="QUANTIZE lines of one stage need different types: put the other one into"
                " a stage of its own",
            )
        taken.update(own)
        found.append(own)
    return found


def _name(template: str, wanted: _Wanted, count: int, name_of: NameOf) -> ModelName:
    name = template.replace("{target}", wanted.stage.name)
    if wanted.quantization is None:  # no type: the sign that would stand before it goes, too
        for sign in "-_.:":
            name = name.replace(f"{sign}{{quant}}", "")
        return ModelName.parse(name.replace("{quant}", ""))
    return variant_name(name, spelled(wanted.quantization.file_type.name), count, name_of)
