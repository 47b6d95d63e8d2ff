"""From the grammar's rules to nodes: one function a rule, called as the parser reduces it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lark import Token

from mbuild.core.values import NamedTuple
from mbuild.templates import literals
from mbuild.templates.nodes import (
    Action,
    Branch,
    BranchKind,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Jump,
    Literal,
    Nil,
    Node,
    Operand,
    Pipe,
    Text,
    Variable,
)
from mbuild.templates.tokens import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

Children = list[Any]


class Define(NamedTuple):
    """``{{define "name"}}``: allowed at the top only, so it never is a node among nodes."""

    name: str
    body: tuple[Node, ...]


def _line(children: Children) -> int:
    """The line of the token that begins the action: every action's first child."""
    return int(children[0].line)


def _split(children: Children) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The nodes before and after ``else``, without the tokens among them."""
    parts: tuple[list[Node], list[Node]] = ([], [])
    part = parts[0]
    for child in children:
        if not isinstance(child, Token):
            part.append(child)
        elif child.type == "ELSE":
            part = parts[1]
    return tuple(parts[0]), tuple(parts[1])


def _branch(kind: BranchKind, children: Children) -> Branch:
    """After ``else`` the delimiter belongs to the action around it and the keyword comes first."""
    pipe_at = 2 if children[0].type == "LDELIM" else 1
    body, otherwise = _split(children[pipe_at + 1 :])
    return Branch(kind, children[pipe_at], body, otherwise, _line(children))


def _call(children: Children) -> Call:
    return Call(children[1], children[2] if len(children) > 2 else None, _line(children))


def _block(children: Children) -> Call:
    return Call(children[1], children[2], _line(children), _split(children[3:])[0])


def _pipe(children: Children) -> Pipe:
    declares = not isinstance(children[0], Command)
    variables, assigns = children[0] if declares else ((), False)
    return Pipe(tuple(children[declares:]), variables, assigns)


def _declaration(children: Children) -> tuple[tuple[str, ...], bool]:
    names = tuple(str(token).rstrip() for token in children if token.type == "DECLARED")
    return names, children[-1].type == "ASSIGN"


def _chain(children: Children) -> Operand:
    fields = tuple(str(token)[1:] for token in children[1:])
    match children[0]:
        case Field(names=names):
            return Field(names + fields)
        case Variable(name=name):
            return Variable(name, fields)
        case operand:
            return Chain(operand, fields)


def _number(children: Children) -> Literal:
    token = children[0]
    return Literal(NUMBERS[token.type](token), str(token))


RULES: dict[str, Callable[[Children], Any]] = {
    "start": lambda children: _split(children)[0],
    "text": lambda children: Text(str(children[0])),
    "action": lambda children: Action(children[1], _line(children)),
    "call": _call,
    "break": lambda children: Jump(False, _line(children)),
    "continue": lambda children: Jump(True, _line(children)),
    "define": lambda children: Define(children[1], _split(children[2:])[0]),
    "block": _block,
    "if": partial(_branch, BranchKind.IF),
    "with": partial(_branch, BranchKind.WITH),
    "range": partial(_branch, BranchKind.RANGE),
    "else_if": partial(_branch, BranchKind.IF),
    "else_with": partial(_branch, BranchKind.WITH),
    "name": lambda children: literals.unquote(children[0]),
    "pipe": _pipe,
    "declaration": _declaration,
    "command": lambda children: Command(tuple(children)),
    "chain": _chain,
    "parenthesized": lambda children: children[0],
    "dot": lambda children: Dot(),
    "field": lambda children: Field((str(children[0])[1:],)),
    "variable": lambda children: Variable(str(children[0]).rstrip()),
    "function": lambda children: Function(str(children[0])),
    "nil": lambda children: Nil(),
    "bool": lambda children: Literal(children[0] == "true", str(children[0])),
    "number": _number,
    "string": lambda children: Literal(literals.unquote(children[0]), str(children[0])),
}
"""What each rule of the grammar becomes."""


class Builder:
    """The rules as the methods that Lark looks for; it holds no state."""

    def __getattr__(self, rule: str) -> Callable[[Children], Any]:
        try:
            return RULES[rule]
        except KeyError:
            raise AttributeError(rule) from None
