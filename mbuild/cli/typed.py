"""What people type to a model: texts of a line or several, and the lines of earlier talks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from mbuild.core.errors import Terminated

if TYPE_CHECKING:
    from pathlib import Path

FILE = "typed"
"""The file of typed lines, in the store's folder of mbuild's own files."""

NO_HISTORY_VARIABLE = "OLLAMA_NOHISTORY"
_KEPT = 1000  # lines


@contextmanager
def kept_lines(path: Path) -> Iterator[None]:
    """Let ``input`` edit lines, and bring earlier ones back with the arrow keys, also later.

    Only the user can read the file. Nothing is kept where Python has no readline.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    if os.environ.get(NO_HISTORY_VARIABLE, "") not in ("", "0", "false"):
        yield
        return
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.set_history_length(_KEPT)
            readline.write_history_file(path)


def typed_text() -> str | None:
    """A text that was typed, perhaps of several lines; None at the end."""
    try:
        line = input(">>> ")
        if not line.startswith('"""'):
            return line
        lines = [line.removeprefix('"""')]
        while not lines[-1].endswith('"""'):
            lines.append(input("... "))
        return "\n".join(lines).removesuffix('"""')
    except EOFError:
        click.echo()
        return None
    except Terminated:
        raise
    except KeyboardInterrupt:
        click.echo("\n/bye ends")
        return ""
