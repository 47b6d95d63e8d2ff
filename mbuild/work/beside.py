"""One piece of work on a thread beside the caller's: a digest of what is copied meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mbuild.work.cancel import Cancel

ValueT = TypeVar("ValueT")

_POLL_SECONDS = 0.1


class Beside(Generic[ValueT]):
    """Work that runs while a ``with`` block does; it is over when the block is.

    ``run`` is given a token that it has to look at now and then. Where the block ends
    before the work, by an error or by leaving without :meth:`wait`, the work is cancelled
    and waited for.
    """

    def __init__(self, run: Callable[[Cancel], ValueT], name: str) -> None:
        self._run = run
        self._cancel = Cancel()
        self._values: list[ValueT] = []
        self._error: BaseException | None = None
        # A daemon: work in compiled code must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _work(self) -> None:
        try:
            self._values.append(self._run(self._cancel))
        except BaseException as error:  # raised again by wait()
            self._error = error

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread.ident is None:
            self._thread.start()

    def look(self) -> None:
        """Raise what the work raised, if it has; it may still run."""
        if self._error is not None:
            raise self._error

    def wait(self, tick: Callable[[], object] = lambda: None) -> ValueT:
        """The work's value, once it is there; raises what the work raised.

        ``tick`` is called ten times a second meanwhile, and ends the waiting by raising.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
            tick()
        self.look()
        return self._values[0]

    def stop(self) -> None:
        """Cancel the work and wait for its end; nothing where it is over or has not begun."""
        self._cancel.cancel()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Beside[ValueT]:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def in_time(run: Callable[[], ValueT], seconds: float, name: str) -> ValueT:
    """What ``run`` gives, if it gives it in time; raises TimeoutError, and what it raises.

    Work that takes longer is left to itself: it is a library's, which nothing can stop.
    """
    beside: Beside[ValueT] = Beside(lambda cancel: run(), name)
    beside.start()
    end = time.monotonic() + seconds

    def tick() -> None:
        if time.monotonic() > end:
            raise TimeoutError(name)

    return beside.wait(tick)
