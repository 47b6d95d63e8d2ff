"""``mbuild cache``: what lies in a shared cache, and removing what is old."""

from __future__ import annotations

import json

import click

from mbuild.cli.common import format_option, human_size
from mbuild.cli.meter import AgeType, table
from mbuild.core.errors import UsageError

EPILOG = """\
\b
Examples:
  mbuild -q q8_0 -t mario --cache-to shared
  mbuild cache du shared
  mbuild cache prune shared --older 30d
"""


@click.command("cache", epilog=EPILOG)
@click.argument("action", type=click.Choice(["du", "prune"]))
@click.argument("url")
@click.option(
    "--older",
    metavar="AGE",
    type=AgeType(),
    help="With prune: remove what was last written longer ago: 12h, 30d, 8w.",
)
@click.option("--dry-run", is_flag=True, help="With prune: remove nothing, say what would go.")
@format_option
def cache_command(*, action: str, url: str, older: float | None, dry_run: bool, style: str) -> None:
    """Count what lies in a shared cache (du), or remove what is old (prune).

    URL is a folder or a bucket, as for --cache-to. What builds need of what is removed, they make
    again.
    """
    from mbuild.shared.locations import Location
    from mbuild.shared.storages import open_storage

    if action == "du" and (older is not None or dry_run):
        raise UsageError("--older and --dry-run are for prune", hint="mbuild cache prune URL")
    if action == "prune" and older is None:
        raise UsageError("prune needs an age", hint="mbuild cache prune URL --older 30d")
    storage = open_storage(Location.parse(url))
    try:
        if action == "du":
            from mbuild.shared.disk import amounts

            _show({what: each._asdict() for what, each in amounts(storage).items()}, style)
            return
        from mbuild.shared.disk import clear

        done = clear(storage, older or 0.0, dry_run=dry_run)
    finally:
        storage.close()
    if style == "json":
        value = {"found": done.found._asdict(), "removed": done.removed._asdict()}
        click.echo(json.dumps({**value, "dry_run": dry_run}, indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(
        f"{verb} {done.removed.objects} of {done.found.objects} objects,"
        f" {human_size(done.removed.size)}"
    )


def _show(amounts: dict[str, dict[str, int]], style: str) -> None:
    if style == "json":
        click.echo(json.dumps(amounts, indent=2))
        return
    rows = [
        (what, f"{each['objects']} objects", human_size(each["size"]))
        for what, each in amounts.items()
    ]
    total = sum(each["objects"] for each in amounts.values())
    size = sum(each["size"] for each in amounts.values())
    rows.append(("total", f"{total} objects", human_size(size)))
    click.echo("\n".join(table(rows, frozenset({1, 2}))))
