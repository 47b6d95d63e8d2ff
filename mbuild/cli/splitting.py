"""The options that say in which files weights are kept, and which halves of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mbuild.build.splitting import HALVES, SPLITTING, Halves, Splitting
from mbuild.cli.quantizing import asked

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def splitting_options(command: CommandT) -> CommandT:
    """Add the options to a command, which gives its arguments to :func:`splitting_of`."""
    for option in reversed([*SPLITTING.values()]):
        command = asked(option)(command)
    return command


def halves_options(command: CommandT) -> CommandT:
    """Add those about a checkpoint's encoders, for :func:`halves_of`."""
    for option in reversed([*HALVES.values()]):
        command = asked(option)(command)
    return command


def halves_of(given: Mapping[str, Any]) -> Halves:
    """What a command's arguments ask for; raises :class:`UsageError`."""
    return Halves.parse({row.name: given[row.name] for row in HALVES.values()})


def cutting_options(command: CommandT) -> CommandT:
    """Add those that say where to cut: all but the one that keeps a source's files."""
    for field in ("layers", "size"):
        command = asked(SPLITTING[field])(command)
    return command


def splitting_of(given: Mapping[str, Any]) -> Splitting | None:
    """What a command's arguments ask for; raises :class:`UsageError`."""
    return Splitting.parse({row.name: given[row.name] for row in SPLITTING.values()})
