"""Everything that can be known to be wrong with a Modelfile without its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mbuild.errors import ModelfileError
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


def check(data: bytes, filename: str) -> tuple[Modelfile, list[Problem]]:
    """Parse and check a Modelfile; returns it with its warnings.

    Raises :class:`ModelfileError` with all problems if any of them is an error.
    """
    from mbuild.modelfile.parser import decode, parse

    modelfile = parse(data, filename)
    text = decode(data)
    problems = [problem.located(text, filename) for problem in check_instructions(modelfile)]
    problems.sort(key=lambda p: p.span.start if p.span else 0)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ModelfileError(problems)
    return modelfile, problems


def check_instructions(modelfile: Modelfile) -> list[Problem]:
    """All problems of parsed instructions, wherever they came from."""
    from mbuild.modelfile.parameters import validate

    problems = validate(modelfile)
    for rule in RULES:
        problems += rule(modelfile)
    return problems


def _template_errors(modelfile: Modelfile) -> Iterator[Problem]:
    """The template that counts must parse; one that another hides need not, as in Ollama."""
    last = modelfile.last(Template)
    if last is None or not last.value:
        return
    from mbuild.templates.errors import TemplateError
    from mbuild.templates.gotemplate import parse

    try:
        parse(last.value)
    except TemplateError as error:
        yield Problem(f"template error: {error.message}", last.span, code="template")


def _template_without_system(modelfile: Modelfile) -> Iterator[Problem]:
    template, system = modelfile.last(Template), modelfile.last(System)
    if template is None or system is None or not template.value or not system.value:
        return
    from mbuild.templates.errors import TemplateError
    from mbuild.templates.fields import references
    from mbuild.templates.gotemplate import parse

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
