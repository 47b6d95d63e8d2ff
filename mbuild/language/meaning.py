"""What instructions mean: parameters' values, how they merge, and what is wrong with either.

Values are read as ``ollama create`` reads them (:data:`mbuild.language.parameters.PARAMETERS`
has their types).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.language.gonumber import parse_bool, parse_float32, parse_int, shortest_float32
from mbuild.language.instructions import (
    Edit,
    Modelfile,
    Parameter,
    Problem,
    Requires,
    Severity,
)
from mbuild.language.parameters import DEPRECATED, PARAMETERS, ParameterType
from mbuild.language.printable import visible
from mbuild.language.span import Span

_PARSERS = {
    ParameterType.INT: parse_int,
    ParameterType.FLOAT: parse_float32,
    ParameterType.BOOL: parse_bool,
}

_NUMERIC = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMERIC}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = regex(
    rf"{_NUMERIC}(?:\.{_NUMERIC}(?:\.{_NUMERIC}"
    rf"(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?)?)?"
)

_QUOTED = 60  # characters of a value that a message quotes


def coerce(name: str, text: str, span: Span | None = None) -> int | float | bool | str:
    """A parameter's value as Ollama's command line understands it.

    int: 64 bits; float: rounded to float32, NaN and the infinities included;
    ``stop``: the text itself. Non-printable characters in a number or truth value
    do not count. Raises :class:`ModelfileError` with one problem for an unknown
    name or a value of the wrong type. ``span`` is the instruction's.
    """
    kind = PARAMETERS.get(name)
    if kind is None:
        raise ModelfileError([_unknown(name, span)])
    if kind is ParameterType.TEXTS:
        return text
    try:
        return _PARSERS[kind](visible(text))
    except ValueError as error:
        where = span.part(span.value, span.end) if span else None
        message = f"invalid {kind.value} value [{_quoted(text)}]"
        from mbuild.language.spellings import meant_value

        words, meant = meant_value(name, text)
        hint = f"{name}: {error}; {words}" if words else f"{name}: {error}"
        edit = Edit(where.start, where.end, meant) if where and meant else None
        raise ModelfileError(
            [Problem(message, where, code="bad-value", suggestion=hint, edit=edit)]
        ) from error


def merge(base: Mapping[str, object], parameters: Iterable[Parameter]) -> dict[str, object]:
    """What the parameters layer holds: ``base`` overridden per name by ``parameters``.

    The last of several values wins; ``stop`` collects a list, which replaces the
    base's. Deprecated names are left out. Numbers come out as the doubles that
    Ollama's server makes of them (``9223372036854775807`` as 9.223372036854776e18,
    a float32 as the double of its shortest decimal), so that
    :func:`mbuild.core.gojson.dumps` with ``sort_keys`` writes the layer's bytes.

    Raises :class:`ModelfileError` for an unknown name, a bad value, or a NaN or
    infinity that no later value overrides.
    """
    texts: dict[str, list[str]] = {}
    numbers: dict[str, float | bool] = {}
    unfit: dict[str, Parameter] = {}
    for item in parameters:
        if item.name in DEPRECATED:
            continue
        value = coerce(item.name, item.value, item.span)
        unfit.pop(item.name, None)
        if isinstance(value, str):
            texts.setdefault(item.name, []).append(value)
        elif math.isfinite(value):
            numbers[item.name] = _stored(value)
        else:
            unfit[item.name] = item
    if unfit:
        raise ModelfileError([_not_finite(item) for item in unfit.values()])
    return {name: _as_double(value) for name, value in base.items()} | numbers | texts


def validate(modelfile: Modelfile) -> list[Problem]:
    """Errors and warnings in what the instructions mean, in the order of the file.

    Unknown and deprecated parameters, values of the wrong type, REQUIRES. Opens no
    files and looks into no templates. The problems are not yet located.
    """
    problems: list[Problem] = []
    final: dict[str, Parameter] = {p.name: p for p in modelfile.parameters}
    for item in modelfile.instructions:
        if isinstance(item, Parameter):
            problems += _check(item, final[item.name] is item)
        elif isinstance(item, Requires) and version_of(item) is None:
            message = "requires must be a valid semver (e.g. 0.14.0)"
            where = item.span.part(item.span.value, item.span.end) if item.span else None
            hint = "write the oldest version alone: REQUIRES 0.14.0"
            problems.append(Problem(message, where, code="bad-requires", suggestion=hint))
    return problems


def version_of(requires: Requires) -> str | None:
    """The version that REQUIRES names, without its ``v``; None when it is not a semver.

    ``1`` and ``1.2`` are versions too (golang.org/x/mod/semver).
    """
    version = requires.plain.removeprefix("v")
    return version if _SEMVER.fullmatch(version) else None


def _check(item: Parameter, is_final: bool) -> list[Problem]:
    if item.name in DEPRECATED:
        message = f"parameter {item.name} is deprecated"
        where = _name_span(item.span, item.name)
        hint = "it has no effect and is not stored; remove the line"
        edit = Edit(item.span.start, item.span.end, "") if item.span else None
        return [Problem(message, where, Severity.WARNING, "deprecated-parameter", hint, edit=edit)]
    try:
        value = coerce(item.name, item.value, item.span)
    except ModelfileError as error:
        return list(error.problems)
    if is_final and isinstance(value, float) and not math.isfinite(value):
        return [_not_finite(item)]
    return []


def _unknown(name: str, span: Span | None) -> Problem:
    from mbuild.language.spellings import meant_name, meant_parameter

    hint = meant_parameter(name[:_QUOTED])
    if not name:
        hint = "write exactly one space between PARAMETER and the name"
    message = f"unknown parameter '{_quoted(name)}'"
    where, meant = _name_span(span, name), meant_name(name[:_QUOTED])
    edit = Edit(where.start, where.end, meant) if where and name and meant else None
    return Problem(message, where, code="unknown-parameter", suggestion=hint, edit=edit)


def _not_finite(item: Parameter) -> Problem:
    """NaN and infinities are numbers for Go, but its JSON encoder has no form for them."""
    value = parse_float32(item.plain)
    spelled = "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    where = item.span.part(item.span.value, item.span.end) if item.span else None
    hint = f"{item.name} must be a finite number"
    return Problem(f"json: unsupported value: {spelled}", where, code="bad-value", suggestion=hint)


def _name_span(span: Span | None, name: str) -> Span | None:
    """Where a PARAMETER's name stands: behind the word and its one blank."""
    if span is None:
        return None
    start = span.start + len("PARAMETER ")
    return span.part(start, start + len(name))


def _stored(value: float) -> float | bool:
    """A number as it arrives in the server: by way of JSON, as a double."""
    if isinstance(value, bool):
        return value
    return shortest_float32(value) if isinstance(value, float) else float(value)


def _as_double(value: object) -> object:
    """A base's JSON value with its integers as the doubles that Go reads."""
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return value
    return value


def _quoted(text: str) -> str:
    """A value as a message shows it: one line, no control characters, not too long."""
    shown = visible(text).replace("\r", "\\r").replace("\n", "\\n")
    return shown if len(shown) <= _QUOTED else shown[: _QUOTED - 3] + "..."
