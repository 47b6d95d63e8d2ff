"""Everything that can be known to be wrong with a Modelfile without building it.

``neighbours`` looks at instructions beside each other, ``content`` at single values, ``plain``
at what only the language mbuild/1 would understand,
``templates`` into TEMPLATE, ``paths`` at what the user's folder holds. A file that
Ollama takes gets warnings only: it builds the same bytes as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import Modelfile, Problem, Severity
from mbuild.lint import content, neighbours, plain, templates

RULES: tuple[Callable[[Modelfile], Iterator[Problem]], ...] = (
    templates.check,
    *neighbours.RULES,
    *content.RULES,
)
"""What is checked beyond the language itself; one row a rule."""


def check(
    data: bytes, filename: str, folder: Path | None = None
) -> tuple[Modelfile, list[Problem]]:
    """Parse and check a Modelfile; returns it with its warnings.

    ``folder`` is where its paths start from; without one no folder is looked at.
    Raises :class:`ModelfileError` with all problems if any of them is an error.
    """
    from mbuild.language.parser import decode, parse

    modelfile = parse(data, filename)
    text = decode(data)
    found = [*check_instructions(modelfile), *templates.execution(modelfile)]
    for rule in plain.RULES:
        found += rule(modelfile)
    if folder is not None:
        from mbuild.lint import paths

        seen = paths.check(modelfile, folder)
        if any(problem.code == paths.NAME_AND_FILE for problem in seen):
            found = [problem for problem in found if problem.code != "hidden-from"]
        found += seen
    problems = [problem.located(text, filename) for problem in found]
    problems.sort(key=lambda p: p.span.start if p.span else 0)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ModelfileError(problems)
    return modelfile, problems


def check_instructions(modelfile: Modelfile) -> list[Problem]:
    """All problems of parsed instructions, wherever they came from."""
    from mbuild.language.meaning import validate

    problems = validate(modelfile)
    for rule in RULES:
        problems += rule(modelfile)
    return problems
