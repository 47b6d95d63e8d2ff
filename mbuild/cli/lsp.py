"""``mbuild lsp``: what an editor starts to write Modelfiles in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout

import click

from mbuild.cli.common import open_store, store_option
from mbuild.core.errors import UsageError

EPILOG = """\
\b
Editors start it; docs/editors.md says how. It needs the extra lsp:
  pip install 'mbuild-models[lsp]'

\b
Examples:
  mbuild lsp
  mbuild lsp --build-arg BITS=q4_K_M
"""


@click.command("lsp", epilog=EPILOG)
@store_option
@click.option(
    "--build-arg", metavar="NAME=VALUE", multiple=True, help="The value of an ARG of the Modelfile."
)
@click.option(
    "--stdio", is_flag=True, help="Talk over standard input and output, as it does anyway."
)
@click.pass_context
def lsp_command(
    ctx: click.Context, /, *, store: str | None, build_arg: tuple[str, ...], stdio: bool
) -> None:
    """Answer an editor about Modelfiles: the Language Server Protocol.

    Standard input and output are the editor's.
    """
    try:
        from mbuild.editor.server import make_server
    except ModuleNotFoundError as error:
        raise UsageError(
            f"mbuild lsp needs the package {(error.name or '').partition('.')[0]}",
            hint="pip install 'mbuild-models[lsp]'",
        ) from None
    from mbuild.build.staged import arguments_of

    def models() -> Iterable[str]:
        opened = open_store(ctx, store)
        return [str(name) for name in opened.manifests.names()] if opened.root.is_dir() else []

    # The editor's stream is closed in the end; whatever else is printed would disturb it.
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with redirect_stdout(sys.stderr):
        make_server(arguments_of(build_arg), models).start_io(stdout=stream)
