"""The syntax tree of a template: frozen nodes, as few kinds as the language has.

Trees of hostile templates can be very deep: walk them with :func:`walk`, which
does not recurse, and neither compare, hash nor print whole trees.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from mbuild.core.values import EMPTY, Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class BranchKind(StrEnum):
    """The three actions that choose whether and how often a body is executed."""

    IF = "if"
    RANGE = "range"
    WITH = "with"


class Dot(Frozen):
    """``.``, the value at hand."""


class Nil(Frozen):
    """``nil``, allowed as an argument only."""


class Literal(Frozen):
    """A boolean, a number or a string; a string's bytes that are no UTF-8 are surrogates.

    A character constant is the integer of its code point; ``text`` is the source.
    """

    value: bool | int | float | complex | str
    text: str


class Field(Frozen):
    """``.Name.Name``: fields of the value at hand, one after the other."""

    names: tuple[str, ...]


class Variable(Frozen):
    """``$name.Name``: a variable (``$`` is the value the template was given) and its fields."""

    name: str
    fields: tuple[str, ...] = ()


class Function(Frozen):
    """A function's name; first in a command it is called with the other arguments."""

    name: str


class Chain(Frozen):
    """``(pipeline).Name`` or ``function.Name``: fields of an operand's value."""

    operand: Operand
    fields: tuple[str, ...]


class Command(Frozen):
    """Operands with space between them: the first is called if it can be."""

    operands: tuple[Operand, ...]


class Pipe(Frozen):
    """Commands, each given the result of the one before; the last result may name variables.

    ``assigns`` tells ``=`` (the variable exists) from ``:=`` (it begins here).
    """

    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False


class Text(Frozen):
    """Text between actions, trimmed as the actions beside it say; never empty."""

    text: str


class Action(Frozen):
    """``{{pipeline}}``: writes the value, unless the pipeline names variables."""

    pipe: Pipe
    line: int


class Branch(Frozen):
    """``if``, ``with`` or ``range``; ``otherwise`` is what stands after ``else``."""

    kind: BranchKind
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]
    line: int


class Call(Frozen):
    """``{{template "name" pipeline}}``; ``body`` is a ``block``'s, which is its definition too."""

    name: str
    pipe: Pipe | None
    line: int
    body: tuple[Node, ...] | None = None


class Jump(Frozen):
    """``break``, or ``continue`` if ``again``."""

    again: bool
    line: int


Operand: TypeAlias = Dot | Nil | Literal | Field | Variable | Function | Chain | Pipe
Node: TypeAlias = Text | Action | Branch | Call | Jump


class ParsedTemplate(Frozen):
    """A parsed template: its source, its own nodes and those of the templates it defines."""

    source: str
    body: tuple[Node, ...]
    definitions: Mapping[str, tuple[Node, ...]] = EMPTY


Part: TypeAlias = Node | Command | Operand


def walk(nodes: Iterable[Part]) -> Iterator[Part]:
    """Every part of the nodes, a parent before its children, in the order of the text."""
    stack: list[Part] = [*nodes][::-1]
    while stack:
        part = stack.pop()
        yield part
        match part:
            case Action(pipe=pipe):
                stack.append(pipe)
            case Call(pipe=optional, body=body):
                stack += (body or ())[::-1]
                stack += [optional] if optional else []
            case Branch(pipe=pipe, body=nodes, otherwise=otherwise):
                stack += [*otherwise[::-1], *nodes[::-1], pipe]
            case Pipe(commands=commands):
                stack += commands[::-1]
            case Command(operands=operands):
                stack += operands[::-1]
            case Chain(operand=operand):
                stack.append(operand)
            case _:
                pass
