"""How a signal ends a command: once, and where that loses nothing."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from mbuild.core.errors import Terminated

if TYPE_CHECKING:
    from types import FrameType

_CAME: list[int] = []
"""The signals that came and ended the command."""

_LOOK_AGAIN_SECONDS = 0.02

_DEAF_SECONDS = 1.0
"""After a signal: a second one, of whoever is impatient, would end the cleaning up."""

_DELICATE = {("threading", "start"), ("concurrent.futures.thread", "submit")}
"""Functions that an exception must not end, by their modules."""

_HANDLED = (signal.SIGINT, signal.SIGTERM)


def stop_on_signals() -> None:
    """SIGTERM stops as Ctrl-C does, so that files under construction are removed.

    Neither does while a module is imported, but right after: an exception in there
    can get lost (CPython releases an import's locks in callbacks, which drop it) or
    leave a lock behind, for which the build's threads would then wait forever. Nor while
    a thread starts: a pool would not know of it, and nobody wait for what it does.
    """
    last = -_DEAF_SECONDS

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if _is_delicate(frame) and hasattr(signal, "setitimer"):
            # The status is that of the signal that came, not of this one.
            signal.signal(signal.SIGALRM, lambda _, where: stop(number, where))
            signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_SECONDS)
            return
        if time.monotonic() < last + _DEAF_SECONDS:
            return
        last = time.monotonic()
        _CAME.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # Another handler is of whoever wants it ignored.
    own = (signal.default_int_handler, signal.SIG_DFL, _pass_over)
    if signal.getsignal(signal.SIGINT) in own:
        signal.signal(signal.SIGINT, stop)


def stopped() -> int:
    """The status of what a signal stopped, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.

    Nothing is left to stop then, so no further signal counts.
    """
    for number in _HANDLED:
        signal.signal(number, _pass_over)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 128 + (_CAME.pop() if _CAME else signal.SIGINT)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Let a signal that comes too late do nothing."""


def _is_delicate(frame: FrameType | None) -> bool:
    """Whether the main thread is somewhere in an import, or starts a thread."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return True
        if (frame.f_globals.get("__name__"), code.co_name) in _DELICATE:
            return True
        frame = frame.f_back
    return False
