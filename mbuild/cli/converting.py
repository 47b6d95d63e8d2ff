"""The options of converting a checkpoint, for every command that builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbuild.cli.common import read_limited
from mbuild.cli.quantizing import asked
from mbuild.convert.conversion import CONVERSION, Conversion
from mbuild.core.errors import SourceError, UsageError

if TYPE_CHECKING:
    from mbuild.build.converter import ForeignConverter
    from mbuild.store import Store

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def converting_options(command: CommandT) -> CommandT:
    """Add the options to a command, which gives its arguments to :func:`conversion_of`."""
    for option in reversed([*CONVERSION.values()]):
        command = asked(option)(command)
    return command


def converter_options(command: CommandT) -> CommandT:
    """Add the options that name another converter; see :func:`converter_of`."""
    python = click.option(
        "--converter-python",
        metavar="PYTHON",
        help="The Python that runs the converter  [default: python3]",
    )
    return click.option(
        "--converter",
        metavar="PATH",
        help="Convert checkpoints with the converter of this checkout of llama.cpp.",
    )(python(command))


def conversion_of(given: Mapping[str, Any]) -> Conversion:
    """What a command's arguments ask for; raises :class:`UsageError`."""
    values = {row.name: given[row.name] for row in CONVERSION.values()}
    path = values["metadata"]
    if isinstance(path, str):
        values["metadata"] = _read(path)
    return Conversion.parse(values)


def converter_of(given: Mapping[str, Any], store: Store) -> ForeignConverter | None:
    """The checkout of llama.cpp that a command names to convert with, if it does.

    Raises :class:`UsageError`, and :class:`MissingFileError` for a folder that is none.
    """
    path, python = given["converter"], given["converter_python"]
    if path is None:
        if python is not None:
            raise UsageError(
                "--converter-python has no effect without --converter",
                hint="add --converter PATH, or leave it out",
            )
        return None
    from mbuild.build.converter import find_converter

    return find_converter(path, python, store.private / "tmp")


def _read(path: str) -> str:
    """The text of a file of metadata; raises :class:`SourceError`."""
    try:
        return read_limited(Path(path), path).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}") from None
