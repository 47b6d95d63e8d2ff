"""How often the same is asked for, and how long to wait in between."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.core.errors import UnreachableError
    from mbuild.work.cancel import Cancel

TRIES = 6
"""How often the same is asked for without anything coming of it."""

FIRST_TRIES = 3
"""The same until a first answer came: whoever waits wants to hear soon that nobody is there."""

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
"""Seconds."""


class Attempts:
    """Counts tries that brought nothing, and waits between them."""

    def __init__(self, cancel: Cancel, tries: int = TRIES) -> None:
        self._cancel = cancel
        self._tries = tries
        self._failed = 0

    @property
    def left(self) -> bool:
        """Whether one more try may follow a failure."""
        return self._failed + 1 < self._tries

    def at_most(self, tries: int) -> None:
        """Give up earlier than it was said at first."""
        self._tries = min(self._tries, tries)

    def failed(self, error: UnreachableError) -> None:
        """Wait before the next try, as long as the error says; raises it if none may follow."""
        self._cancel.check()
        if not (self.left and error.again):
            raise error
        self._failed += 1
        backoff = min(_FIRST_WAIT * 2**self._failed, _LONGEST_WAIT)
        end = time.monotonic() + max(error.wait, backoff * random.uniform(0.5, 1.0))
        while time.monotonic() < end:
            self._cancel.check()
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def progressed(self) -> None:
        """Something came: the counting begins anew."""
        self._failed = 0
