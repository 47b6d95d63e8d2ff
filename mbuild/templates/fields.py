"""Which fields a template mentions: for lint, for what it can do, and for how it is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.templates.nodes import Branch, BranchKind, Call, Chain, Field, Variable, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mbuild.templates.nodes import Node, ParsedTemplate


def identifiers(template: ParsedTemplate) -> frozenset[str]:
    """Every name in a field or variable, in lower case, wherever it stands: Ollama's ``Vars``.

    Ollama decides by it: with ``messages`` among them a template is given the
    whole conversation; with neither ``messages`` nor ``response`` it has
    ``{{ .Response }}`` appended; ``tools`` and ``suffix`` are capabilities.
    Operands before a chain of fields, ``(.X).Y``, do not count.
    """
    found: set[str] = set()
    for nodes in (template.body, *template.definitions.values()):
        hidden: set[int] = set()
        for part in walk(nodes):
            if id(part) in hidden:
                continue
            if isinstance(part, Chain):
                hidden.update(id(inner) for inner in walk((part.operand,)))
            elif isinstance(part, Field):
                found.update(part.names)
            elif isinstance(part, Variable):
                found.update((part.name, *part.fields))
    return frozenset(name.lower() for name in found)


def references(template: ParsedTemplate) -> frozenset[str]:
    """The fields of the template's own value that it mentions: ``System``, ``Messages``...

    Within ``range`` and ``with`` a field belongs to another value and does not
    count, except after ``$``. What a defined template is given is not known
    here: all its fields count.
    """
    found = _fields_of_dot(template.body)
    for nodes in template.definitions.values():
        found |= _fields_of_dot(nodes)
    return frozenset(found)


def own_references(template: ParsedTemplate) -> frozenset[str]:
    """As :func:`references`, but for the fields in defined templates, whose value is not known."""
    return frozenset(_fields_of_dot(template.body))


def _fields_of_dot(nodes: Iterable[Node]) -> set[str]:
    found: set[str] = set()
    other: set[int] = set()
    for part in walk(nodes):
        if isinstance(part, Variable) and part.name == "$":
            found.update(part.fields[:1])
        elif id(part) in other:
            continue
        elif isinstance(part, Field):
            found.add(part.names[0])
        elif isinstance(part, Call) or (
            isinstance(part, Branch) and part.kind is not BranchKind.IF
        ):
            other.update(id(inner) for inner in walk(part.body or ()))
    return found
