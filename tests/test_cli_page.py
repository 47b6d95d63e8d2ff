"""docs/cli.md holds what ``--help`` prints, command by command."""

from __future__ import annotations

import os

import click
from documents import DOCS

from mbuild.cli.main import COMMANDS, cli

PAGE = DOCS / "cli.md"
WIDTH = 80
INTRODUCTION = """\
# The command line

What `mbuild --help` and `mbuild COMMAND --help` print. A test compares this page with the
program; `MBUILD_WRITE_GOLDEN=1 pytest tests/test_cli_page.py` writes it again.
"""


def helps() -> str:
    """The page as it should be: each help text under a heading, at a fixed width."""
    group = click.Context(cli, info_name="mbuild", terminal_width=WIDTH, **cli.context_settings)
    parts = [INTRODUCTION, section("mbuild", cli.get_help(group))]
    for name in COMMANDS:
        command = cli.get_command(group, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=group, terminal_width=WIDTH)
        parts.append(section(f"mbuild {name}", command.get_help(context)))
    return "\n".join(parts)


def section(title: str, text: str) -> str:
    """One command's heading and help."""
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def test_the_page_is_what_help_prints() -> None:
    """docs/cli.md equals the help of every command in the table, to the last character."""
    if os.environ.get("MBUILD_WRITE_GOLDEN"):
        PAGE.write_text(helps(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == helps()
