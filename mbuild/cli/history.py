"""``mbuild history``: what was built, when, how long it took, and why."""

from __future__ import annotations

import json
from itertools import islice

import click

from mbuild.build.history import BuildRecord, History, StepRecord
from mbuild.cli.common import (
    columns_of,
    format_option,
    human_size,
    model_name,
    open_store,
    printable,
    store_option,
)
from mbuild.cli.screen import Column, fitted, wrapped
from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.core.events import Cause
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.units import local_time

_INDENT = " " * 10

EPILOG = """\
\b
Examples:
  mbuild history
  mbuild history mario               the last build of that model
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

    BUILD is a build's id or the beginning of it, or a model's name, which means
    its last build. As JSON, a list has one object per line.
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
    for line in fitted(_COLUMNS, [_row(record) for record in records], columns_of()):
        click.echo(line)


_COLUMNS = (
    Column("BUILD"),
    Column("WHEN"),
    Column("MODEL", least=16),
    Column("RESULT"),
    Column("STEPS", drop=2),
    Column("WRITTEN", drop=3),
    Column("TIME", drop=1),
)


def find_build(history: History, text: str) -> BuildRecord:
    """The one build whose id begins so, or the last one of the model of that name.

    Raises :class:`NameNotFoundError` for none and :class:`UsageError` for several.
    """
    found = history.find(text)
    if len(found) == 1:
        return found[0]
    named = _last_of(history, text)
    if named is not None:
        return named
    if not found:
        raise NameNotFoundError(
            f"no build {text!r} in the history, and no build of a model with that name",
            hint="see mbuild history",
        )
    ids = ", ".join(record.id for record in found[:5])
    raise UsageError(
        f"{text!r} matches {len(found)} builds: {ids}", hint="give more digits of the id"
    )


def _last_of(history: History, text: str) -> BuildRecord | None:
    """The last build that gave a model this name; without a tag, else any of the model's tags."""
    try:
        name = model_name(text)
    except InvalidNameError:
        return None
    other = None
    tagged = text.rfind(":") > text.rfind("/")
    for record in history.newest_first():
        for built in record.names:
            parsed = ModelName.parse(built)
            if parsed.key == name.key:
                return record
            if other is None and not tagged and parsed.key[:-1] == name.key[:-1]:
                other = record
    return other


def _row(record: BuildRecord) -> tuple[str, ...]:
    return (
        record.id,
        local_time(record.time)[:16],  # no seconds
        record.names[0] if len(record.names) == 1 else f"{record.names[0]} ...",
        record.result,
        f"{record.ran} run, {record.cached} cached",
        human_size(record.written),
        f"{record.seconds:.1f} s",
    )


def _ending(step: StepRecord, result: str) -> str:
    """What became of a step: ran, cached, as its build where that cut it off, else not begun."""
    if step.status != "unfinished":
        return step.status
    return result if step.seconds else "not begun"


def _show_build(record: BuildRecord) -> None:
    width = columns_of()

    def say(text: str, first: str = "") -> None:
        for line in wrapped(text, width, _INDENT, f"{first:<{len(_INDENT)}}"):
            click.echo(line)

    say(f"{record.id}, {local_time(record.time)}, mbuild {record.version}", "build")
    script = record.request.script
    if script is not None:
        say(f"{script.name} in {script.folder}", "from")
    elif record.request.source is not None:
        say("a request to the API", "from")
    for flag, value in record.request.flags():
        say(f"{flag} {value}".rstrip())
    say(f"{record.result} in {record.seconds:.1f} s", "result")
    if record.error:
        say(record.error)
    for name in record.names:
        identity = record.models.get(name)
        say(f"{name}{f'  {identity.short}' if identity else '  not named'}", "model")
    for step in record.steps:
        ran = step.status == "ran"
        facts = f"  {step.seconds:.2f} s, {human_size(step.written)}" if ran else ""
        if step.fetched:
            facts = f"  {human_size(step.fetched)} from the shared cache"
        say(f"{step.label}{facts}", _ending(step, record.result))
        for found in step.findings:
            say(printable(found))
        for reason in step.reasons if step.causes != (Cause.FIRST,) else ():
            say(reason)
