"""``mbuild build``: what ``mbuild`` does when no subcommand is named."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.build.build import build
from mbuild.build.prepare import Build, check_unasked_names
from mbuild.build.request import BuildRequest
from mbuild.cli.asking import (
    build_options,
    context_folder,
    from_stdin,
    progress_options,
    read_request,
)
from mbuild.cli.common import (
    QuickCommand,
    sharing,
)
from mbuild.cli.progress import failures, follow
from mbuild.core.errors import UsageError
from mbuild.core.events import BuildEvent, BuildFinished, ModelBuilt, StepFinished

if TYPE_CHECKING:
    from mbuild.store import Store


EPILOG = """\
\b
Examples:
  mbuild -t mario
  mbuild build -f personas/mario.Modelfile -t mario -t mario:v2
  mbuild --dry-run -t mario
  mbuild --locked -t mario           what mbuild lock wrote down, or nothing
  mbuild -q q4_K_M -q q8_0 -t mario  two models: mario:q4_K_M and mario:q8_0
  mbuild --quiet -t mario            print only the model's id
"""


@click.command("build", cls=QuickCommand, epilog=EPILOG)
@build_options
@click.option("--dry-run", is_flag=True, help="Show which steps would run; write nothing.")
@click.option(
    "--locked",
    is_flag=True,
    help="Build exactly what Modelfile.lock says, with its options, or fail.",
)
@click.option(
    "--part",
    metavar="I/N",
    help="Make only this share of the pieces, for --cache-to; name nothing.",
)
@click.option(
    "--on", metavar="WORKERS", help="Let others compute: local:N processes, or dask://HOST:8786."
)
@progress_options
@click.option(
    "--verbose",
    is_flag=True,
    help="Say at the end what the build waited for: the cores, a digest or the disk.",
)
@click.pass_context
def build_command(
    ctx: click.Context,
    /,
    *,
    dry_run: bool,
    locked: bool,
    part: str | None,
    on: str | None,
    progress: str,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Build a model from a Modelfile.

    Without -f the Modelfile is CONTEXT/Modelfile. Its paths start from CONTEXT,
    as for docker build, or from the Modelfile's own folder where no CONTEXT is
    given, as for ollama create. With - as CONTEXT the Modelfile is read from
    standard input, and its paths start from the current folder.
    """
    style = "quiet" if quiet else progress
    with failures(style):
        wanted, store = _wanted(ctx, options, locked=locked)
        with sharing(store, options):
            if dry_run:
                from mbuild.build.forecast import forecast
                from mbuild.cli.preview import show_steps

                show_steps(forecast(wanted, store), "json" if style == "json" else "text")
            elif part is not None:
                from mbuild.build.parts import BuildPart, make_part

                if on is not None:
                    raise UsageError(
                        "--part and --on cannot be combined",
                        hint="a part computes where it is started",
                    )
                follow(make_part(wanted, store, BuildPart.parse(part)), style)
            elif on is not None:
                from mbuild.work.pools import open_pool

                with open_pool(on) as pool:
                    run(wanted._replace(pool=pool), store, style, verbose=verbose)
            else:
                run(wanted, store, style, verbose=verbose)


def _wanted(ctx: click.Context, options: Mapping[str, Any], *, locked: bool) -> tuple[Build, Store]:
    """What is asked for; with ``locked`` what the lock file says, held to it."""
    stdin = from_stdin(options["file"], options["folder"])
    if locked and not stdin:
        from mbuild.cli.locked import with_locked_options

        modelfile = Path(options["file"] or context_folder(options["folder"]) / "Modelfile")
        options = with_locked_options(ctx, options, modelfile)
    wanted, store = read_request(ctx, options, hash_files=locked)
    if not options["names"]:
        check_unasked_names(wanted.request, store)
    if locked:
        from mbuild.cli.locked import hold_to_lock

        wanted = hold_to_lock(wanted, store, stdin=stdin)
    return wanted, store


def run(wanted: Build, store: Store, style: str, *, verbose: bool = False) -> None:
    """Build, showing it; raises what the build raises, and :class:`Interrupted` for a signal.

    ``verbose``: and say at the end what it waited for.
    """
    names: list[str] = []
    waited: list[Mapping[str, float]] = []
    try:
        follow(_watched(build(wanted, store), wanted.request, store, names, waited), style)
        if verbose:
            from mbuild.cli.wording import waited_for
            from mbuild.work.limits import added

            click.echo(waited_for(added(waited)), err=True)
    except KeyboardInterrupt:
        from mbuild.cli.endings import interrupted

        raise interrupted(store, names) from None


def _watched(
    events: Generator[BuildEvent, None, None],
    request: BuildRequest,
    store: Store,
    names: list[str],
    waited: list[Mapping[str, float]],
) -> Generator[BuildEvent, None, None]:
    """The events, and a note at the end.

    ``names`` fills with the models that are there, ``waited`` with what steps waited for.
    """
    with closing(events):
        for event in events:
            if isinstance(event, StepFinished):
                waited.append(event.limits)
            elif isinstance(event, ModelBuilt):
                names.append(event.name)
            elif isinstance(event, BuildFinished) and len(request.targets) > 1:
                from mbuild.cli.endings import left_behind

                yield from left_behind(request, store)
            yield event
