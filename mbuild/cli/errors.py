"""What goes wrong, as whoever sits there reads it: on standard error, in colors, as wide as it is.

Loaded only then.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress

import click

from mbuild.cli.common import color_on, columns_of, harmless
from mbuild.core.errors import MbuildError, ModelfileError


def show_error(error: MbuildError) -> None:
    """Write an error to standard error: what, where, and what to do about it."""
    if isinstance(error, ModelfileError):
        say("\n".join(problem.render() for problem in error.problems))
    elif error.problem is not None:
        say(error.problem.render())
    else:
        say(f"error: {error.message}")
        if error.hint:
            say(f"  hint: {error.hint}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from mbuild.cli.endings import workflow_commands

        say("\n".join(workflow_commands(error)))


def say(text: str) -> None:
    """A message on standard error, safe on a terminal; nobody may be there to read it."""
    text = harmless(text)
    columns = columns_of(sys.stderr)
    if columns and any(len(line) > columns for line in text.splitlines()):
        from mbuild.cli.screen import narrowed

        text = narrowed(text, columns)
    color = color_on(sys.stderr)
    if color:
        for pattern, code in _COLORS:
            text = re.sub(pattern, f"\\1\x1b[{code}m\\2\x1b[0m", text, flags=re.MULTILINE)
    with suppress(OSError):
        click.echo(text, err=True, color=color)


_COLORS = (
    (r"^()([Ee]rror:)", "1;31"),
    (r"^()(warning:)", "1;33"),
    (r"^(  )(hint:)", "36"),
    (r"^(  )(--> .*)$", "2"),
    (r"^( *\|\s+)(\^+)$", "1;31"),
)
"""What is painted in messages: the word that begins a line, the place, and the caret."""
