"""From a conversation to the prompt: what Ollama's ``Template.Execute`` does.

A template that mentions ``.Messages`` is given the whole conversation. Any other
is executed once a turn on ``.System``, ``.Prompt`` and ``.Response``, the last
time without what follows ``.Response``, for there the model goes on.
Source: Ollama v0.32, ``template/template.go``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from mbuild.core.values import replace
from mbuild.templates.conversation import collate, message_value, tools_value
from mbuild.templates.execute import MAX_OUTPUT, execute
from mbuild.templates.failure import LimitError
from mbuild.templates.fields import identifiers
from mbuild.templates.functions import functions
from mbuild.templates.gotemplate import GO_FUNCTIONS
from mbuild.templates.nodes import Action, Branch, Command, Field, Pipe

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

    from mbuild.templates.conversation import ChatMessage, Values
    from mbuild.templates.govalues import Value
    from mbuild.templates.nodes import Node, Operand, ParsedTemplate

_RESPONSE = Action(Pipe((Command((Field(("Response",)),)),)), 0)


_FIELD_OF_ROLE = {"system": "System", "user": "Prompt", "assistant": "Response"}
_NO_TURN = {"System": "", "Prompt": "", "Response": ""}


def render(template: ParsedTemplate, values: Values, *, today: datetime.date | None = None) -> str:
    """The prompt that Ollama gives the model.

    ``today`` is what ``currentDate`` tells. Raises :class:`RenderError` where Go
    would fail, and beyond the limits of mbuild.templates.execute.
    """
    names = identifiers(template)
    body = template.body if names & {"messages", "response"} else (*template.body, _RESPONSE)
    known = functions(today)
    common: dict[str, Value] = {
        "Response": "",
        "Think": values.think,
        "ThinkLevel": values.think_level,
        "IsThinkSet": values.is_think_set,
    }
    if values.prompt and values.suffix:
        fill = {**common, "Prompt": values.prompt, "Suffix": values.suffix}
        return execute(body, fill, known, template.definitions)
    system, messages = collate(values.messages)
    if "messages" in names:
        chat = {
            **common,
            "System": system,
            "Messages": [message_value(message) for message in messages],
            "Tools": tools_value(values.tools),
        }
        return execute(body, chat, known, template.definitions)
    *turns, last = _turns(messages)
    parts: list[str] = []
    for turn in turns:
        parts.append(execute(body, {**common, **turn}, known, template.definitions))
        if sum(map(len, parts)) > MAX_OUTPUT:
            raise LimitError(f"the template writes more than {MAX_OUTPUT:,} characters")
    # Ollama executes what is left as a template of its own: only Go's functions
    # are known to it, and no defined templates.
    plain = {name: known[name] for name in known if name in GO_FUNCTIONS}
    parts.append(execute(_cut(body), {**common, **last}, plain, MappingProxyType({})))
    return "".join(parts)


def _turns(messages: Sequence[ChatMessage]) -> list[dict[str, Value]]:
    """The turns that are executed, the one that the model goes on with last."""
    turns = [dict(_NO_TURN)]
    for message in messages:
        turn = turns[-1]
        ends_at_system = message.role == "system" and (turn["Prompt"] or turn["Response"])
        if ends_at_system or (message.role == "user" and turn["Response"]):
            turns.append(dict(_NO_TURN))
        if message.role in _FIELD_OF_ROLE:
            turns[-1][_FIELD_OF_ROLE[message.role]] = message.content
    return turns


class _Cut:
    """Leaves out everything after the first ``.Response``, as Ollama's ``deleteNode`` does.

    Conditions are not looked into, nor calls of templates; where Ollama would
    fail, for an ``else`` after the cut, that is left out as well.
    """

    def __init__(self) -> None:
        self.done = False

    def nodes(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(kept for node in nodes if (kept := self.node(node)) is not None)

    def node(self, node: Node) -> Node | None:
        if self.done:
            return None
        match node:
            case Branch(body=body, otherwise=otherwise):
                return replace(node, body=self.nodes(body), otherwise=self.nodes(otherwise))
            case Action(pipe=pipe):
                left = self.pipe(pipe)
                return None if left is None else replace(node, pipe=left)
            case _:
                return node

    def pipe(self, pipe: Pipe) -> Pipe | None:
        commands = []
        for command in pipe.commands:
            operands = tuple(
                kept for operand in command.operands if (kept := self.operand(operand)) is not None
            )
            if not operands:
                return None
            commands.append(Command(operands))
        return replace(pipe, commands=tuple(commands))

    def operand(self, operand: Operand) -> Operand | None:
        if self.done:
            return None
        if isinstance(operand, Field) and "Response" in operand.names:
            self.done = True
        return self.pipe(operand) if isinstance(operand, Pipe) else operand


def _cut(nodes: Sequence[Node]) -> tuple[Node, ...]:
    try:
        return _Cut().nodes(nodes)
    except RecursionError:
        raise LimitError("the template nests too deep") from None
