"""Waiting for a lease that somebody else has, until it is free or nobody goes on with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.store.shared import Held, SharedCache, SharedLease


class LeaseWait:
    """A lease that somebody else has.

    ``holder`` is who has it, or had it when it was taken over; nobody when it was free.
    """

    def __init__(self, shared: SharedCache, key: str) -> None:
        self.holder = ""
        self._shared = shared
        self._key = key
        self._seen = b""
        self._since = time.monotonic()

    def attempt(self) -> SharedLease | None:
        """The lease, if it can be had now: it is free, or was not renewed for all of its life."""
        held = self._shared.held(self._key)
        self.holder = held.holder if held is not None else ""
        if held is None:
            return self._shared.take(self._key)
        return self._shared.take_over(self._key, held) if self.is_stale(held) else None

    def is_held(self) -> bool:
        """Whether somebody has it and goes on with it; what nobody goes on with is removed."""
        held = self._shared.held(self._key)
        if held is None or not self.is_stale(held):
            return held is not None
        lease = self._shared.take_over(self._key, held)
        if lease is not None:
            lease.release()
        return False

    def is_stale(self, held: Held) -> bool:
        """Whether it was not renewed for all of its life, by this machine's clock."""
        if held.content != self._seen:
            self._seen, self._since = held.content, time.monotonic()
        return time.monotonic() - self._since > held.life
