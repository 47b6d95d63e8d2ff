"""A bar for commands that read a lot and write nothing to tell of meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mbuild.cli.common import ParamType, columns_of
from mbuild.cli.progress import is_terminal
from mbuild.core.units import parse_size, short_duration

if TYPE_CHECKING:
    from mbuild.cli.live import LiveRow

_LONG = 3.0
"""Seconds after which whoever reads a log wants to know what is waited for."""

_LEAST = 16
"""Cells that the first column of a table keeps, however narrow the terminal is."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@contextmanager
def meter(label: str, waiting: str = "") -> Iterator[Callable[[int, int], None]]:
    """``show(done, total)`` in bytes draws a bar on a terminal's standard error, else nothing.

    ``waiting`` says what is waited for before the first call: on a terminal in the bar's
    place, elsewhere in a line once it takes long.
    """
    if not is_terminal():
        yield from _said_once(waiting)
        return
    from mbuild.cli import live as shown
    from mbuild.cli.rate import Rate

    rate, started = Rate(), time.monotonic()

    def rows() -> list[LiveRow]:
        now = time.monotonic()
        if now - started < shown.SHOWN_AFTER:
            return []
        if rate.total == 0 and waiting:
            return [shown.LiveRow(waiting, elapsed=short_duration(now - started))]
        return [shown.row(label, rate, now, now - started)] if rate.total > 0 else []

    live = shown.Live(rows)

    def show(done: int, total: int) -> None:
        with live.lock:
            rate.update(time.monotonic(), done, total)

    try:
        yield show
    finally:
        live.close()


def _said_once(waiting: str) -> Iterator[Callable[[int, int], None]]:
    """Write what is waited for if nothing came for :data:`_LONG` seconds."""
    from threading import Timer

    timer = Timer(_LONG, lambda: click.echo(waiting, err=True))
    timer.daemon = True
    if waiting:
        timer.start()
    try:
        yield lambda done, total: timer.cancel() if total else None
    finally:
        timer.cancel()


class SizeType(ParamType):
    """Bytes: ``50GB``, ``500M``, ``1.5TB``, ``1GiB`` or a plain number."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse, or refuse as wrong usage."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AgeType(ParamType):
    """Seconds: ``7d``, ``12h``, ``90m``, ``2w``, ``0s``."""

    name = "age"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse, or refuse as wrong usage."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is not an age such as 7d, 12h or 30m", param, ctx)
        return float(match[1]) * _SECONDS[match[2].lower()]


def table(rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines of a table, its columns as wide as they need; those of ``right`` are flush right.

    On a terminal with too little room they move together, and the first one is cut.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    room, gap = columns_of(), "    "
    if room and sum(widths) + len(gap) * (len(widths) - 1) > room:
        from mbuild.cli.live import fit

        gap = "  "
        least = min(widths[0], _LEAST)
        widths[0] = max(least, room - sum(widths[1:]) - len(gap) * (len(widths) - 1))
        rows = [(fit(first, widths[0]), *others) for first, *others in rows]
    return [
        gap.join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def counted(number: int, word: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
