"""The options of ``mbuild build`` that quantize, named as llama-quantize names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbuild.build.request import Target
from mbuild.cli.common import model_name, read_limited
from mbuild.core.errors import SourceError, UsageError
from mbuild.core.names import DEFAULT_TAG, ModelName
from mbuild.core.units import parse_size
from mbuild.quant.choose.options import OPTIONS, Option, Quantization

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


def targets(
    names: Sequence[str], default: Callable[[], str], given: Mapping[str, Any]
) -> tuple[Target, ...]:
    """The models that a command line asks for: ``-t`` and the options of :func:`quantize_options`.

    ``default`` is asked for a name where there is no ``-t``. Raises :class:`UsageError` for
    unknown types, for options without ``-q``, and for names that cannot be.
    """
    options = {row.name: given[row.name] for row in OPTIONS.values()}
    types = distinct(types_asked(given))
    if any("{target}" in name for name in names):
        raise UsageError(
            "{target} in a name stands for a stage, but this Modelfile has none",
            hint="make # syntax=mbuild/1 its first line, and name stages: FROM ... AS NAME",
        )
    if not types:
        said = [row.flag for row in OPTIONS.values() if says(row, options[row.name])]
        said += ["--tensor-type-file"] if given[RULES_FILE] else []
        if said:
            raise UsageError(
                f"{said[0]} has no effect without --quantize",
                hint=f"add --quantize TYPE, or leave {said[0]} out",
            )
    elif given[RULES_FILE]:
        options["tensor_type"] = (*options["tensor_type"], *words_of(given[RULES_FILE]))
    wanted = names or (default(),)
    named = variant_names(wanted, types)
    if not types:
        return (Target(named[0]),)
    quantizations = (Quantization.parse(type_, options) for type_ in types)
    return tuple(Target(*pair) for pair in zip(named, quantizations, strict=True))


def types_asked(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that -q names, and those that --size and --bpw stand for."""
    bits = (f"{text.strip()}bpw" for text in given["bpw"])
    return (*given["quantize"], *map(_size_asked, given["size"]), *bits)


def _size_asked(text: str) -> str:
    """A size with its unit; raises :class:`UsageError` for what is none."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    return text if text.strip()[-1:].isalpha() else f"{size}B"


def says(option: Option, value: Any) -> bool:
    """Whether a value is not that of an option which was not given."""
    return bool(value) and value != option.default


def distinct(quantize: Sequence[str]) -> tuple[str, ...]:
    """The types that -q names, each once in its first spelling: ``Q8_0`` is ``q8_0``.

    Raises :class:`UsageError` for unknown ones.
    """
    if not quantize:
        return ()
    from mbuild.quant.choose.types import file_type

    first: dict[str, str] = {}
    for text in quantize:
        first.setdefault(file_type(text).name, text)
    return tuple(first.values())


def file_type_of(text: str | None) -> FileType | None:
    """The file type that an option names, if it is given; raises :class:`UsageError`."""
    if not text:
        return None
    from mbuild.quant.choose.types import file_type

    return file_type(text)


def words_of(path: str) -> list[str]:
    """The rules in a file; raises :class:`SourceError` for one that cannot be read."""
    try:
        return read_limited(Path(path), path).decode().split()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}") from None


def variant_names(
    names: Sequence[str], quantize: Sequence[str]
) -> tuple[tuple[ModelName, ...], ...]:
    """The names of each variant: ``{quant}`` filled in, or the type as the tag.

    One variant keeps its name; a tag that several would share gets the type
    appended: ``mario:v2`` becomes ``mario:v2-q4_K_M``.
    """
    if not quantize and any("{quant}" in name for name in names):
        raise UsageError(
            "{quant} in a name stands for a type, but there is no --quantize",
            hint="add --quantize TYPE, or give a name without {quant}",
        )
    return tuple(
        tuple(variant_name(name, quant, len(quantize)) for name in names)
        for quant in quantize or ("",)
    )


def variant_name(name: str, quant: str, count: int) -> ModelName:
    """The name of one of ``count`` variants."""
    if "{quant}" in name:
        return model_name(name.replace("{quant}", quant))
    parsed = model_name(name)
    if count < 2:
        return parsed
    tag = quant if parsed.tag == DEFAULT_TAG else f"{parsed.tag}-{quant}"
    return parsed._replace(tag=tag)
