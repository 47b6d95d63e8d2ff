"""``mbuild graph``: the steps of a build as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbuild.cli.asking import build_options, read_request
from mbuild.cli.common import open_store, sharing, write_output
from mbuild.core.errors import UsageError

if TYPE_CHECKING:
    from mbuild.view.picture import Picture

EPILOG = """\
\b
Examples:
  mbuild graph -t mario -o mario.svg
  mbuild graph -q q4_K_M -q q8_0 -t mario --format mermaid
  mbuild graph --format dot --build 6543f0a1 | dot -Tpdf -o build.pdf
"""


@click.command("graph", epilog=EPILOG)
@build_options
@click.option(
    "--format",
    "style",
    type=click.Choice(["svg", "mermaid", "dot"]),
    help="SVG, Mermaid's flowchart, or Graphviz's DOT  [default: as FILE ends, else svg]",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it to FILE."
)
@click.option("--build", metavar="BUILD", help="Draw a past build, by its id or its model's name.")
@click.pass_context
def graph_command(
    ctx: click.Context,
    /,
    *,
    style: str | None,
    output: Path | None,
    build: str | None,
    **options: Any,
) -> None:
    """Draw the graph of a build: what is cached, what will run, sizes and times.

    It shows what a build would do, as mbuild plan does, or with --build a past
    build. Without -o it is written to standard output.
    """
    style = _style(style, output)
    picture = _past(ctx, build, options) if build is not None else _planned(ctx, options)
    write_output(output, _written(picture, style))


_ENDS = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot"}
_ELSEWHERE = (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".html")


def _style(style: str | None, output: Path | None) -> str:
    """What is written; raises :class:`UsageError` for a file that is named as something else."""
    suffix = output.suffix.lower() if output is not None else ""
    means = _ENDS.get(suffix, "")
    if suffix in _ELSEWHERE or (style and means and means != style):
        what = style or "svg"
        hint = f"name a file that ends so: {next(end for end, it in _ENDS.items() if it == what)}"
        if suffix in (".png", ".pdf"):
            hint += f"; mbuild graph --format dot | dot -T{suffix[1:]} makes a {suffix}"
        raise UsageError(f"{output}: a picture in {what} is no {suffix} file", hint=hint)
    return style or means or "svg"


def _planned(ctx: click.Context, options: dict[str, Any]) -> Picture:
    from mbuild.build.forecast import forecast
    from mbuild.view.report import picture_of_plan

    wanted, store = read_request(ctx, options)
    with sharing(store, options):
        return picture_of_plan(forecast(wanted, store))


def _past(ctx: click.Context, build: str, options: dict[str, Any]) -> Picture:
    """The picture of a build of the log; what else is asked for would have no effect on it."""
    from mbuild.build.history import History
    from mbuild.cli.history import find_build
    from mbuild.view.report import picture_of_build

    for name in options.keys() - {"store"}:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--build draws a past build: {_written_as(ctx, name)} says what to build",
                hint="leave one out",
            )
    return picture_of_build(find_build(History(open_store(ctx, options["store"])), build))


def _written_as(ctx: click.Context, name: str) -> str:
    """What a parameter is called on the command line."""
    found = next(p for p in ctx.command.params if p.name == name)
    return found.opts[-1] if isinstance(found, click.Option) else str(found.metavar)


def _written(picture: Picture, style: str) -> str:
    if style == "mermaid":
        from mbuild.view.picture.mermaid import mermaid

        return mermaid(picture)
    if style == "dot":
        from mbuild.view.picture.dot import dot

        return dot(picture)
    from mbuild.view.picture.svg import svg

    return svg(picture)
