"""Schemas of answers: what the engine can compile passes, anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mbuild.core.errors import UsageError
from mbuild.runtime.schema import MAX_SCHEMA, as_json_schema

pytest.importorskip("llguidance", reason="schemas are compiled by llguidance (extra run)")


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
