"""How fast something goes and how long it will take, without jumps.

The speed is a mean over the last seconds: each span of time counts with its length
and loses weight exponentially, so that a steady speed is told exactly from the first
second on, and a step of the speed is followed in about ``WINDOW`` seconds. The
remaining time that is shown counts down with the clock as long as that agrees with
the estimate.
"""

from __future__ import annotations

import math

WINDOW = 5.0
"""Seconds after which a span of time counts 1/e as much."""

SETTLED = 1.0
"""Seconds of measurement before a speed is told."""

_DRIFT = 0.15
_SLACK = 1.5


class Rate:
    """The speed of one running step. Times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self.completed = 0
        self.total = 0
        self._first = 0.0
        self._last: float | None = None
        self._bytes = 0.0
        self._seconds = 0.0
        self._shown: tuple[float, float] | None = None

    def update(self, now: float, completed: int, total: int) -> None:
        """Bytes done and bytes in all (0: unknown) at a time.

        The first call is where the measurement starts: what was done before it
        (found finished, say) took no time that anybody knows. So is a call with
        less than before.
        """
        if self._last is None or completed < self.completed:
            self._bytes = self._seconds = 0.0
            self._first, self._shown = now, None
        else:
            span = max(0.0, now - self._last)
            weight = math.exp(-span / WINDOW)
            self._bytes = self._bytes * weight + completed - self.completed
            self._seconds = self._seconds * weight + span
        self._last, self.completed, self.total = now, completed, total

    def speed(self, now: float) -> float | None:
        """Bytes a second; None until it is known. It falls while nothing happens."""
        if self._last is None or self._bytes <= 0 or now - self._first < SETTLED:
            return None
        return self._bytes / (self._seconds + max(0.0, now - self._last))

    def remaining(self, now: float) -> float | None:
        """Seconds that are left; None while speed or total are unknown."""
        speed = self.speed(now)
        if speed is None or self.total <= 0:
            return None
        estimate = max(0, self.total - self.completed) / speed
        if self._shown is not None:
            shown, at = self._shown
            counted = shown - (now - at)
            if counted >= 0 and abs(estimate - counted) <= max(_SLACK, _DRIFT * counted):
                return counted
        self._shown = (estimate, now)
        return estimate
