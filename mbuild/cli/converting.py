"""The options of converting a checkpoint, for every command that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mbuild.cli.quantizing import asked
from mbuild.convert.options import CONVERSION, Conversion

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def converting_options(command: CommandT) -> CommandT:
    """Add the options to a command, which gives its arguments to :func:`conversion_of`."""
    for option in reversed([*CONVERSION.values()]):
        command = asked(option)(command)
    return command


def conversion_of(given: Mapping[str, Any]) -> Conversion:
    """What a command's arguments ask for; raises :class:`UsageError`."""
    return Conversion.parse({row.name: given[row.name] for row in CONVERSION.values()})
