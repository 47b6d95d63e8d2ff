"""What the functions of the Python API have in common: they run at once, or event by event."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import wraps
from inspect import signature
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar

from mbuild.api.failing import Error, one_error
from mbuild.core.events import BuildEvent

P = ParamSpec("P")
T = TypeVar("T")


class Events(Iterator[BuildEvent], Generic[T]):
    """The events of something that mbuild does, which is done while they are taken.

    :attr:`result` is there when they end. Closing it, or leaving its ``with`` block, stops the
    work; nothing half done is left. :class:`Error` is raised by whatever event it comes in
    place of.
    """

    def __init__(self, steps: Generator[BuildEvent, None, T]) -> None:
        self._steps = steps
        self._result: T | None = None
        self._ended = False

    def __next__(self) -> BuildEvent:
        with one_error():
            try:
                return next(self._steps)
            except StopIteration as end:
                if not self._ended:
                    self._result, self._ended = end.value, True
                raise

    @property
    def result(self) -> T:
        """What came out; raises :class:`Error` before the events have ended."""
        if not self._ended:
            raise Error("the events have not ended, so there is no result yet", ())
        return self._result  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the work, unless it has ended."""
        with one_error():
            self._steps.close()

    def __enter__(self) -> Self:
        """The events themselves."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop the work."""
        self.close()


class Verb(Protocol[P, T]):
    """A function that gives its result; :meth:`events` does the same and tells how far it is."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it, and return what came out; raises :class:`Error`. Nothing is printed."""

    def events(self, *args: P.args, **kwargs: P.kwargs) -> Events[T]:
        """Do it while the events are taken; nothing has run before the first of them."""


def verb(steps: Callable[P, Generator[BuildEvent, None, T]]) -> Verb[P, T]:
    """Make a function of one that yields events and returns its result."""

    def events(*args: P.args, **kwargs: P.kwargs) -> Events[T]:
        return Events(steps(*args, **kwargs))

    @wraps(steps)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with events(*args, **kwargs) as found:
            for _ in found:
                pass
        return found.result

    own = signature(steps)
    _, _, result = str(own.return_annotation).removesuffix("]").rpartition(", ")
    function: Any = call
    function.__signature__ = own.replace(return_annotation=result)
    function.events = events
    made: Verb[P, T] = function
    return made
