"""What an answer must look like: ``format`` of a request, as the engine takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

from mbuild.core.errors import UsageError
from mbuild.runtime.failure import EXTRA

_PREAMBLE = "%llguidance {}\nstart: %json "
_PLACE = "failed to compile JSON schema: "
_GUIDANCE = "x-guidance"
_CUT = ("limit", "word")
"""Why an answer has ended that may be half of a JSON text: llama-server's ``stop_type``."""
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
    guided = {**value, _GUIDANCE: {"whitespace_flexible": False}}
    text = json.dumps(guided)
    if len(text) > MAX_SCHEMA:
        raise UsageError(f"invalid format: the schema is longer than {MAX_SCHEMA >> 20} MiB")
    problem = _problem(text)
    if problem:
        raise UsageError(f"invalid format: {problem}")
    return guided


def _problem(schema: str) -> str:
    """What is wrong with a schema, in one line; "" for nothing."""
    matcher = _imported("llguidance").LLMatcher
    lines = str(matcher.validate_grammar(_PREAMBLE + schema)).splitlines() or [""]
    problem = lines[0].rpartition(_PLACE)[2]
    # A regular expression stands below, and what is wrong with it after that.
    more = next((line for line in lines if line.startswith("error: ")), "")
    return f"{problem} {more.removeprefix('error: ')}" if more else problem


class AnswerCheck:
    """Reads an answer as it comes, and at its end holds it against its schema.

    llama.cpp itself follows a part of JSON Schema and passes over the rest in silence
    (``minProperties``, ``multipleOf``, ``patternProperties``, numbers in ``allOf``). The package
    that is installed with mbuild has LLGuidance, which follows or refuses; of another
    llama-server nobody knows how it was built.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises :class:`UsageError` for a schema that cannot be checked."""
        validators = _imported("jsonschema_rs")
        asked = {key: value for key, value in schema.items() if key != _GUIDANCE}
        try:
            self._validator = validators.validator_for(
                asked,
                validate_formats=True,
                retriever=_nothing_from,
                pattern_options=validators.RegexOptions(),  # in time linear to the text
            )
        except ValueError as error:
            raise UsageError(f"invalid format: {str(error).splitlines()[0]}") from None
        self._text = ""

    def read(self, event: Mapping[str, Any]) -> str:
        """Take an event of the engine's in; what is wrong with a whole answer, "" for nothing.

        One that was cut short, by its budget or a stop text, is not held against anything.
        """
        if "choices" in event:
            choice = (event["choices"] or [{}])[0]
            self._text += (choice.get("delta") or {}).get("content") or ""
            ended = choice.get("finish_reason") == "stop"
        else:
            self._text += event.get("content", "")
            ended = bool(event.get("stop")) and event.get("stop_type") not in _CUT
        return self._problem() if ended else ""

    def _problem(self) -> str:
        try:
            value = json.loads(self._text)
        except (ValueError, RecursionError):
            return "it is not JSON that can be read"
        return next((str(error.message) for error in self._validator.iter_errors(value)), "")


def _nothing_from(address: str) -> NoReturn:
    raise ValueError(f"{address} is not asked")


def _imported(module: str) -> Any:
    """A module of the extra; raises :class:`UsageError` where a llama-server runs without it."""
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            f"format needs the Python package {module.replace('_', '-')}, which is not installed",
            hint=f"{EXTRA} installs all that schemas need",
        ) from None
