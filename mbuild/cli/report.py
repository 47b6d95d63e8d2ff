"""``mbuild report``: a page about one build."""

from __future__ import annotations

from pathlib import Path

import click

from mbuild.cli.common import open_store, store_option, write_output
from mbuild.core.errors import NameNotFoundError, UsageError

EPILOG = """\
\b
Examples:
  mbuild report                      the last build, to ./build-ID.html
  mbuild report mario                the last build of that model
  mbuild report 6543f0a1 -o mario.html
  mbuild report -o - > last.html
"""


@click.command("report", epilog=EPILOG)
@click.argument("build", metavar="[BUILD]", required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write it; - for standard output  [default: build-ID.html]",
)
@store_option
@click.pass_context
def report_command(
    ctx: click.Context, /, *, build: str | None, output: Path | None, store: str | None
) -> None:
    """Write one HTML page about a build: the last one, or the one that BUILD names.

    BUILD is a build's id or the beginning of it, or a model's name, which means
    its last build.

    The page shows what was built, the graph, when each step ran and why, the layers and which
    other models share them, tensor types and sizes, parameters and texts. It
    is complete in itself: it has no scripts and loads nothing from the network.
    """
    if output is not None and output.suffix.lower() in (".pdf", ".png", ".md", ".json"):
        hint = "name a file that ends in .html; a browser prints it as PDF"
        raise UsageError(f"{output}: the page is an HTML file", hint=hint)
    from mbuild.build.history import History
    from mbuild.cli.history import find_build
    from mbuild.view.report.page import page

    opened = open_store(ctx, store)
    history = History(opened)
    record = find_build(history, build) if build else next(history.newest_first(), None)
    if record is None:
        raise NameNotFoundError(
            "nothing was built in this store yet", hint="build a model first: mbuild -t NAME"
        )
    path = output or Path(f"build-{record.id}.html")
    write_output(path, page(record, opened))
    if str(path) != "-":
        click.echo(str(path))
