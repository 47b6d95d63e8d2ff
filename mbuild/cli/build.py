"""``mbuild build``: what ``mbuild`` does when no subcommand is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.builder import PlannedStep, Request, build, dry_run, read_recipe
from mbuild.cli.common import TemplateType, human_size, open_store, store_option
from mbuild.cli.progress import renderer
from mbuild.cli.quantizing import distinct, quantizations, quantize_options, variant_names
from mbuild.context import LocalContext
from mbuild.errors import MissingFileError, SourceError, UsageError
from mbuild.names import InvalidNameError, ModelName
from mbuild.planner import Options
from mbuild.store.copying import OpenFile

if TYPE_CHECKING:
    from mbuild.steps import PlannedTensor

MAX_MODELFILE_BYTES = 16 << 20

EPILOG = """\
\b
Examples:
  mbuild -t mario
  mbuild build -f personas/mario.Modelfile -t mario -t mario:v2
  mbuild --dry-run -t mario
  mbuild -q q4_K_M -q q8_0 -t mario  two models: mario:q4_K_M and mario:q8_0
  mbuild --quiet -t mario            print only the model's id
"""


@dataclass(frozen=True, slots=True)
class _Modelfile:
    """A Modelfile's bytes, its name for messages, and the folder its paths start from."""

    data: bytes
    name: str
    folder: Path


@click.command("build", epilog=EPILOG)
@click.option("-f", "--file", metavar="FILE", help="The Modelfile; - for standard input.")
@click.option(
    "-t",
    "--tag",
    "names",
    metavar="NAME",
    multiple=True,
    type=TemplateType(),
    help="Name of the result, may be given several times  [default: the folder's name]."
    " {quant} in it stands for the quantization.",
)
@store_option
@quantize_options
@click.option("--no-cache", is_flag=True, help="Run every step, cached or not.")
@click.option("--dry-run", is_flag=True, help="Show which steps would run; write nothing.")
@click.option("--link", is_flag=True, help="Hard-link GGUF files: they must not be edited again.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "tty", "plain", "json", "quiet"]),
    default="auto",
    help="How to show what happens  [default: auto]",
)
@click.option("--quiet", is_flag=True, help="Print only the model's id.")
@click.option(
    "--outtype",
    type=click.Choice(["auto", "f32", "f16", "bf16", "q8_0"], case_sensitive=False),
    default="auto",
    help="Type of a converted checkpoint's matrices; auto keeps BF16 or F16  [default: auto]",
)
@click.option("--pre", metavar="NAME", help="A checkpoint's pre-tokenizer, if it is unknown.")
@click.argument("folder", metavar="[CONTEXT]", default=".", type=click.Path(path_type=Path))
@click.pass_context
def build_command(
    ctx: click.Context,
    /,
    *,
    file: str | None,
    names: tuple[str, ...],
    store: str | None,
    no_cache: bool,
    dry_run: bool,
    link: bool,
    progress: str,
    quiet: bool,
    outtype: str,
    pre: str | None,
    folder: Path,
    **quantizing: Any,
) -> None:
    """Build a model from a Modelfile.

    Without -f the Modelfile is CONTEXT/Modelfile. Its paths start from its own
    folder, those of a Modelfile from standard input from CONTEXT.
    """
    modelfile = _read_modelfile(file, folder)
    opened = open_store(ctx, store)
    recipe, warnings = read_recipe(modelfile.data, modelfile.name, opened)
    context = LocalContext(modelfile.folder, opened)
    quantizing["quantize"] = distinct(quantizing["quantize"])
    variants = variant_names(names, quantizing["quantize"], "" if names else _default_name(folder))
    quants = quantizations(context.named_file, **quantizing)
    request = Request(
        recipe,
        context,
        variants[0],
        Options(link, outtype.lower(), pre, quants),
        use_cache=not no_cache,
        warnings=warnings,
        variant_names=variants,
    )
    style = "quiet" if quiet else progress
    if dry_run:
        _show_plan(request.names[0], _rows(request, opened), style)
        return
    with renderer(style) as show:
        for event in build(request, opened):
            show(event)


_rows = dry_run


def _read_modelfile(file: str | None, folder: Path) -> _Modelfile:
    if file == "-":
        data = sys.stdin.buffer.read(MAX_MODELFILE_BYTES + 1)
        return _Modelfile(_limited(data, "standard input"), "standard input", folder)
    path = Path(file) if file else folder / "Modelfile"
    if not file and not path.exists():
        what = "no such folder" if not folder.is_dir() else "it has no Modelfile"
        raise MissingFileError(
            f"{folder}: {what}", hint="name one with -f FILE, or see mbuild --help"
        )
    try:
        with OpenFile.open(path, str(path)) as opened, open(opened.fd, "rb", closefd=False) as f:
            data = f.read(MAX_MODELFILE_BYTES + 1)
    except SourceError as error:
        raise type(error)(f"the Modelfile {error.message}", hint=error.hint) from None
    return _Modelfile(_limited(data, str(path)), str(path), path.parent)


def _limited(data: bytes, name: str) -> bytes:
    if len(data) > MAX_MODELFILE_BYTES:
        raise SourceError(f"{name} is larger than {MAX_MODELFILE_BYTES >> 20} MiB")
    return data


def _default_name(folder: Path) -> str:
    name = folder.resolve().name
    try:
        return str(ModelName.parse(name))
    except InvalidNameError:
        raise UsageError(
            f"the folder's name {name!r} is not a model's name", hint="give one with -t NAME"
        ) from None


def _show_plan(name: ModelName, rows: list[PlannedStep], style: str) -> None:
    """The steps of a dry run: cached or to run, with the bytes that will be written."""
    if style == "json":
        for row in rows:
            value: dict[str, Any] = {"step": row.label, "kind": row.kind, "cached": row.cached}
            if row.tensors:
                value["tensors"] = [tensor._asdict() for tensor in row.tensors]
            click.echo(json.dumps({**value, "writes": row.writes}))
        return
    for row in rows:
        size = "" if row.cached or row.writes is None else f"  {human_size(row.writes)}"
        click.echo(f"{'cached' if row.cached else 'run   '}  {row.label}{size}")
        _show_tensors(row.tensors)
    to_run = [row for row in rows if not row.cached]
    total = human_size(sum(row.writes or 0 for row in to_run))
    click.echo(f"{name}: {len(to_run)} steps to run, {len(rows) - len(to_run)} cached, {total}")


def _show_tensors(tensors: Sequence[PlannedTensor]) -> None:
    """A line for each tensor of a quantization: name, type before and after, new size."""
    width = max((len(tensor.name) for tensor in tensors), default=0)
    for name, before, after, size in tensors:
        types = f"{before} -> {after}" if after != before else before
        click.echo(f"          {name:<{width}}  {types:<16}  {human_size(size):>9}")
