"""``mbuild lock`` writes ``Modelfile.lock``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbuild.build.lock import ASKED, BuildLock
from mbuild.build.locked import Writing
from mbuild.cli.asking import (
    build_options,
    context_folder,
    from_stdin,
    progress_options,
    read_request,
)
from mbuild.cli.build import run
from mbuild.cli.common import sharing, write_file
from mbuild.cli.locked import asked_options, lock_path, read_lock
from mbuild.cli.progress import failures
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.language.stages.values import ALL

EPILOG = """\
\b
Examples:
  mbuild lock                        write ./Modelfile.lock
  mbuild lock -q q4_K_M -q q8_0      lock two variants
  mbuild lock -t mario               the same, and name the model
  mbuild build --locked -t mario     build exactly what is locked, or nothing
"""


@click.command("lock", epilog=EPILOG)
@build_options
@progress_options
@click.pass_context
def lock_command(ctx: click.Context, /, *, progress: str, quiet: bool, **options: Any) -> None:
    """Pin a build's inputs and results, by digest, in Modelfile.lock.

    The lock file lies beside the Modelfile and has the same name with .lock
    added. What is not built yet is built, so that the result is known; it gets a
    name only with -t. mbuild build --locked then builds what is locked,
    with the same options, and refuses anything else.
    """
    style = "quiet" if quiet else progress
    with failures(style):
        _lock(ctx, style, options)


def _lock(ctx: click.Context, style: str, options: dict[str, Any]) -> None:
    """Build what is asked for, and write down what it is made from and what came out."""
    named = bool(options["names"])
    stages = options["target"]
    each = ":{target}" if len(stages) > 1 or ALL in stages else ""
    called = _what_to_call(context_folder(options["folder"])).removesuffix(":latest") + each
    options["names"] = options["names"] or (called,)
    wanted, store = read_request(ctx, options, hash_files=True)
    wanted = wanted._replace(request=wanted.request._replace(named=named))
    path = lock_path(wanted.request.script, from_stdin(options["file"], options["folder"]))
    writing = Writing(wanted)
    with sharing(store, options):
        run(wanted._replace(gate=writing), store, style)
    if wanted.stages:
        writing.inputs[ASKED] = asked_options(ctx, options)
    text = BuildLock(writing.inputs, writing.results).to_text()
    same = read_lock(path) == text
    if not same:
        write_file(path, text)
    if style != "quiet":
        click.echo(f"{path} {'is up to date' if same else 'written'}", err=True)


def _what_to_call(folder: Path) -> str:
    """A build that is not named is called like its folder, if that is a name."""
    try:
        return str(ModelName.parse(folder.resolve().name))
    except InvalidNameError:
        return "unnamed"
