"""``mbuild plan`` and ``mbuild explain``: what a build would do, what it takes, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.asking import build_options, read_request
from mbuild.cli.common import columns_of, format_option, human_size, printable, sharing
from mbuild.cli.preview import INDENT, STATES, show_steps
from mbuild.cli.screen import wrapped
from mbuild.core.units import local_time

if TYPE_CHECKING:
    from mbuild.build.forecast import Survey
    from mbuild.build.history import BuildRecord

PLAN_EPILOG = """\
\b
Examples:
  mbuild plan -t mario
  mbuild plan -q q4_K_M -t mario --tensors
  mbuild plan -q q4_K_M -q q8_0 -t mario --format json
"""

EXPLAIN_EPILOG = """\
\b
Examples:
  mbuild explain -t mario
  mbuild explain -q q4_K_M -t mario --format json
"""


@click.command("plan", epilog=PLAN_EPILOG)
@build_options
@click.option("--tensors", is_flag=True, help="List each tensor that is quantized.")
@format_option
@click.pass_context
def plan_command(ctx: click.Context, /, *, style: str, tensors: bool, **options: Any) -> None:
    """Preview a build: steps, bytes, memory and time; write nothing.

    First the sums, then the steps in order, cached or not. Times are those that
    such steps took on this machine before. Exit status 1 if the disk has no
    room for it.
    """
    from mbuild.build.forecast import forecast

    wanted, store = read_request(ctx, options)
    with sharing(store, options):
        planned = forecast(wanted, store)
    show_steps(planned, style, tensors=tensors)
    if not planned.fits:
        if style == "text":
            need, free = human_size(planned.writes), human_size(planned.free)
            click.echo(
                f"the build will not fit on this disk: {need} to write,"
                f" {free} free in {printable(str(store.root))}",
                err=True,
            )
        ctx.exit(1)


@click.command("explain", epilog=EXPLAIN_EPILOG)
@build_options
@format_option
@click.pass_context
def explain_command(ctx: click.Context, /, *, style: str, **options: Any) -> None:
    """Explain why each step will run or is cached.

    It shows every input that changed since the last build of the model, with its
    old and its new value: those that decide what runs. Files are read where it is
    not known yet whether they changed.
    """
    from mbuild.build.forecast import survey

    wanted, store = read_request(ctx, options, hash_files=True)
    with sharing(store, options):
        surveyed = survey(wanted, store)
    names = [str(name) for name in wanted.request.names]
    if store.private.exists():
        store.database.close()  # the digests of files that were read
    if style == "json":
        value = _explain_json(names, surveyed)
        if wanted.overruled:
            value["overruled"] = [notice.message for notice in wanted.overruled]
        click.echo(json.dumps(value, indent=2))
        return
    width = columns_of()
    head = f"{', '.join(names)}: {_compared(surveyed.base)}"
    click.echo("\n".join(wrapped(head, width, INDENT, "")))
    for notice in wanted.overruled:
        place = f" (line {notice.span.line})" if notice.span else ""
        click.echo("\n".join(wrapped(f"{notice.message}{place}", width, INDENT, "")))
    for row, why in zip(surveyed.rows, surveyed.why, strict=True):
        texts = why.texts() if why else ()
        first, *rest = texts if surveyed.base is not None and texts else ("",)
        text = f"{row.step.label}{': ' if first else ''}{first}"
        lines = wrapped(text, width, INDENT, f"{STATES[row.state]:<{len(INDENT)}}")
        indent = " " * (len(row.step.label) + len(INDENT) + 2)
        if width and len(indent) > width // 2:
            indent = INDENT
        for each in rest:
            lines += wrapped(each, width, indent)
        click.echo("\n".join(lines))


def _compared(base: BuildRecord | None) -> str:
    if base is None:
        return "no earlier build to compare with"
    return f"compared with build {base.id} of {local_time(base.time)}"


def _explain_json(names: Sequence[str], surveyed: Survey) -> dict[str, Any]:
    steps = []
    for row, why in zip(surveyed.rows, surveyed.why, strict=True):
        value: dict[str, Any] = {
            "step": row.step.label,
            "kind": row.step.kind,
            "state": row.state.value,
        }
        if why:
            value["changes"] = [change.to_json() for change in why.changes]
            value["note"] = "" if why.note is None else why.texts()[0]
            value["cause"] = "" if why.note is None else why.note.cause.value
        steps.append(value)
    base = surveyed.base
    return {"names": list(names), "compared_with": base.id if base else None, "steps": steps}
