"""Terminals for tests: a pty of a chosen size, and what its screen shows.

The screen is pyte's, which cuts lines when it becomes narrower, as xterm does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyte

TIMEOUT = 30.0

# A child's controlling terminal, so that Ctrl-C reaches it.
_RUN = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Screen:
    """One terminal: ``slave`` is what programs write to, ``raw`` all that they wrote."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.master, self.slave = os.openpty()
        self.raw = b""
        self._screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size; a program in it gets SIGWINCH."""
        self.read(0.0)
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self._screen.resize(lines, columns)

    def read(self, seconds: float = 0.05) -> None:
        """Take in what was written, waiting at most so long for the first of it."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # nobody has the other end open any more
                return
            if not data:
                return
            self.raw += data
            self._stream.feed(data)
            seconds = 0.0

    @property
    def rows(self) -> list[str]:
        """The lines on the screen and those scrolled out of it, without empty ones at the end."""
        history = [
            "".join(line[x].data for x in range(self._screen.columns)).rstrip()
            for line in self._screen.history.top
        ]
        shown = [*history, *(line.rstrip() for line in self._screen.display)]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row of the cursor on the screen, from 0."""
        return self._screen.cursor.x, self._screen.cursor.y

    def until(self, fits: Callable[[list[str]], object]) -> list[str]:
        """Read until the rows fit; the rows. Fails after a while."""
        end = time.monotonic() + TIMEOUT
        while not fits(self.rows):
            assert time.monotonic() < end, "\n".join(["the screen shows", *self.rows])
            self.read()
        return self.rows

    def close(self) -> None:
        """Close both ends."""
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


@contextlib.contextmanager
def terminal(columns: int = 80, lines: int = 24) -> Iterator[Screen]:
    """A terminal without a program."""
    screen = Screen(columns, lines)
    try:
        yield screen
    finally:
        screen.close()


@contextlib.contextmanager
def program(
    arguments: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    columns: int = 80,
    lines: int = 24,
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    """Run ``python ARGUMENTS`` in a terminal of its own; it is killed at the end."""
    screen = Screen(columns, lines)
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        stdin=screen.slave,
        stdout=screen.slave,
        stderr=screen.slave,
        cwd=folder,
        env={"TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    try:
        yield screen, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        screen.close()


def finished(screen: Screen, process: subprocess.Popen[bytes]) -> int:
    """Read until the program has ended; its status."""
    end = time.monotonic() + TIMEOUT
    while process.poll() is None:
        assert time.monotonic() < end, "\n".join(screen.rows)
        screen.read()
    screen.read()
    return process.returncode
