"""All 1,020 recorded Modelfiles: what the language alone decides agrees with Ollama."""

from __future__ import annotations

import json

import conformance
import pytest
from conformance import Case

from mbuild.core import gojson
from mbuild.core.errors import ModelfileError
from mbuild.language.formatter import format
from mbuild.language.instructions import (
    License,
    Modelfile,
    Parser,
    Problem,
    Renderer,
    Requires,
    Severity,
    System,
    Template,
)
from mbuild.language.meaning import merge, validate, version_of
from mbuild.language.parser import parse
from mbuild.language.printable import visible

# What others decide: whether a template parses, whether a file is there.
ELSEWHERE = ("400 Bad Request: template error: ", "stat <dir>/missing.gguf: no such file")

BUILT = [case for case in conformance.cases() if case.ok]


def _outcome(case: Case) -> tuple[Modelfile | None, list[Problem]]:
    try:
        found = parse(case.modelfile)
    except ModelfileError as error:
        return None, list(error.problems)
    return found, validate(found)


def _errors(problems: list[Problem]) -> list[str]:
    return [p.message for p in problems if p.severity is Severity.ERROR]


def test_the_cases_are_whole() -> None:
    """1,020 cases; each digest and size in a manifest is that of the recorded content."""
    assert len(conformance.cases()) == 1020
    assert sum(case.nonprintable for case in BUILT) == 60
    for case in BUILT:
        assert case.config is not None
        for part in (case.config, *case.layers):
            assert f'"{part.digest}","size":{part.size}'.encode() in case.manifest


def test_the_same_files_are_accepted_and_refused() -> None:
    """Every case is accepted or refused as Ollama did.

    Of the 43 that others decide 40 are sound as a language; three also hold a bad
    value, behind the missing file at which Ollama stopped.
    """
    wrong = []
    sound = []
    for case in conformance.cases():
        refused = bool(_errors(_outcome(case)[1]))
        if not case.error.startswith(ELSEWHERE):
            if refused == case.ok:
                wrong.append((case.id, case.error))
        elif not refused:
            sound.append(case.id)
    assert not wrong
    assert len(sound) == 40


def test_errors_in_values_use_ollamas_words() -> None:
    """Unknown parameters, values of the wrong type and versions are refused in the same words."""
    for case in conformance.cases():
        if case.error.startswith(("unknown parameter", "invalid ", "json: ", "requires must")):
            assert case.error in _errors(_outcome(case)[1]), case.id


def test_deprecated_parameters_warn() -> None:
    """The warnings are Ollama's, in its order."""
    for case in BUILT:
        found = tuple(f"warning: {problem.message}" for problem in _outcome(case)[1])
        assert found == case.warnings, case.id


def test_formatting_builds_the_same() -> None:
    """The canonical form of every accepted file parses to the same instructions."""
    for case in BUILT:
        found = parse(case.modelfile)
        assert parse(format(found).encode()) == found, case.id


# Each kind of layer, and what the instructions put into it. Hidden characters are
# kept in values; Ollama's are without them.
def _system(found: Modelfile) -> list[str]:
    item = found.last(System)
    return [item.value] if item and visible(item.value) else []


def _template(found: Modelfile) -> list[str]:
    item = found.last(Template)
    return [item.value] if item and visible(item.value) else []


def _licenses(found: Modelfile) -> list[str]:
    return [item.value for item in found.every(License)]


def _params(found: Modelfile) -> list[str]:
    merged = merge({}, found.parameters)
    if isinstance(stop := merged.get("stop"), list):
        merged["stop"] = [visible(text) for text in stop]
    return [gojson.dumps(merged, sort_keys=True).decode()] if merged else []


def _messages(found: Modelfile) -> list[str]:
    rows = [{"role": m.role, "content": visible(m.content)} for m in found.messages]
    return [gojson.dumps(rows).decode()] if rows else []


LAYERS = {
    "system": _system,
    "license": _licenses,
    "params": _params,
    "messages": _messages,
    "template": _template,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_hold_the_same_bytes(kind: str) -> None:
    """System, licences, parameters, messages and templates come out byte for byte."""
    seen = 0
    for case in BUILT:
        recorded = case.contents(kind)
        made = LAYERS[kind](parse(case.modelfile))
        if not case.nonprintable:
            assert [text.encode() for text in made] == recorded, case.id
        assert [visible(text) for text in made] == [visible(r.decode()) for r in recorded], case.id
        seen += bool(recorded)
    assert seen > 50


def test_config_names_are_understood_the_same() -> None:
    """RENDERER, PARSER and REQUIRES: the last counts, a version loses its v."""
    for case in BUILT:
        found = parse(case.modelfile)
        requires = found.last(Requires)
        made = {
            "renderer": item.plain if (item := found.last(Renderer)) else "",
            "parser": item.plain if (item := found.last(Parser)) else "",
            "requires": version_of(requires) if requires else "",
        }
        assert case.config is not None and case.config.content is not None
        recorded = json.loads(case.config.content)
        assert made == {key: recorded.get(key, "") for key in made}, case.id
