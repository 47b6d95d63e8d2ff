"""Parses templates: accepts and refuses what Go's text/template and then Ollama do.

Ollama (v0.32, ``template/template.go``) hands the text to Go's parser, with its
own functions defined, and then walks the tree for the fields it mentions; that
walk refuses a ``{{template "name"}}`` that passes no value.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from mbuild.templates.failure import TemplateError
from mbuild.templates.nodes import Call, ParsedTemplate, walk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lark import Lark, Token

    from mbuild.templates.nodes import Node
    from mbuild.templates.tree import Define

GO_FUNCTIONS = frozenset(
    {"and", "or", "not", "call", "len", "index", "slice", "html", "js", "urlquery"}
    | {"print", "printf", "println", "eq", "ne", "lt", "le", "gt", "ge"}
)
"""The functions that Go defines, https://pkg.go.dev/text/template#hdr-Functions."""

OLLAMA_FUNCTIONS = GO_FUNCTIONS | {"currentDate", "json", "toTypeScriptType", "yesterdayDate"}
"""The functions that a template may call in Ollama v0.32."""

MAX_SIZE = 1 << 20
"""The longest template taken, in characters; real ones have a few thousand."""


class _Faults:
    """Keeps the terminals for faulty text, which no rule mentions, in the lexer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.always_accept = names

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@cache
def _lark() -> Lark:
    from mbuild.core import grammars
    from mbuild.templates.tokens import FAULTS
    from mbuild.templates.tree import Builder

    return grammars.parser(
        "gotemplate.lark",
        lexer="basic",
        postlex=_Faults(tuple(FAULTS)),
        transformer=Builder(),
    )


def parse(text: str, functions: Collection[str] = OLLAMA_FUNCTIONS) -> ParsedTemplate:
    """The template's syntax tree.

    Raises :class:`TemplateError`, in Go's words, for what Go refuses to parse or
    Ollama refuses right after, and for a text longer than ``MAX_SIZE``.
    """
    if len(text) > MAX_SIZE:
        raise TemplateError(
            1, f"the template has {len(text):,} characters; the limit is {MAX_SIZE:,}"
        )
    from mbuild.templates.check import parse_checked
    from mbuild.templates.tree import Define

    nodes = parse_checked(_lark(), text, frozenset(functions))
    body = tuple(node for node in nodes if not isinstance(node, Define))
    definitions: dict[str, tuple[Node, ...]] = {}
    for name, part in _defined(nodes):
        # A definition without content never replaces one that has some.
        if not (name in definitions and is_empty(part)):
            definitions[name] = part
    if "" in definitions and is_empty(body):
        body = definitions[""]
    template = ParsedTemplate(text, body, MappingProxyType(definitions))
    _check_calls(template)
    return template


def _defined(nodes: tuple[Node | Define, ...]) -> Iterator[tuple[str, tuple[Node, ...]]]:
    """Each ``define`` and ``block``, one that stands in another before that."""
    from mbuild.templates.tree import Define

    for node in nodes:
        inner = node.body if isinstance(node, Define) else (node,)
        blocks = [c for c in walk(inner) if isinstance(c, Call) and c.body is not None]
        for block in reversed(blocks):
            yield block.name, block.body or ()
        if isinstance(node, Define):
            yield node.name, node.body


def is_empty(nodes: tuple[Node, ...]) -> bool:
    """Whether there is nothing but space: such a definition may be replaced by another."""
    from mbuild.templates.nodes import Text
    from mbuild.templates.tokens import SPACE

    return all(isinstance(node, Text) and not node.text.strip(SPACE) for node in nodes)


def _check_calls(template: ParsedTemplate) -> None:
    """Ollama looks for the fields that a call's value mentions and wants there to be one."""
    for nodes in (template.body, *template.definitions.values()):
        for part in walk(nodes):
            if isinstance(part, Call) and part.pipe is None:
                hint = f'pass the template a value, as in {{{{ template "{part.name}" . }}}}'
                raise TemplateError(part.line, "undefined template specified", hint=hint)
