"""``measure`` and ``imatrix``: what a text does in a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mbuild.cli.common import (
    NameType,
    format_option,
    modelfile_option,
    open_store,
    printable,
    store_option,
)
from mbuild.cli.meter import meter, table
from mbuild.core.errors import UsageError

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.models.measured import Bound, Measured
    from mbuild.runtime.statistics.jobs import Progress
    from mbuild.store import Store

ResultT = TypeVar("ResultT")
FILE = click.Path(path_type=Path)

MEASURE_EPILOG = """\
\b
Examples:
  mbuild measure mario:q4 --text held-out.txt
  mbuild measure mario:q4 --against mario:f16 --text held-out.txt --check "kld < 0.05"
  mbuild measure mario:q4 --tensors     each tensor's error, without an engine
"""


@click.command("measure", epilog=MEASURE_EPILOG)
@click.argument("name", metavar="NAME", type=NameType())
@click.option(
    "--text", metavar="FILE", type=FILE, help="The text to predict; - for standard input."
)
@click.option(
    "--against", metavar="NAME", type=NameType(), help="The model to compare with, for kld."
)
@click.option(
    "--tensors",
    is_flag=True,
    help="Compare every tensor with what it was quantized from; nothing is run.",
)
@modelfile_option("With --tensors: the Modelfile that the model is from.")
@click.option(
    "--chunks",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Use only so many chunks of 512 tokens  [default: all]",
)
@click.option(
    "--check",
    "checks",
    metavar="'METRIC < X'",
    multiple=True,
    help="Fail unless perplexity, kld, kld99 or same_top is within the bound.",
)
@store_option
@format_option
@click.pass_context
def measure_command(
    ctx: click.Context,
    /,
    *,
    name: ModelName,
    text: Path | None,
    against: ModelName | None,
    tensors: bool,
    file: str | None,
    chunks: int,
    checks: tuple[str, ...],
    store: str | None,
    style: str,
) -> int:
    """Measure how well a model predicts a text, and how far it is from another one.

    Perplexity is llama-perplexity's; kld is the mean Kullback-Leibler divergence, kld99 its
    99th percentile, same_top how often the most likely token is the same. What was measured
    once is remembered. Adapters are not applied.

    With --tensors the error of each tensor is its relative RMS error against the source, which
    has to be there still: as the history says that the model was built, or as -f does.
    """
    from mbuild.models.measured import Bound, measure
    from mbuild.work.cores import cores

    opened = open_store(ctx, store)
    if tensors:
        if text or against or checks or chunks:
            raise UsageError("--tensors runs nothing: it takes no text, no other model, no check")
        return _show_tensors(opened, name, file, style)
    if text is None:
        raise UsageError("there is no text", hint="name one with --text FILE, or say --tensors")
    gates = [Bound.parse(check, compares=against is not None) for check in checks]
    text, given = _text(text)
    work = measure(opened, name, against, text, chunks, cores(), given=given)
    found, cached = _followed(work, "measuring")
    failed = [gate for gate in gates if not gate.passes(found.value(gate.metric))]
    if style == "json":
        shown = {key: value for key, value in found._asdict().items() if value is not None}
        passed = {"checks": [_json_of(gate, found) for gate in gates]} if gates else {}
        click.echo(json.dumps({**shown, "cached": cached, **passed}, indent=2))
    else:
        click.echo("\n".join(_lines(found)))
    for gate in failed:
        value = found.value(gate.metric)
        wanted = f"{gate.metric} {gate.relation} {gate.bound:g}"
        click.echo(f"error: the check {wanted} fails: it is {value:.6g}", err=True)
    return 1 if failed else 0


def _show_tensors(store: Store, name: ModelName, file: str | None, style: str) -> int:
    """Each tensor's error, in the order of the file, and what they come to."""
    from mbuild.cli.rebuild import how_built
    from mbuild.models.comparing import compare_with_source
    from mbuild.models.library import find

    stored = find(store, name)
    work = compare_with_source(how_built(store, stored, file), stored, store)
    found = _followed(work, "comparing")
    if style == "json":
        rows = [
            dict(zip(("name", "before", "after", "error"), row, strict=True))
            for row in found["tensors"]
        ]
        click.echo(json.dumps({**found, "tensors": rows}, indent=2))
        return 0
    rows_shown = [("NAME", "TYPE", "ERROR")]
    rows_shown += ((n, f"{b} -> {a}", f"{e:.5f}") for n, b, a, e in found["tensors"])
    summary = f"largest      {found['error']:.5f} of {found['tensor']}"
    lines = [*table(rows_shown), "", summary, f"mean         {found['mean_error']:.5f}"]
    click.echo("\n".join(map(printable, lines)))
    return 0


def _json_of(gate: Bound, found: Measured) -> dict[str, Any]:
    value = found.value(gate.metric)
    return {**gate._asdict(), "value": value, "passed": gate.passes(value)}


def _lines(found: Measured) -> list[str]:
    lines = [f"perplexity   {found.perplexity:.4f} +- {found.perplexity_error:.4f}"]
    if found.mean_kld is not None:
        lines += [
            f"of the other {found.base_perplexity:.4f}",
            f"mean kld     {found.mean_kld:.6f} +- {found.mean_kld_error:.6f}",
            f"99 % kld     {found.kld_99:.6f}",
            f"largest kld  {found.max_kld:.6f}",
            f"same top     {100 * (found.same_top or 0):.2f} %",
        ]
    return [*lines, f"positions    {found.positions}"]


IMATRIX_EPILOG = """\
\b
Examples:
  mbuild imatrix mario:f16 --text calibration.txt -o mario.imatrix.gguf
  mbuild -q iq2_xs --imatrix mario.imatrix.gguf -t mario:iq2
"""


@click.command("imatrix", epilog=IMATRIX_EPILOG)
@click.argument("name", metavar="NAME", type=NameType())
@click.option(
    "--text",
    metavar="FILE",
    type=FILE,
    required=True,
    help="The calibration text; - for standard input.",
)
@click.option("-o", "--output", metavar="FILE", type=FILE, required=True, help="The file to write.")
@click.option(
    "--chunks",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Use only so many chunks of 512 tokens  [default: all]",
)
@click.option("--parse-special", is_flag=True, help="Take special tokens in the text as such.")
@store_option
@click.pass_context
def imatrix_command(
    ctx: click.Context,
    /,
    *,
    name: ModelName,
    text: Path,
    output: Path,
    chunks: int,
    parse_special: bool,
    store: str | None,
) -> None:
    """Compute an importance matrix: which columns of the weights a text needs most.

    The rules are llama-imatrix', the file is one that llama-quantize and --imatrix read. It is
    not computed again while model, text and engine are the same.
    """
    from mbuild.models.measured import make_imatrix
    from mbuild.work.cores import cores

    opened = open_store(ctx, store)
    text, given = _text(text)
    work = make_imatrix(
        opened, name, text, output, chunks, cores(), special=parse_special, given=given
    )
    made = _followed(work, "computing importances")
    for weight, experts in made.unseen.items():
        numbers = ", ".join(map(str, experts[:8])) + (", ..." if len(experts) > 8 else "")
        click.echo(f"warning: the text never reached experts {numbers} of {weight}", err=True)
    state = "is up to date" if made.cached else "written"
    click.echo(f"{output} {state}: {made.tensors} tensors, {made.chunks} chunks", err=True)


def _text(path: Path) -> tuple[Path, bytes | None]:
    """Where a text lies; for ``-`` what to call it, and what came from standard input."""
    if str(path) != "-":
        return path, None
    from mbuild.runtime.statistics.texts import MAX_TEXT

    return Path("standard input"), sys.stdin.buffer.read(MAX_TEXT + 1)


def _followed(work: Generator[Progress, None, ResultT], label: str) -> ResultT:
    """The work's result; on a terminal a bar of its chunks."""
    with meter(label) as show:
        while True:
            try:
                progress = next(work)
            except StopIteration as ended:
                result: ResultT = ended.value
                return result
            show(progress.done, progress.total)
