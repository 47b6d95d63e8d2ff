"""Many short files of the language and what they come to, as a table to read.

``tests/data/stages/cases.txt`` has a case a line: the file, its lines divided by `` / ``,
behind it ``=>`` and what it comes to, stage by stage. ``[A=1]`` before it is a ``--build-arg``.
An error begins with ``!`` and its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbuild.core.errors import MissingFileError, ModelfileError
from mbuild.language.formatter import format
from mbuild.language.parser import parse_stages
from mbuild.language.stages.evaluate import Brought, evaluate
from mbuild.language.stages.values import StageRecipe

CASES = Path(__file__).parents[1] / "data" / "stages" / "cases.txt"

FILES = {
    "a.txt": "hello ${A}\n",
    "b.txt": "one\r\ntwo\n\n",
    "t.txt": "{{ .Prompt }}\n",
    "persona": 'ARG NAME=nobody\nSYSTEM "I am ${NAME}."\n',
    "leaks": "SYSTEM ${NAME}\n",
    "args": "ARG A=2\nARG B=3\n",
    "stages": "FROM y AS inc\nPARAMETER num_ctx 5\n",
    "loop": "INCLUDE loop\n",
    "broken": "SYSTEM ok\nSYSTM no\n",
    "argstage": "ARG NAME=inner\nFROM y AS inc\nSYSTEM ${NAME}\n",
    "twice": "INCLUDE persona NAME=inner\nINCLUDE persona NAME=outer\n",
}
"""What the cases can bring in."""


def bring(includer: str, path: str) -> Brought:
    """A file of :data:`FILES`."""
    name = path.removeprefix("./")
    if name not in FILES:
        raise MissingFileError(f"{path}: no such file")
    return Brought(name, FILES[name].encode())


def text_of(case: str) -> tuple[str, dict[str, str]]:
    """A case's file and its arguments."""
    given = dict(re.findall(r"\[(\w+)=([^\]]*)\]", re.match(r"(?:\[[^\]]*\] )*", case)[0]))  # type: ignore[index]
    body = re.sub(r"^(?:\[[^\]]*\] )*", "", case)
    body = body.replace(" \\ ", " \\\n ")
    return "# syntax=mbuild/1\n" + body.replace(" / ", "\n") + "\n", given


def outcome(case: str) -> str:
    """What a case comes to, in one line."""
    text, given = text_of(case)
    try:
        found = evaluate(text.encode(), "M", given, bring)
        stages = [stage.recipe() for stage in found.stages]
    except ModelfileError as error:
        first = error.problems[0]
        span = first.span
        file = "" if first.filename in ("", "M") else f"{first.filename}:"
        place = f"{file}{span.line - (not file)}:{span.column}" if span else "-"
        return f"! {place} {first.message}"
    told = [w.message for w in found.warnings]
    return " | ".join([*map(shown, stages), *(f"warning: {each}" for each in told)])


def shown(stage: StageRecipe) -> str:
    """A stage in one line: its name, what it starts from, what it says."""
    return "; ".join([f"{stage.name}: {stage.recipe.models[0].value}", *_said(stage)])


def _said(stage: StageRecipe) -> Iterator[str]:
    recipe = stage.recipe
    for name in ("template", "system"):
        if getattr(recipe, name):
            yield f"{name} {getattr(recipe, name)!r}"
    yield from (f"license {text!r}" for text in recipe.licenses)
    yield from (f"adapter {each.value}" for each in recipe.adapters)
    yield from (f"draft {each.value}" for each in recipe.drafts)
    yield from (f"{name} = {value!r}" for name, value in recipe.parameters.items())
    yield from (f"{turn.role} {turn.content!r}" for turn in recipe.messages)
    yield from (f"{name} {value}" for name, value in recipe.config.items())
    for change in recipe.changes:
        value = change.value[0] if change.kind == "take" else change.value
        yield f"{change.kind} {change.name} {value!r}".replace("  ", " ")
    yield from (f"without {each}" for each in recipe.unset)
    for line in stage.quantize:
        options = " ".join(f"{key}={value}" for key, value in line.options.items())
        further = [f"outtype={line.outtype}"] if line.outtype else []
        further += [f"{k}={v}" for k, v in (line.splitting or {}).items()]
        yield " ".join(["quantize", *line.types, *filter(None, [options]), *further])
    for check in stage.checks:
        yield f"check {check.said}"


def cases() -> list[tuple[str, str]]:
    """Each case with what it comes to."""
    lines = CASES.read_text(encoding="utf-8").splitlines()
    rows = (line.split(" => ") for line in lines if line and not line.startswith("#"))
    return [(case, wanted) for case, wanted in rows]


@pytest.mark.parametrize(("case", "wanted"), cases())
def test_what_a_file_comes_to(case: str, wanted: str) -> None:
    """As the table says."""
    assert outcome(case) == wanted


def test_there_are_many_cases() -> None:
    """Three hundred, none of them twice."""
    every = [case for case, _ in cases()]
    assert len(every) == len(set(every)) >= 300


@pytest.mark.parametrize("case", [case for case, wanted in cases() if not wanted.startswith("!")])
def test_the_canonical_form_of_each_case_comes_to_the_same(case: str) -> None:
    """fmt changes nothing of what is built, and what it writes it writes again."""
    text, given = text_of(case)
    formatted = format(parse_stages(text.encode()))
    assert format(parse_stages(formatted.encode())) == formatted
    one, two = (evaluate(each.encode(), "M", given, bring) for each in (text, formatted))
    assert [shown(s.recipe()) for s in one.stages] == [shown(s.recipe()) for s in two.stages]
