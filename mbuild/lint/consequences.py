"""What the instructions of a stage come to together, and what they probably were not to come to."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator

from mbuild.core.errors import MbuildError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Adapter, Edit, From, Problem, Severity
from mbuild.language.recipe import ModelChange
from mbuild.language.span import Span
from mbuild.language.stages.stage import Stage
from mbuild.lint.edits import without_line

_LIKE = 0.8
"""How alike a model's name is to a stage's that was probably meant."""


class StageInFile(NamedTuple):
    """A stage, those before it, and the names of the store's models in lower case."""

    stage: Stage
    before: tuple[Stage, ...]
    models: frozenset[str]


def check(seen: StageInFile) -> Iterator[Problem]:
    """Warnings about a stage's own lines; nothing is looked up but the stored models' names."""
    for rule in RULES:
        yield from rule(seen)


def _warn(code: str, message: str, span: Span | None, hint: str, edit: Edit | None) -> Problem:
    return Problem(message, span, Severity.WARNING, code, hint, edit=edit)


def _stored(name: str, models: frozenset[str]) -> bool:
    """Whether the store has a model of that name."""
    try:
        return str(ModelName.parse(name)).lower() in models
    except InvalidNameError:
        return False


def _hides_stored(seen: StageInFile) -> Iterator[Problem]:
    """A stage's name comes before that of a stored model."""
    base = seen.stage.base
    if base is not None and _stored(base.name, seen.models):
        line = f" on line {base.span.line}" if base.span else ""
        message = f"FROM {base.name} is the stage{line}, which hides the model of that name in the"
        hint = f"give the stage another name; {base.name}:latest is the model"
        yield _warn("hidden-model", f"{message} store", seen.stage.span, hint, None)


def _nearly_a_stage(seen: StageInFile) -> Iterator[Problem]:
    """A name that no stage has and no stored model, and that a stage nearly has."""
    stage = seen.stage
    first = stage.instructions[0]
    if stage.base is not None or not isinstance(first, From):
        return
    value = first.plain
    if not seen.models or _stored(value, seen.models) or any(c in value for c in "/\\:.~@"):
        return
    names = [each.name for each in seen.before if not each.name.isdecimal()]
    if found := near(value, names, cutoff=_LIKE):
        span = stage.span
        edit = Edit(span.value, span.value + len(value), found[0]) if span else None
        message = f"FROM {value} is neither a stage nor a model of the store"
        yield _warn("unknown-stage", message, span, did_you_mean(found), edit)


def _not_handed_on(seen: StageInFile) -> Iterator[Problem]:
    """A stage that is not quantized and begins from one that is."""
    stage, base = seen.stage, seen.stage.base
    if base is None or not base.quantize or stage.quantize:
        return
    types = " ".join(base.quantize[0].types)
    message = (
        f"this stage is not quantized: QUANTIZE {types} belongs to the stage {base.name} alone"
    )
    hint = "write the QUANTIZE line here too, if this stage is to be quantized"
    yield _warn("quantize-not-inherited", message, stage.span, hint, None)


def _types_twice(seen: StageInFile) -> Iterator[Problem]:
    """Two lines of a stage that make models of one type: they would have one name."""
    from mbuild.quant.choose.types import file_type

    taken: dict[str, int] = {}
    for number, line in enumerate(seen.stage.quantize):
        for text in line.types:
            try:
                name = file_type(text).name
            except MbuildError:
                continue  # said of the line itself
            if taken.setdefault(name, number) != number:
                first = seen.stage.quantize[taken[name]].span
                where = f" on line {first.line}" if first else ""
                message = f"QUANTIZE {text}: the stage makes a model of this type already{where}"
                hint = "put it into a stage of its own: FROM STAGE AS NAME"
                yield Problem(message, line.span, code="twice", suggestion=hint)


def _without_importances(seen: StageInFile) -> Iterator[Problem]:
    """Types that are not made without an importance matrix."""
    from mbuild.quant.choose.options import spelled
    from mbuild.quant.choose.recipes import needs_importances
    from mbuild.quant.choose.types import file_type

    for line in seen.stage.quantize:
        if any(option.startswith("imatrix") for option in line.options):
            continue
        for text in line.types:
            try:
                type_ = file_type(text)
            except MbuildError:
                continue
            if needs_importances("", type_.default, type_):
                name = spelled(type_.name)
                message = f"{name} needs an importance matrix, and this line names none"
                hint = f"write QUANTIZE {name} IMATRIX FILE, or give one with --imatrix FILE"
                yield _warn("needs-imatrix", message, line.span, hint, None)


def _merged_twice(seen: StageInFile) -> Iterator[Problem]:
    """One adapter in several lines: it counts each time."""
    known: dict[str, float] = {}
    for change, own in _changes(seen.stage):
        if change.kind != "merge":
            continue
        path = posixpath.normpath(change.name)
        weight = float(change.value)
        if own and path in known:
            total = known[path] + weight
            message = f"MERGE {change.name} is there already: its weights add up to {total:g}"
            hint = f"write one line: MERGE {change.name} WEIGHT {total:g}"
            yield _warn("merged-twice", message, change.span, hint, without_line(change.span))
        if own and not weight:
            message = f"MERGE {change.name} WEIGHT 0 adds nothing"
            hint = "remove the line, or give a weight such as 0.5"
            yield _warn("merge-without-effect", message, change.span, hint, None)
        known[path] = known.get(path, 0) + weight
    for item in seen.stage.instructions:
        if isinstance(item, Adapter) and posixpath.normpath(item.plain.strip()) in known:
            message = f"ADAPTER {item.plain} is merged into the weights too: it counts twice"
            hint = "remove one of the lines"
            yield _warn("merged-twice", message, item.span, hint, without_line(item.span))


def _impossible_settings(seen: StageInFile) -> Iterator[Problem]:
    """Keys that cannot be set or taken out, and values that no model can have there."""
    changes = [change for change, own in _changes(seen.stage) if own]
    settings = [change for change in changes if change.kind in ("set", "unset")]
    if not settings:
        return
    from mbuild.convert.changing.metadata import check_key, check_setting

    for change in settings:
        if change.kind == "set" and str(change.value).startswith(("= ", ": ")):
            message = f"the value of {change.name} begins with {change.value[0]}: it is part of it"
            hint = f"write SET {change.name} {change.value[2:].strip():.60}"
            yield _warn("sign-in-value", message, change.span, hint, None)
        try:
            if change.kind == "set":
                check_setting(change.name, change.value)
            else:
                check_key(change.name)
        except MbuildError as error:
            yield Problem(error.message, change.span, code="bad-key", suggestion=error.hint)


def _impossible_outtypes(seen: StageInFile) -> Iterator[Problem]:
    """What no checkpoint can be converted to."""
    for line in seen.stage.quantize:
        if line.outtype is None:
            continue
        from mbuild.convert.read.dtypes import OutType

        known = [each.value for each in OutType]
        if line.outtype not in known:
            message = f"OUTTYPE {line.outtype:.40} is not an outtype"
            hint = did_you_mean(near(line.outtype, known), f"one of {', '.join(known)}")
            yield Problem(message, line.span, code="bad-quantize", suggestion=hint)


def _hidden_keys(seen: StageInFile) -> Iterator[Problem]:
    """A key that is set and then set again, or taken out."""
    last: dict[str, ModelChange] = {}
    for change, own in _changes(seen.stage):
        if change.kind not in ("set", "unset"):
            continue
        before = last.get(change.name)
        if own and before is not None and before.kind == "set" and _own(seen.stage, before):
            line = f" on line {change.span.line}" if change.span else ""
            word = change.kind.upper()
            message = f"this SET {change.name} is hidden by the {word}{line}"
            hint = "only the last one counts: remove this one"
            yield _warn("hidden-set", message, before.span, hint, without_line(before.span))
        last[change.name] = change


def _changes(stage: Stage) -> Iterator[tuple[ModelChange, bool]]:
    """The changes of a stage's weights in order, each with whether the line is its own."""
    inherited = len(stage.base.changes) if stage.base else 0
    for number, change in enumerate(stage.changes):
        yield change, number >= inherited


def _own(stage: Stage, change: ModelChange) -> bool:
    return any(each is change and own for each, own in _changes(stage))


RULES: tuple[Callable[[StageInFile], Iterator[Problem]], ...] = (
    _hides_stored,
    _nearly_a_stage,
    _not_handed_on,
    _types_twice,
    _without_importances,
    _merged_twice,
    _impossible_settings,
    _impossible_outtypes,
    _hidden_keys,
)
"""One row a rule."""
