"""Work on many things at once, on all cores: files to hash, tensors to compare."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

from mbuild.work.cancel import Cancel
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from concurrent.futures import Future

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

Progress = Callable[[int, int], None]
"""Told how much is done, and how much there is."""

_POLL_SECONDS = 0.1


class Part:
    """One item's part of the work: says how far it is, and ends when all of it has to."""

    __slots__ = ("_cancel", "done")

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self.done = 0

    def at(self, done: int, total: int = 0) -> None:
        """So much of the item is done; raises :class:`CancelledError` when the work is stopped."""
        self._cancel.check()
        self.done = done

    def add(self, count: int) -> None:
        """So much more of it is done; raises as :meth:`at`."""
        self.at(self.done + count)


def spread(
    work: Callable[[ItemT, Part], ValueT],
    items: Sequence[ItemT],
    total: int,
    progress: Progress,
    *,
    name: str,
    threads: int | None = None,
) -> list[ValueT]:
    """Do some work for each item, begun in their order, and return what it gives, in order.

    ``progress`` is told ten times a second, on the calling thread, how much of ``total``
    all parts have done. Runs on so many ``threads``, by default :func:`cores`. The error of
    the first item that fails is raised once all others have ended; Ctrl-C and what
    ``progress`` raises stop the others first.
    """
    from concurrent.futures import ThreadPoolExecutor, wait

    cancel = Cancel()
    parts = [Part(cancel) for _ in items]
    pool = ThreadPoolExecutor(max(1, threads or cores()), thread_name_prefix=name)
    try:
        futures = [pool.submit(work, *pair) for pair in zip(items, parts, strict=True)]
        while wait(futures, timeout=_POLL_SECONDS).not_done:
            progress(min(sum(part.done for part in parts), total), total)
        progress(total, total)
        return [future.result() for future in futures]
    finally:
        cancel.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    task: Callable[[ItemT], object], items: Sequence[ItemT], threads: int, *, name: str
) -> None:
    """Run a short task on every item, in their order, on so many threads.

    The calling thread is one of them, so that one thread costs nothing. An error ends
    the work; of several that of the first item is raised.
    """
    waiting = iter(enumerate(items))
    errors: dict[int, BaseException] = {}

    def work() -> None:
        # Items are taken in order, so all before one that fails have been taken too.
        for number, item in waiting:
            if errors:
                return
            try:
                task(item)
            except BaseException as error:
                errors[number] = error
                return

    count = min(threads, len(items)) - 1
    helpers = [threading.Thread(target=work, name=name) for _ in range(count)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[min(errors)]


def ticking(
    work: Callable[[ItemT, Part], ValueT],
    items: Sequence[ItemT],
    *,
    name: str,
    threads: int,
    stop: Callable[[], object],
) -> Generator[None, None, list[ValueT]]:
    """As :func:`spread` for work that waits for others: yields ten times a second meanwhile.

    What one item raises ends the work of all at once, and is raised. ``stop`` is called
    before the threads of unfinished work are waited for: it cuts what they wait for.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    cancel = Cancel()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix=name)
    futures: list[Future[ValueT]] = []
    try:
        futures += [pool.submit(work, item, Part(cancel)) for item in items]
        while True:
            found = wait(futures, _POLL_SECONDS, FIRST_EXCEPTION)
            failed = next((f for f in futures if f in found.done and f.exception()), None)
            if failed is not None:
                failed.result()
            if not found.not_done:
                return [future.result() for future in futures]
            yield
    finally:
        cancel.cancel()
        if not all(future.done() for future in futures):
            stop()
        pool.shutdown(wait=True, cancel_futures=True)
