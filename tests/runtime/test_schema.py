"""Schemas of answers: what the engine can compile passes, anything else is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mbuild.core.errors import UsageError
from mbuild.runtime.schema import MAX_SCHEMA, AnswerCheck, as_json_schema

pytest.importorskip("llguidance", reason="schemas are compiled by llguidance (extra run)")
pytest.importorskip("jsonschema_rs", reason="answers are checked by jsonschema-rs (extra run)")


def test_json_is_any_object() -> None:
    """``"json"`` is a schema of its own, and blanks are not left to the model."""
    found = as_json_schema("json")
    assert found["type"] == "object" and found["x-guidance"] == {"whitespace_flexible": False}


WRONG: list[Any] = [
    {"type": "colour"},
    {"$ref": "#/$defs/nothing"},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "pattern": "("},
    {"enum": []},
    "xml",
    [],
    7,
]


@pytest.mark.parametrize("schema", WRONG)
def test_what_cannot_be_compiled_is_refused(schema: Any) -> None:
    """The engine would ignore it and answer with any text."""
    with pytest.raises(UsageError, match="invalid format"):
        as_json_schema(schema)


def test_a_schema_has_an_end() -> None:
    """A text of megabytes is not compiled."""
    with pytest.raises(UsageError, match="longer than 1 MiB"):
        as_json_schema({"description": "x" * MAX_SCHEMA})


PASSED_OVER = [
    ({"type": "object", "minProperties": 1}, "{}", "has less than 1 property"),
    ({"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]}, "{}", "is not of type"),
    ({"type": "number", "multipleOf": 0.5}, "0.3", "is not a multiple of 0.5"),
    ({"type": "string", "format": "email"}, '"x"', 'is not a "email"'),
    ({"type": "integer"}, "Sure, here", "it is not JSON"),
    ({"type": "array"}, "[" * 100_000, "it is not JSON"),
    ({"type": "string", "pattern": "^(a+)+$"}, f'"{"a" * 60}!"', "does not match"),
]


@pytest.mark.parametrize(("schema", "answer", "problem"), PASSED_OVER)
def test_an_answer_that_breaks_its_schema_is_found(
    schema: dict[str, Any], answer: str, problem: str
) -> None:
    """At the end of the answer, in either form of the engine's events; not of one cut short."""
    asked = as_json_schema(schema)
    check = AnswerCheck(asked)
    halves = answer[:1], answer[1:]
    assert [check.read({"content": half, "stop": False}) for half in halves] == ["", ""]
    assert problem in check.read({"content": "", "stop": True, "stop_type": "eos"})
    for cut in ("limit", "word"):
        whole = {"content": answer, "stop": True, "stop_type": cut}
        assert AnswerCheck(asked).read(whole) == ""
    check = AnswerCheck(asked)
    for half in halves:
        assert check.read({"choices": [{"delta": {"content": half}, "finish_reason": None}]}) == ""
    assert problem in check.read({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert check.read({"choices": [], "timings": {}}) == ""


def test_an_answer_that_keeps_its_schema_passes() -> None:
    """Blanks between values are free, as an engine that is not this one's may write them."""
    check = AnswerCheck(as_json_schema({"type": "object", "required": ["a"]}))
    whole = {"content": ' { "a" : [1,\n2] } ', "stop": True, "stop_type": "eos"}
    assert check.read(whole) == ""


def test_without_the_extra_a_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a llama-server runs models, and nothing here can read schemas."""
    for module in ("llguidance", "jsonschema_rs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match="needs the Python package llguidance") as caught:
        as_json_schema("json")
    assert "pip install" in caught.value.hint
    with pytest.raises(UsageError, match="needs the Python package jsonschema-rs"):
        AnswerCheck({"type": "object"})
