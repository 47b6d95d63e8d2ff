"""The options of ``mbuild build`` that quantize, named as llama-quantize names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbuild.build.asked import types_asked
from mbuild.cli.common import read_limited
from mbuild.core.errors import SourceError, UsageError
from mbuild.quant.choose.options import OPTIONS, Option

if TYPE_CHECKING:
    from mbuild.quant.choose.types import FileType

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

RULES_FILE = "tensor_type_file"
"""The argument that names a file of rules; what is in it is the same as ``--tensor-type``."""


def asked(option: Option) -> Any:
    """The command line's way of asking for an option."""
    if not option.kind.metavar:
        return click.option(option.flag, is_flag=True, help=option.help)
    if option.choices:
        kind = click.Choice(option.choices)
        return click.option(option.flag, type=kind, default=option.default, help=option.help)
    metavar, repeats = option.kind.metavar, option.kind.repeats
    return click.option(option.flag, metavar=metavar, multiple=repeats, help=option.help)


def _all() -> Iterator[Any]:
    """Every option, in the order of ``--help``."""
    yield click.option(
        "-q",
        "--quantize",
        metavar="TYPE",
        multiple=True,
        help="Quantize, for example to q4_K_M; repeat it to build several models from one read.",
    )
    help_ = "Choose each tensor's type so that the file has at most this size, for example 4.2GB."
    yield click.option("--size", metavar="SIZE", multiple=True, help=help_)
    help_ = "The same for so many bits a weight, for example 4.6."
    yield click.option("--bpw", metavar="BITS", multiple=True, help=help_)
    for field, option in OPTIONS.items():
        yield asked(option)
        if field == "tensor_types":
            help_ = f"A file of {option.flag} rules."
            yield click.option("--tensor-type-file", metavar="FILE", help=help_)
    help_ = "Quantize the DRAFT model to TYPE."
    yield click.option("--draft-quantize", metavar="TYPE", help=help_)


def quantize_options(command: CommandT) -> CommandT:
    """Add the options to a command."""
    for option in reversed([*_all()]):
        command = option(command)
    return command


def file_type_of(text: str | None) -> FileType | None:
    """The file type that an option names, if it is given; raises :class:`UsageError`."""
    if not text:
        return None
    from mbuild.quant.choose.types import file_type

    return file_type(text)


def with_rules(given: Mapping[str, Any], *, staged: bool) -> Mapping[str, Any]:
    """A command's arguments with the rules of a file beside those of ``--tensor-type``.

    Raises :class:`UsageError` where nothing is quantized: a Modelfile with stages may say what is.
    """
    if not given[RULES_FILE]:
        return given
    if not (staged or types_asked(given)):
        raise UsageError(
            "--tensor-type-file has no effect without --quantize",
            hint="add --quantize TYPE, or leave --tensor-type-file out",
        )
    return {**given, "tensor_type": (*given["tensor_type"], *words_of(given[RULES_FILE]))}


def words_of(path: str) -> list[str]:
    """The rules in a file; raises :class:`SourceError` for one that cannot be read."""
    try:
        return read_limited(Path(path), path).decode().split()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}") from None
