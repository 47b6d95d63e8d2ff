"""What a request asks of a model, and the pieces of the answer, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from mbuild.core.values import EMPTY, FrozenValue, NamedTuple
from mbuild.templates.conversation import ToolCall


class ChatTurn(NamedTuple):
    """One message of a conversation; ``images`` are files' bytes (PNG, JPEG, WAV...)."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class Ask(FrozenValue):
    """A request. ``turns`` are the conversation, or with ``complete`` one prompt.

    ``complete``: ``/api/generate`` and ``/v1/completions``. ``raw``: the prompt as it is.
    ``schema``: ``"json"`` or a JSON Schema that the answer must follow. ``think``: whether to
    think, or how much; None leaves it to the model. ``context``: tokens that go before.
    ``bias``: what is added to the logits of tokens, by their numbers.
    """

    turns: tuple[ChatTurn, ...]
    options: Mapping[str, Any] = EMPTY
    complete: bool = False
    raw: bool = False
    suffix: str = ""
    template: str = ""
    system: str | None = None
    context: tuple[int, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Any = None
    think: bool | str | None = None
    keep_alive: float | None = None
    logprobs: int | None = None
    bias: Mapping[str, float] = EMPTY
    truncate: bool = True
    shift: bool = True

    @property
    def images(self) -> Sequence[bytes]:
        """The images of all turns."""
        return [image for turn in self.turns for image in turn.images]


class EndReason(StrEnum):
    """Why an answer ended, in the API's words."""

    STOP = "stop"
    LENGTH = "length"
    LOAD = "load"
    UNLOAD = "unload"


class Piece(NamedTuple):
    """What one event of the engine adds to the answer."""

    content: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()


class Finished(NamedTuple):
    """The end of an answer. Times are in nanoseconds, counts in tokens.

    ``prompt_count`` counts what was still in the
    engine's cache, too. ``context``: the tokens of prompt and answer. ``given_count``: what the
    prompt had before it was cut to fit the context, 0 for one that was not cut.
    """

    reason: EndReason
    total_ns: int = 0
    load_ns: int = 0
    prompt_count: int = 0
    prompt_ns: int = 0
    answer_count: int = 0
    answer_ns: int = 0
    context: tuple[int, ...] = ()
    given_count: int = 0


class Prompt(NamedTuple):
    """A prompt that was made here, with the images that its placeholders stand for.

    ``thinking``: the answer begins within a thought.
    """

    text: str
    images: tuple[bytes, ...] = ()
    thinking: bool = False
