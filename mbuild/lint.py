"""Everything that can be known to be wrong with a Modelfile without its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mbuild.errors import DamagedError, ModelfileError
from mbuild.modelfile.instructions import (
    Adapter,
    From,
    Modelfile,
    Parser,
    Problem,
    Renderer,
    Requires,
    Severity,
    System,
    Template,
)

if TYPE_CHECKING:
    from mbuild.store.database import Database

LINT_VERSION = 1
"""Counts up when a Modelfile can get other problems than before."""

_MEMO = "modelfile"


@dataclass(frozen=True, slots=True)
class Checked:
    """A Modelfile without errors, and its warnings."""

    modelfile: Modelfile
    warnings: tuple[Problem, ...]


def check(data: bytes, filename: str) -> Checked:
    """Parse and check a Modelfile; raises :class:`ModelfileError` with all its problems.

    The error's problems include the warnings.
    """
    from mbuild.modelfile.parser import decode, parse

    modelfile = parse(data, filename)
    text = decode(data)
    problems = [problem.located(text, filename) for problem in check_instructions(modelfile)]
    problems.sort(key=lambda p: p.span.start if p.span else 0)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ModelfileError(problems)
    return Checked(modelfile, tuple(problems))


def check_instructions(modelfile: Modelfile) -> list[Problem]:
    """All problems of parsed instructions, wherever they came from."""
    from mbuild.modelfile.parameters import validate

    problems = validate(modelfile)
    for rule in RULES:
        problems += rule(modelfile)
    return problems


def check_once(data: bytes, filename: str, database: Database) -> Checked:
    """As :func:`check`, remembering what a text without errors came to.

    A build with nothing to do so needs neither the grammar nor the parser.
    """
    from mbuild.modelfile.parser import PARSER_VERSION

    key = hashlib.sha256(f"{LINT_VERSION}.{PARSER_VERSION}\0{filename}\0".encode() + data)
    remembered = database.get(_MEMO, key.hexdigest())
    if remembered is not None:
        try:
            return _from_json(remembered)
        except (DamagedError, ValueError, KeyError, TypeError):
            pass
    checked = check(data, filename)
    database.put(_MEMO, key.hexdigest(), _to_json(checked))
    return checked


def _to_json(checked: Checked) -> str:
    warnings = [[w.message, w.code, w.suggestion, w.filename] for w in checked.warnings]
    return json.dumps({"modelfile": checked.modelfile.to_json(), "warnings": warnings})


def _from_json(text: str) -> Checked:
    value = json.loads(text)
    warnings = tuple(
        Problem(message, None, Severity.WARNING, code, suggestion, filename)
        for message, code, suggestion, filename in value["warnings"]
    )
    return Checked(Modelfile.from_json(value["modelfile"]), warnings)


def _template_errors(modelfile: Modelfile) -> Iterator[Problem]:
    """The template that counts must parse; one that another hides need not, as in Ollama."""
    last = modelfile.last(Template)
    if last is None or not last.value:
        return
    from mbuild.templates.gotemplate import TemplateError, parse

    try:
        parse(last.value)
    except TemplateError as error:
        yield Problem(f"template error: {error.message}", last.span, code="template")


def _template_without_system(modelfile: Modelfile) -> Iterator[Problem]:
    template, system = modelfile.last(Template), modelfile.last(System)
    if template is None or system is None or not template.value or not system.value:
        return
    from mbuild.templates.gotemplate import TemplateError, parse, references

    try:
        used = references(parse(template.value))
    except TemplateError:
        return
    if not used & {"System", "Messages"}:
        yield Problem(
            "TEMPLATE uses neither .System nor .Messages, so SYSTEM has no effect",
            template.span,
            Severity.WARNING,
            "template-ignores-system",
            "add {{ .System }} where the system message belongs",
        )


def _hidden(modelfile: Modelfile) -> Iterator[Problem]:
    """Of these instructions only the last counts."""
    for kind in (From, Template, System, Renderer, Parser, Requires):
        *hidden, last = modelfile.every(kind) or (None,)
        for item in hidden:
            if item is None or last is None or item == last or _may_be_file(item):
                continue
            line = f" on line {last.span.line}" if last.span else ""
            yield Problem(
                f"this {kind.word} is hidden by the {kind.word}{line}",
                item.span,
                Severity.WARNING,
                f"hidden-{kind.word.lower()}",
                "only the last one counts: remove this one",
            )


def _may_be_file(item: object) -> bool:
    """FROM lines that name files add up (a model and its projector)."""
    return isinstance(item, From) and bool(re.search(r"^[./~]|\.gguf$", item.plain))


def _adapters_without_effect(modelfile: Modelfile) -> Iterator[Problem]:
    seen: set[str] = set()
    for adapter in modelfile.every(Adapter):
        if adapter.plain in seen:
            yield Problem(
                f"ADAPTER {adapter.plain} is named twice; the second has no effect of its own",
                adapter.span,
                Severity.WARNING,
                "adapter-without-effect",
                "remove one of them",
            )
        seen.add(adapter.plain)


RULES: tuple[Callable[[Modelfile], Iterator[Problem]], ...] = (
    _template_errors,
    _template_without_system,
    _hidden,
    _adapters_without_effect,
)
"""What is checked beyond single values; one row a rule."""
