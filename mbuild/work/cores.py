"""How many threads may compute at once: what the system gives this process, or what was asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mbuild.core.errors import UsageError

THREADS_VARIABLE = "MBUILD_THREADS"
"""The environment variable for how many threads compute; ``--threads`` goes before it."""

MOST_THREADS = 4096
"""More than any machine has processors; each takes memory, and a system has so many at most."""

_asked: int | None = None
_for_a_while: list[list[int]] = []


def use_threads(count: int | None) -> None:
    """Let this process compute on so many threads; None: as many as the system gives it.

    Raises :class:`UsageError` for what is no number of threads.
    """
    global _asked
    _asked = count if count is None else _checked(count, "--threads ")


def _checked(count: int, name: str) -> int:
    """A number of threads that somebody asked for under a name."""
    if type(count) is not int or not 1 <= count <= MOST_THREADS:
        raise UsageError(
            f"{name}{count!r} is not a number of threads from 1 to {MOST_THREADS}",
            hint="leave it out: then there are as many as this process may use processors",
        )
    return count


def cores() -> int:
    """Threads that may compute at once, at least one.

    ``--threads``, else ``MBUILD_THREADS``, else the processors that this process may run on,
    within the CPU time that its control group has (a container's ``--cpus``). Raises
    :class:`UsageError` for a variable that is no such number.
    """
    if _for_a_while:
        return _for_a_while[-1][0]
    if _asked is not None:
        return _asked
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if text:
        short = text.isdecimal() and len(text) <= len(str(MOST_THREADS))
        if not short or not 1 <= int(text) <= MOST_THREADS:
            raise UsageError(
                f"{THREADS_VARIABLE}={text!r} is not a number of threads from 1 to {MOST_THREADS}",
                hint=f"write for example {THREADS_VARIABLE}=8",
            )
        return int(text)
    return max(1, min(_processors(), _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))))


def _processors() -> int:
    """The processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(groups: Path, own: Path) -> int:
    """Processors' worth of time that the control groups grant, rounded up; many without a limit.

    Version 2 has ``cpu.max`` (``200000 100000``, or ``max``) in each group up to the root,
    version 1 ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``: Linux's cgroup-v2.rst and
    sched-bwc.rst.
    """
    least = 1 << 16
    for folder in _groups(groups, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                least = min(least, -(-int(quota) // int(period)))
        with suppress(OSError, ValueError, ZeroDivisionError):
            micros = int((folder / "cpu.cfs_quota_us").read_text())
            if micros > 0:
                least = min(least, -(-micros // int((folder / "cpu.cfs_period_us").read_text())))
    return max(1, least)


def _groups(root: Path, own: Path) -> list[Path]:
    """This process's control group and those around it, for both versions."""
    found = []
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            if line.count(":") < 2:
                continue
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = root / "cpu" if controllers else root
            place = top / path.lstrip("/")
            found += [place, *(up for up in place.parents if up.is_relative_to(top))]
    return found


@contextmanager
def computing_on(count: int | None) -> Iterator[None]:
    """Compute on so many threads for a while; None: on as many as before.

    Raises :class:`UsageError` for what is no number of threads.
    """
    if count is None:
        yield
        return
    # A list of its own, so that it is found again among equal numbers.
    mine = [_checked(count, "threads=")]
    _for_a_while.append(mine)
    try:
        yield
    finally:
        # Builds on several threads of a program need not end in the order in which they began.
        _for_a_while[:] = [each for each in _for_a_while if each is not mine]
