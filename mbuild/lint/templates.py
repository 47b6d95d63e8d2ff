"""What TEMPLATE says that no model will ever see, or that ends its first prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Modelfile, Problem, Severity, System, Template
from mbuild.language.printable import visible

if TYPE_CHECKING:
    from mbuild.templates.nodes import ParsedTemplate as Parsed

FIELDS = (
    "System",
    "Prompt",
    "Response",
    "Suffix",
    "Messages",
    "Tools",
    "Think",
    "ThinkLevel",
    "IsThinkSet",
)
"""What Ollama gives a template (v0.32, ``template/template.go``)."""

_OLD_FIELDS = {"First": "only older versions of Ollama have it: leave the condition out"}
_MEANT_FIELDS = {
    **dict.fromkeys(("Input", "Instruction", "User", "Question", "Query", "Text"), "Prompt"),
    **dict.fromkeys(("SystemPrompt", "Sys", "SystemMessage"), "System"),
    **dict.fromkeys(("Output", "Answer", "Assistant", "Completion"), "Response"),
    **dict.fromkeys(("History", "Conversation", "Chat"), "Messages"),
}
"""Names that other programs have for the same."""

_STATEMENT = regex(
    r"\{%[-+]?\s*(?:for|if|elif|else|endif|endfor|set|macro|endmacro|block|raw|generation)\b"
)
_EXPRESSION = regex(
    r"\{\{-?\s*(?:(?:bos_token|eos_token|messages|message|tools|raise_exception)\b"
    r"|[A-Za-z_]\w*(?:\[['\"]|\.[a-z_]+\b|\s*\|\s*(?:trim|tojson|upper|lower|safe)\b))"
)
_ACTION = regex(r"\{\{.*?\}\}", re.S)
_BRACES = regex(r"(?<!\{)(\{|\$\{|\{\{\{)\s*\.?\s*(?:prompt|system|input|messages)\b", re.I)
_ESCAPE = regex(r"\\[nrt](?![a-z])")
_JINJA = "this is a Jinja template, and TEMPLATE is Go's text/template"
_JINJA_HINT = (
    f"{_JINJA}: leave TEMPLATE out (the chat template of the model's own metadata is used)"
    " or write it in Go's"
)


def is_jinja(text: str) -> bool:
    """Whether a template is written in the language of Hugging Face's chat templates."""
    return bool(_STATEMENT.search(text) or _EXPRESSION.search(text))


class FoundTemplate(NamedTuple):
    """The template that counts, as written and parsed, and the Modelfile that it stands in."""

    modelfile: Modelfile
    item: Template
    tree: Parsed


def check(modelfile: Modelfile) -> Iterator[Problem]:
    """What is wrong with the template that counts; one that another hides need not parse.

    It is parsed once, for that of a long one takes seconds.
    """
    last = modelfile.last(Template)
    if last is None or not last.value:
        return
    from mbuild.templates.failure import TemplateError
    from mbuild.templates.gotemplate import parse

    try:
        found = FoundTemplate(modelfile, last, parse(last.value))
    except TemplateError as error:
        hint = _JINJA_HINT if is_jinja(last.value) else _field_hint(error.function) or error.hint
        message = f"template error: {error.message}"
        yield Problem(message, last.span, code="template", suggestion=hint)
        return
    if visible(last.value):
        for rule in ABOUT_TREES:
            yield from rule(found)


def _field_hint(function: str) -> str:
    """``{{ prompt }}`` is a function for Go; the field has a dot before it."""
    name = _meant(function) if function else ""
    return did_you_mean([f".{name}"] if name else [])


def _meant(name: str) -> str:
    """The field that a name was meant to be, or nothing."""
    by_lower = {field.lower(): field for field in FIELDS}
    by_lower |= {other.lower(): field for other, field in _MEANT_FIELDS.items()}
    if found := by_lower.get(name.lower().replace("_", "")):
        return found
    return next(iter(near(name, FIELDS, cutoff=0.7)), "")


def _without_system(found: FoundTemplate) -> Iterator[Problem]:
    system = found.modelfile.last(System)
    if system is None or not system.value:
        return
    from mbuild.templates.fields import references

    _, template, tree = found
    if not references(tree) & {"System", "Messages"}:
        yield Problem(
            "TEMPLATE uses neither .System nor .Messages, so SYSTEM has no effect",
            template.span,
            Severity.WARNING,
            "template-ignores-system",
            "add {{ .System }} where the system message belongs",
        )


def _without_prompt(found: FoundTemplate) -> Iterator[Problem]:
    """Neither the prompt nor the conversation: the model never sees what was asked."""
    from mbuild.templates.fields import identifiers

    _, template, tree = found
    if identifiers(tree) & {"prompt", "messages"}:
        return
    text = template.value
    hint = "add {{ .Prompt }} where the user's text belongs"
    if is_jinja(text):
        hint = _JINJA_HINT
    elif _BRACES.search(_ACTION.sub("", text)):
        hint = "a field is written between double braces, with a dot: {{ .Prompt }}"
    yield Problem(
        "TEMPLATE uses neither .Prompt nor .Messages, so the model never sees what was asked",
        template.span,
        Severity.WARNING,
        "template-ignores-prompt",
        hint,
    )


def _unknown_fields(found: FoundTemplate) -> Iterator[Problem]:
    """Fields that Ollama does not give a template: they come out empty, or end the prompt."""
    from mbuild.templates.fields import own_references

    _, template, tree = found
    for name in sorted(own_references(tree) - set(FIELDS)):
        meant = _meant(name)
        hint = did_you_mean([f".{meant}"] if meant else [], f"the fields are .{', .'.join(FIELDS)}")
        yield Problem(
            f"TEMPLATE uses .{name}, and Ollama has no such field",
            template.span,
            Severity.WARNING,
            "template-unknown-field",
            _OLD_FIELDS.get(name, hint),
        )


def _jinja_inside(found: FoundTemplate) -> Iterator[Problem]:
    """Statements of Jinja in a template that Go reads: they reach the model as they are."""
    if not _STATEMENT.search(_ACTION.sub("", found.item.value)):
        return
    message = f"TEMPLATE holds {{% ... %}}, which Go takes for text: {_JINJA}"
    yield Problem(message, found.item.span, Severity.WARNING, "template-jinja", _JINJA_HINT)


def _escapes(found: FoundTemplate) -> Iterator[Problem]:
    """A backslash and an n in a template of one line, outside actions: two letters to the model."""
    if "\n" in found.item.value.strip():
        return
    if _ESCAPE.search(_ACTION.sub("", found.item.value)):
        yield Problem(
            "TEMPLATE holds \\n as a backslash and a letter: a Modelfile has no escape sequences",
            found.item.span,
            Severity.WARNING,
            "escape-in-value",
            'put the template between """ and write real line ends',
        )


def execution(modelfile: Modelfile) -> Iterator[Problem]:
    """A template that parses and fails on a plain conversation; it is executed for this.

    Left out where strangers send templates: it can take as long as the limits of
    mbuild.templates.execute let it.
    """
    template = modelfile.last(Template)
    if template is None or not visible(template.value):
        return
    from mbuild.templates.conversation import ChatMessage, Values
    from mbuild.templates.failure import LimitError, RenderError, TemplateError
    from mbuild.templates.gotemplate import parse
    from mbuild.templates.render import render

    try:
        tree = parse(template.value)
    except TemplateError:
        return
    talk = (ChatMessage("system", "Be kind."), ChatMessage("user", "Hi"))
    answered = (*talk, ChatMessage("assistant", "Hello"), ChatMessage("user", "Bye"))
    for messages in (talk, answered):
        try:
            render(tree, Values(messages))
        except RenderError as error:
            if not isinstance(error, LimitError):
                yield Problem(
                    f"TEMPLATE fails at the first prompt: {error.message}",
                    template.span,
                    Severity.WARNING,
                    "template-fails",
                    f"the fields are .{', .'.join(FIELDS)}; a message has .Role and .Content",
                )
            return


ABOUT_TREES: tuple[Callable[[FoundTemplate], Iterator[Problem]], ...] = (
    _without_system,
    _without_prompt,
    _unknown_fields,
    _jinja_inside,
    _escapes,
)
"""One row a rule."""
