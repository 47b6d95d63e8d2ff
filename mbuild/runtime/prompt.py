"""From a conversation to the prompt, by the model's Go template.

The rules are those of Ollama 0.33 (``server/prompt.go``, ``server/routes.go``).
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.runtime.asked import Ask, ChatTurn, Prompt
from mbuild.runtime.failure import CannotError
from mbuild.templates.conversation import ChatMessage, Values
from mbuild.templates.failure import RenderError, TemplateError
from mbuild.templates.fields import identifiers
from mbuild.templates.gotemplate import parse
from mbuild.templates.render import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from mbuild.runtime.runnable import Runnable
    from mbuild.templates.nodes import ParsedTemplate

IMAGE_TOKENS = 768
"""What an image counts in a prompt that must fit the context, as in Ollama."""

_TAG = "[img]"
_ANY_DAY = "2026-01-01"

TOOL = "tool"
"""The role of what a tool answered."""

ROLES = ("system", "user", "assistant", TOOL)
"""Roles of messages that every template is taken to know."""

_WRITES_ROLES = regex(r"\{\{-?(?!-?\s*(?:if|else|range|with|end)\b)[^}]*\b[Rr]ole\b[^}]*\}\}")
"""What a template has that writes a message's role, whichever it is: Go's, or Jinja's."""


def check_roles(model: Runnable, turns: Sequence[ChatTurn]) -> None:
    """Raise :class:`UsageError` for a message that templates would leave out without a word.

    A role of a model's own is one that its template compares with; a template that writes
    the role itself takes any. What a tool answered is tried where neither tells, which may
    start a process.
    """
    template = model.facts.chat_template if model.jinja else model.contents.template
    any_role = _WRITES_ROLES.search(template) is not None
    for number, turn in enumerate(turns, start=1):
        own = any(f"{quote}{turn.role}{quote}" in template for quote in "\"'`")
        if turn.role == TOOL and not (own or any_role or _keeps(template, model.jinja)):
            raise UsageError(
                f"message {number} has the role {TOOL!r}, and the model's template leaves out"
                " what tools answer",
                hint="send it as a message of the user, or give the model a TEMPLATE with tools",
            )
        if turn.role in ROLES or (turn.role and (own or any_role)):
            continue
        has = f"the unknown role {turn.role!r:.64}" if turn.role else "no role"
        raise UsageError(f"message {number} has {has}; the roles are {', '.join(ROLES)}")


@lru_cache(maxsize=64)
def _keeps(template: str, jinja: bool) -> bool:
    """Whether a template writes what a tool answered; True where that cannot be told.

    Some write whatever is no user's message as the assistant's.
    """
    said = "72 degrees"  # what no template says by itself
    last = ChatMessage(TOOL, said)
    turns = (ChatMessage("user", "question"), ChatMessage("assistant", "call"), last)
    talks = (turns, (turns[0], last))
    if not template:
        return True
    if jinja:
        from mbuild.templates.detect import expected_texts
        from mbuild.templates.probes import Probe

        probes = [Probe(talk, date=_ANY_DAY) for talk in talks]
        found = expected_texts(template, probes, "", "") or ()
        texts = [text for text in found if text is not None]
        return not texts or any(said in text for text in texts)
    try:
        return any(said in render(parse(template), Values(talk)) for talk in talks)
    except (TemplateError, RenderError):
        return True


def conversation(model: Runnable, ask: Ask) -> tuple[ChatTurn, ...]:
    """The whole conversation: the model's SYSTEM, its MESSAGE lines, what was asked.

    A request that begins with a system message, or brings ``system``, has it in place of
    the model's. The lines of MESSAGE do not go before tokens that a request brings.
    """
    given = ask.turns
    first = given[0].role if given else ""
    system = model.contents.system if ask.system is None else ask.system
    start = (ChatTurn("system", system),) if system and first != "system" else ()
    lines = () if ask.context else model.contents.messages
    earlier = tuple(
        ChatTurn(str(line.get("role", "")).lower(), str(line.get("content", ""))) for line in lines
    )
    return (*start, *earlier, *given)


class PromptMaker:
    """Makes the prompts of one request; placeholders stand for its images."""

    def __init__(self, model: Runnable, ask: Ask, *, think: bool | str) -> None:
        """Raises :class:`CannotError` for a model that cannot have such a prompt."""
        self._model = model
        self._ask = ask
        self._think = think
        self._secret = secrets.token_hex(8)
        self._template = self._parsed()

    def _parsed(self) -> ParsedTemplate:
        ask = self._ask
        try:
            template = parse(ask.template) if ask.template else self._model.template
        except TemplateError as error:
            raise UsageError(f"template: {error}") from None
        if template is not None:
            if ask.suffix and "suffix" not in identifiers(template):
                self._model.require("insert")
            return template
        if self._model.builtin:
            raise CannotError(
                f"{self._model.name} makes its prompts by Ollama's renderer"
                f" {self._model.builtin!r}, and its weights have no template",
                hint="give it a TEMPLATE, or serve with --upstream URL of an Ollama",
            )
        if not ask.complete:
            raise CannotError(
                f"{self._model.name} has no template for a conversation",
                hint="give it a TEMPLATE, or ask it to complete a prompt",
            )
        return parse("{{ .Prompt }}")

    def make(self, turns: Sequence[ChatTurn]) -> Prompt:
        """The prompt of a conversation; raises :class:`UsageError` when the template fails."""
        if self._ask.suffix:
            values = Values(prompt=turns[-1].content, suffix=self._ask.suffix)
            return self._rendered(values, ())
        images: list[bytes] = []
        messages = [self._message(turn, images) for turn in turns]
        values = Values(
            tuple(messages),
            tools=self._ask.tools or None,
            think=bool(self._think),
            think_level=self._think if isinstance(self._think, str) else "",
            is_think_set=self._ask.think is not None or bool(self._think),
        )
        return self._rendered(values, images)

    def _rendered(self, values: Values, images: Sequence[bytes]) -> Prompt:
        try:
            text = render(self._template, values)
        except RenderError as error:
            raise UsageError(f"template: {error}") from None
        text = text.removeprefix(self._model.facts.first_token)
        tags = self._model.thinking_tags
        inside = bool(tags and self._think and text.rstrip().endswith(tags[0]))
        return Prompt(text, tuple(images), inside)

    def _message(self, turn: ChatTurn, images: list[bytes]) -> ChatMessage:
        content = turn.content
        for image in turn.images:
            mark = self._mark(len(images))
            images.append(image)
            if _TAG in content:
                content = content.replace(_TAG, mark, 1)
            else:
                marks = sum(self._mark(n) in content for n in range(len(images)))
                at = marks and content.rfind(self._secret) + len(self._secret) + 1
                content = f"{content[:at]}{mark}{content[at:]}"
        return ChatMessage(
            turn.role,
            content,
            turn.thinking,
            turn.tool_calls,
            turn.tool_name,
            turn.tool_call_id,
        )

    def _mark(self, number: int) -> str:
        """What stands for an image until the engine's own marker is known."""
        return f"[{number}:{self._secret}]"

    def marked(self, prompt: Prompt, marker: str) -> str:
        """The text with the engine's marker where the images stand."""
        text = prompt.text
        for number in range(len(prompt.images)):
            text = text.replace(self._mark(number), marker)
        return text


def without(turns: Sequence[ChatTurn], count: int) -> tuple[ChatTurn, ...]:
    """The conversation without so many of its first turns; system turns and the last stay."""
    last = len(turns) - 1
    return tuple(
        turn for n, turn in enumerate(turns) if n >= count or n == last or turn.role == "system"
    )


def native_messages(turns: Sequence[ChatTurn]) -> list[dict[str, Any]]:
    """A conversation as ``/v1/chat/completions`` takes it.

    System messages that follow one another are one: many templates have room for no more.
    """
    joined: list[ChatTurn] = []
    for turn in turns:
        before = joined[-1] if joined else turn
        if joined and before.role == turn.role == "system":
            text = "\n\n".join(filter(None, (before.content, turn.content)))
            joined[-1] = before._replace(content=text, images=before.images + turn.images)
        else:
            joined.append(turn)
    return [_native(turn) for turn in joined]


def _native(turn: ChatTurn) -> dict[str, Any]:
    import base64
    import json

    content: Any = turn.content
    if turn.images:
        parts = [
            {"type": "image_url", "image_url": {"url": f"data:{_kind(image)};base64,{data}"}}
            for image in turn.images
            for data in (base64.b64encode(image).decode(),)
        ]
        content = [*parts, {"type": "text", "text": turn.content}]
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id or f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for number, call in enumerate(turn.tool_calls)
        ]
    if turn.role == "tool":
        message |= {"tool_call_id": turn.tool_call_id, "name": turn.tool_name}
    return message


def _kind(image: bytes) -> str:
    return "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`UsageError` for a tool that is no function with a name and parameters."""
    for number, tool in enumerate(tools, start=1):
        function: Any = tool.get("function")
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if tool.get("type", "function") != "function" or not (named and function["name"]):
            raise UsageError(
                f"tool {number} is no function with a name",
                hint='write {"type": "function", "function": {"name": "NAME", "parameters": {}}}',
            )
        if not isinstance(function.get("parameters") or {}, dict):
            raise UsageError(f"the parameters of tool {number} must be an object, a JSON Schema")
        if not isinstance(function.get("description") or "", str):
            raise UsageError(f"the description of tool {number} must be a string")


def tool_list(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools as the engine takes them."""
    return [dict(tool) | {"type": tool.get("type", "function")} for tool in tools]
