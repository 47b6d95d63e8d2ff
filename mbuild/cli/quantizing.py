"""The options of ``mbuild build`` that quantize, named as llama-quantize names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from mbuild.build.sources.values import SourceFile
from mbuild.build.steps import Quantization
from mbuild.cli.common import read_limited
from mbuild.core.errors import SourceError, UsageError
from mbuild.core.names import DEFAULT_TAG, ModelName

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "-q",
        "--quantize",
        metavar="TYPE",
        multiple=True,
        help="Quantize, for example to q4_K_M; repeat it to build several models from one read.",
    ),
    click.option(
        "--recipe",
        type=click.Choice(["llama.cpp", "ollama"]),
        default="llama.cpp",
        help="Whose rules choose each tensor's type  [default: llama.cpp]",
    ),
    click.option("--imatrix", metavar="FILE", help="Importance matrix (GGUF or the old format)."),
    click.option(
        "--pure",
        is_flag=True,
        help="Use one type for all tensors except those that --tensor-type matches.",
    ),
    click.option("--leave-output-tensor", is_flag=True, help="Do not quantize output.weight."),
    click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight."),
    click.option("--token-embedding-type", metavar="TYPE", help="Type of token_embd.weight."),
    click.option(
        "--tensor-type",
        metavar="REGEX=TYPE",
        multiple=True,
        help="Type of the tensors whose name matches; the first match counts.",
    ),
    click.option("--tensor-type-file", metavar="FILE", help="A file of --tensor-type rules."),
    click.option(
        "--allow-requantize", is_flag=True, help="Requantize tensors that are already quantized."
    ),
    click.option("--draft-quantize", metavar="TYPE", help="Quantize the DRAFT model to TYPE."),
)
"""All of them, in the order of ``--help``."""


def quantize_options(command: CommandT) -> CommandT:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def defaults() -> dict[str, Any]:
    """What each option is when it is not given, by its name in a command's arguments."""

    command = quantize_options(click.Command("options"))
    return dict(command.make_context("options", []).params)


def distinct(quantize: Sequence[str]) -> tuple[str, ...]:
    """The types that -q names, each once in its first spelling: ``Q8_0`` is ``q8_0``.

    Raises :class:`UsageError` for unknown ones.
    """
    if not quantize:
        return ()
    from mbuild.quant.choose.types import file_type

    spelled: dict[str, str] = {}
    for text in quantize:
        spelled.setdefault(file_type(text).name, text)
    return tuple(spelled.values())


def file_type_name(text: str) -> str:
    """``Q4_K_M`` for any spelling of it; raises :class:`UsageError`."""
    from mbuild.quant.choose.types import file_type

    return file_type(text).name


def spelled(name: str) -> str:
    """A file type as people and tags spell it: ``q4_K_M`` for ``Q4_K_M``, ``bf16`` for ``BF16``."""
    letters = len(name) - len(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return name[:letters].lower() + name[letters:]


def quantizations(
    find: Callable[[str, str], SourceFile], *, quantize: Sequence[str], **options: Any
) -> tuple[Quantization, ...]:
    """What the options ask for; ``find(path, name)`` looks at the imatrix's file.

    Raises :class:`UsageError` for unknown types and for options without -q.
    """
    if not quantize:
        given = [name for name, value in options.items() if value and value != "llama.cpp"]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} has no effect without --quantize")
        return ()
    from mbuild.quant.choose.recipes import parse_tensor_type, parse_tensor_types
    from mbuild.quant.choose.types import file_type

    rules = [parse_tensor_type(text) for text in options["tensor_type"]]
    if options["tensor_type_file"]:
        rules += parse_tensor_types(_text(options["tensor_type_file"]))
    imatrix = options["imatrix"]
    made = Quantization(
        "",
        options["recipe"],
        options["pure"],
        options["leave_output_tensor"],
        options["output_tensor_type"],
        options["token_embedding_type"],
        tuple((pattern, type_.name) for pattern, type_ in rules),
        options["allow_requantize"],
        find(imatrix, imatrix) if imatrix else None,
    )
    made.options()  # raises for types that nobody knows
    return tuple(made._replace(file_type=file_type(text).name) for text in quantize)


def draft_quantization(text: str | None) -> Quantization | None:
    """What ``--draft-quantize`` asks for; raises :class:`UsageError` for an unknown type."""
    if not text:
        return None
    from mbuild.quant.choose.types import file_type

    return Quantization(file_type(text).name)


def _text(path: str) -> str:
    try:
        return read_limited(Path(path), path).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {error}") from None


def variant_names(
    names: Sequence[str], quantize: Sequence[str], default: str
) -> tuple[tuple[ModelName, ...], ...]:
    """The names of each variant: ``{quant}`` filled in, or the type as the tag.

    One variant keeps its name; a tag that several would share gets the type
    appended: ``mario:v2`` becomes ``mario:v2-q4_K_M``.
    """
    if not quantize and any("{quant}" in name for name in names):
        raise UsageError("{quant} in a name stands for a type, but there is no --quantize")
    return tuple(
        tuple(_variant_name(name, quant, len(quantize)) for name in names or (default,))
        for quant in quantize or ("",)
    )


def _variant_name(name: str, quant: str, count: int) -> ModelName:
    if "{quant}" in name:
        return ModelName.parse(name.replace("{quant}", quant))
    parsed = ModelName.parse(name)
    if count < 2:
        return parsed
    tag = quant if parsed.tag == DEFAULT_TAG else f"{parsed.tag}-{quant}"
    return parsed._replace(tag=tag)
