"""The options of converting a checkpoint, for every command that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mbuild.cli.common import read_limited
from mbuild.cli.quantizing import asked
from mbuild.convert.options import CONVERSION, Conversion
from mbuild.core.errors import SourceError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def converting_options(command: CommandT) -> CommandT:
    """Add the options to a command, which gives its arguments to :func:`conversion_of`."""
    for option in reversed([*CONVERSION.values()]):
        command = asked(option)(command)
    return command


def conversion_of(given: Mapping[str, Any]) -> Conversion:
    """What a command's arguments ask for; raises :class:`UsageError`."""
    values = {row.name: given[row.name] for row in CONVERSION.values()}
    path = values["metadata"]
    if isinstance(path, str):
        values["metadata"] = _read(path)
    return Conversion.parse(values)


def _read(path: str) -> str:
    """The text of a file of metadata; raises :class:`SourceError`."""
    try:
        return read_limited(Path(path), path).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}") from None
