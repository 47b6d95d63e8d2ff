"""What a plain Modelfile has from the language mbuild/1, or from Dockerfiles, without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mbuild.core.patterns import regex
from mbuild.language.instructions import (
    Adapter,
    Draft,
    Edit,
    From,
    Instruction,
    License,
    Message,
    Modelfile,
    Parameter,
    Problem,
    Severity,
    System,
    Template,
)
from mbuild.language.stages.opening import SYNTAX_LINE, language_named
from mbuild.lint.content import title_of, value_span

_ARGUMENT = regex(r"(?<!\\)\$\{[A-Za-z_][A-Za-z0-9_]*(?::[-+][^{}\n]*)?\}")
_FILE = regex(r"@(?!sha256[:-])[\w.~/\\-]*[\w/\\-]")

OPENS = f"make {SYNTAX_LINE} the first line of the Modelfile"


def _warn(item: Instruction, code: str, message: str, hint: str) -> Problem:
    edit = Edit(0, 0, f"{SYNTAX_LINE}\n")
    return Problem(message, value_span(item.span), Severity.WARNING, code, hint, edit=edit)


def _arguments(modelfile: Modelfile) -> Iterator[Problem]:
    """``${NAME}`` is text. A long text may be about programs, where it is at home."""
    for item in modelfile.instructions:
        text = item.content if isinstance(item, Message) else item.value
        named = isinstance(item, (From, Adapter, Draft, Parameter))
        match = _ARGUMENT.search(text) if named or "\n" not in text else None
        if match and not isinstance(item, (Template, License)):
            message = f"{match[0]} in {title_of(item)} is text: a plain Modelfile has no arguments"
            yield _warn(item, "argument-in-value", message, f"{OPENS}, and declare ARG NAME")


def _files(modelfile: Modelfile) -> Iterator[Problem]:
    """``@file`` is text."""
    for item in modelfile.instructions:
        text = item.content if isinstance(item, Message) else item.value
        if isinstance(item, (System, Template, License, Message)) and _FILE.fullmatch(text.strip()):
            message = f"the value of {title_of(item)} is the text {text.strip()!r} itself"
            yield _warn(item, "path-as-text", f"{message}: no file is read", OPENS)


def _syntax_lines(modelfile: Modelfile) -> Iterator[Problem]:
    """A comment that was to open a language, in another place or of another tool."""
    for item in modelfile.comments:
        named = language_named(item)
        if not named or item.span is None:
            continue
        if named.lower() == "mbuild/1" and item.span.line > 1:
            message = f"{SYNTAX_LINE} is a comment here: it counts only as the first line"
            hint = "move it to the first line"
        else:
            message = f"this line is a comment: no language of Modelfiles is called {named:.40}"
            hint = f"mbuild's own is opened by {SYNTAX_LINE}"
        yield Problem(message, item.span, Severity.WARNING, "syntax-line", hint)


RULES: tuple[Callable[[Modelfile], Iterator[Problem]], ...] = (_arguments, _files, _syntax_lines)
"""One row a rule."""
