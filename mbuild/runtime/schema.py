"""What an answer must look like: ``format`` of a request, as the engine takes it."""

from __future__ import annotations

import json
from typing import Any

from mbuild.core.errors import UsageError

_PREAMBLE = "%llguidance {}\nstart: %json "
_PLACE = "failed to compile JSON schema: "
MAX_SCHEMA = 1 << 20
"""Bytes of the longest schema."""


def as_json_schema(value: Any) -> dict[str, Any]:
    """The schema of ``"json"`` (any object) or of a JSON Schema, checked to be one.

    The engine ignores a schema that it cannot compile, and answers with any text; so it is
    compiled here first. Blanks between values are not left to the model, for small ones
    then write nothing else. Raises :class:`UsageError`.
    """
    if value == "json":
        value = {"type": "object"}
    if not isinstance(value, dict):
        shown = json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False)
        raise UsageError(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')
    guided = {**value, "x-guidance": {"whitespace_flexible": False}}
    text = json.dumps(guided)
    if len(text) > MAX_SCHEMA:
        raise UsageError(f"invalid format: the schema is longer than {MAX_SCHEMA >> 20} MiB")
    problem = _problem(text)
    if problem:
        raise UsageError(f"invalid format: {problem}")
    return guided


def _problem(schema: str) -> str:
    """What is wrong with a schema, in one line; "" for nothing."""
    from llguidance import LLMatcher

    lines = str(LLMatcher.validate_grammar(_PREAMBLE + schema)).splitlines() or [""]
    problem = lines[0].rpartition(_PLACE)[2]
    # A regular expression stands below, and what is wrong with it after that.
    more = next((line for line in lines if line.startswith("error: ")), "")
    return f"{problem} {more.removeprefix('error: ')}" if more else problem
