"""``mbuild history``: what was built, when, how long it took, and why."""

from __future__ import annotations

import json
from itertools import islice

import click

from mbuild.cli.common import human_size, open_store, store_option
from mbuild.cli.plan import format_option
from mbuild.errors import NameNotFoundError, UsageError
from mbuild.history import BuildRecord, History, StepRecord
from mbuild.units import local_time

EPILOG = """\
\b
Examples:
  mbuild history
  mbuild history --last 3 --format json
  mbuild history $(mbuild history --last 1 --format json | jq -r .id)
"""


@click.command("history", epilog=EPILOG)
@click.argument("build", required=False)
@click.option(
    "-n", "--last", type=click.IntRange(1), default=20, help="How many builds  [default: 20]"
)
@store_option
@format_option
@click.pass_context
def history_command(
    ctx: click.Context, /, *, build: str | None, last: int, store: str | None, style: str
) -> None:
    """List the last builds, the newest first, or show one build's steps.

    BUILD is a build's id or its beginning. JSON is one object a line for a list.
    """
    history = History(open_store(ctx, store))
    if build is not None:
        record = find_build(history, build)
        if style == "json":
            click.echo(json.dumps(record.to_json(), indent=2))
        else:
            _show_build(record)
        return
    records = islice(history.newest_first(), last)
    if style == "json":
        for record in records:
            click.echo(json.dumps(record.to_json()))
        return
    rows = [_row(record) for record in records]
    head = ("BUILD", "WHEN", "MODEL", "RESULT", "STEPS", "WRITTEN", "TIME")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


def find_build(history: History, start: str) -> BuildRecord:
    """The one build whose id begins so; raises :class:`NameNotFoundError` for none.

    Raises :class:`UsageError` where several do.
    """
    found = history.find(start)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NameNotFoundError(f"no build {start!r} in the history", hint="see mbuild history")
    ids = ", ".join(record.id for record in found[:5])
    raise UsageError(f"{start!r} is the beginning of {len(found)} builds: {ids}")


def _row(record: BuildRecord) -> tuple[str, ...]:
    return (
        record.id,
        local_time(record.time),
        record.names[0] if len(record.names) == 1 else f"{record.names[0]} ...",
        record.result,
        f"{record.ran} run, {record.cached} cached",
        human_size(record.written),
        f"{record.seconds:.1f} s",
    )


def _show_build(record: BuildRecord) -> None:
    click.echo(f"build     {record.id}, {local_time(record.time)}, mbuild {record.version}")
    if record.script is not None:
        click.echo(f"from      {record.script.name} in {record.script.folder}")
        for name, value in record.script.options.items():
            values = value if isinstance(value, list) else [value]
            for each in values:
                shown = "" if each is True else f" {each}"
                click.echo(f"          --{name.replace('_', '-')}{shown}")
    click.echo(f"result    {record.result} in {record.seconds:.1f} s")
    if record.error:
        click.echo(f"          {record.error}")
    for name in record.names:
        identity = record.models.get(name)
        click.echo(f"model     {name}{f'  {identity.short}' if identity else '  not named'}")
    for step in record.steps:
        _show_step(step)


def _show_step(step: StepRecord) -> None:
    facts = f"  {step.seconds:.2f} s, {human_size(step.written)}" if step.status == "ran" else ""
    click.echo(f"{step.status:<10}{step.label}{facts}")
    for reason in step.reasons:
        click.echo(f"          {reason}")
