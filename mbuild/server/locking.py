"""Work that waits for the store's lock: threads of its own, and a limit of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from mbuild.core.errors import BusyError

ResultT = TypeVar("ResultT")

PATIENCE_SECONDS = 10.0
"""How long a request waits for a thread, and then for the lock, before it is answered 503."""

THREADS = 16


class Locking:
    """Runs blocking functions that take the store's lock.

    The threads in which everything else runs are never taken by them, so that requests
    that need no lock are answered however long somebody removes blobs.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(THREADS)

    async def run(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """The function's result; raises :class:`BusyError` when no thread becomes free."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise BusyError(
                "too many requests wait for the store", hint="try again later"
            ) from None
        try:
            return await to_thread.run_sync(function, *arguments, limiter=CapacityLimiter(1))
        finally:
            self._turn.release()
