"""What can go wrong with an engine, for those who ask it."""

from __future__ import annotations

from mbuild.core.errors import MbuildError

EXTRA = "pip install 'mbuild-models[run]'"
"""How to get an engine."""


class NoEngineError(MbuildError):
    """Nothing here can run models."""

    def __init__(self) -> None:
        super().__init__(
            "nothing here can run models",
            hint=f"install the engine with {EXTRA}, or name a llama-server with --llama-server",
        )


class EngineError(MbuildError):
    """An engine could not start, refused a request, or ended in the middle of one."""


class EngineDiedError(EngineError):
    """An engine's process ended while somebody waited for it."""


class UnreadAnswerError(EngineError):
    """The engine could not take an answer apart into text, thoughts and calls."""


class RequestError(MbuildError):
    """The engine says that what it was asked is wrong."""


class TooLongError(RequestError):
    """A prompt that does not fit the context; ``tokens``: how many it has, 0 if that is unknown."""

    def __init__(self, message: str, *, hint: str = "", tokens: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.tokens = tokens


class CannotError(MbuildError):
    """A model that cannot do what it is asked: chat, use tools, look at images."""


class QueueFullError(MbuildError):
    """More requests wait than may."""


TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the"
    " prompt, or set num_ctx"
)
"""What a prompt that does not fit is answered with."""
