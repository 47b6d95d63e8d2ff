"""``mbuild du``, ``mbuild prune`` and ``mbuild verify``: looking after the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import (
    FolderType,
    NameType,
    format_option,
    human_size,
    modelfile_option,
    open_store,
    store_option,
)
from mbuild.cli.converting import converter_of, converter_options
from mbuild.cli.meter import AgeType, SizeType, counted, meter, table
from mbuild.core.errors import UsageError
from mbuild.core.names import ModelName
from mbuild.models import library
from mbuild.models.disk import Finding, Pruned, PrunePolicy, Usage, Verified, prune, usage, verify
from mbuild.models.disk.inventory import LeftoverKind

if TYPE_CHECKING:
    from mbuild.cli.rebuild import Again
    from mbuild.store import Store, StoredManifest

_LEFTOVERS = {
    LeftoverKind.TEMPORARY: "files under construction",
    LeftoverKind.UNFINISHED: "unfinished builds",
    LeftoverKind.PARTIAL: "partial downloads",
    LeftoverKind.OLD_CACHE: "old build caches",
    LeftoverKind.DAMAGED: "damaged blobs set aside",
    LeftoverKind.STRAY: "not blobs, but named like blobs",
    LeftoverKind.DOCUMENT: "statements about removed models",
}


@click.command("du", epilog="\b\nExamples:\n  mbuild du\n  mbuild du --format json")
@store_option
@format_option
@click.pass_context
def du_command(ctx: click.Context, *, store: str | None, style: str) -> None:
    """Show disk use: each model alone and shared, and what prune would free.

    OWN is what removing the model frees; SHARED is also used under other names.
    """
    used = usage(open_store(ctx, store))
    if style == "json":
        click.echo(json.dumps(used.to_json(), indent=2))
        return
    click.echo("\n".join(_usage_lines(used)))


def _usage_lines(used: Usage) -> list[str]:
    rows: list[tuple[str, ...]] = [("NAME", "OWN", "SHARED", "TOTAL")]
    for model in used.models:
        sizes = (human_size(size) for size in (model.own, model.shared, model.total))
        missing = f"  ({counted(model.missing, 'blob')} missing)" if model.missing else ""
        rows.append((model.name + missing, *sizes))
    rows.append(("", "", "", ""))
    rows.append(("models", "", "", human_size(used.used)))
    rows.append(("results kept for later builds", "", "", human_size(used.kept)))
    rows.append(("blobs that no model uses", "", "", human_size(used.unused)))
    rows.append(("index of the cache", "", "", human_size(used.cache)))
    for kind, size in used.leftovers.items():
        rows.append((_LEFTOVERS[kind], "", "", human_size(size)))
    rows.append(("total", "", "", human_size(used.total)))
    lines = table(rows, frozenset({1, 2, 3}))
    if used.linked:
        lines.append(
            f"\n{human_size(used.linked)} of that are hard links to files outside the store"
        )
    if used.unreadable:
        unreadable = counted(used.unreadable, "manifest")
        lines.append(f"\nmbuild prune would remove nothing: {unreadable} unreadable")
    else:
        lines.append(f"\nmbuild prune would free {human_size(used.prunable)}")
        lines += [f"  {text}" for text in _stays(used.waiting, used.reason, used.running)]
    lines.append(f"the cache keeps up to {human_size(used.budget)}; MBUILD_KEEP=SIZE changes that")
    return lines


def _stays(waiting: int, reason: str, running: int) -> list[str]:
    """Why blobs that no model uses stay where they are."""
    texts = [f"{counted(waiting, 'recent upload')} kept for a day"] if waiting else []
    if running:
        texts.append(f"{counted(running, 'blob')} of models that run; mbuild ps lists them")
    return texts + ([f"{reason}; --older 0s removes them anyway"] if reason else [])


PRUNE_EPILOG = """\
\b
Examples:
  mbuild prune --dry-run
  mbuild prune
  mbuild prune --older 7d --keep 50GB
"""


@click.command("prune", epilog=PRUNE_EPILOG)
@store_option
@click.option(
    "--keep",
    metavar="SIZE",
    type=SizeType(),
    default=0,
    help="Keep the newest of them, up to SIZE.",
)
@click.option(
    "--older", metavar="AGE", type=AgeType(), help="Remove only what has not changed for AGE."
)
@click.option("--damaged", is_flag=True, help="Also remove damaged blobs that verify set aside.")
@click.option("--wait", is_flag=True, help="Wait for running builds instead of failing.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@format_option
@click.pass_context
def prune_command(
    ctx: click.Context,
    /,
    *,
    store: str | None,
    wait: bool,
    dry_run: bool,
    style: str,
    **policy: Any,
) -> None:
    """Remove what no model uses: cached results, other blobs, leftovers of interrupted builds.

    --keep is the same budget as MBUILD_KEEP, which every build keeps to. Nothing is
    removed while a build runs or a manifest is unreadable.
    """
    done = prune(
        open_store(ctx, store),
        PrunePolicy(**policy),
        dry_run=dry_run,
        wait=wait,
        on_wait=lambda: click.echo("waiting for running builds", err=True),
    )
    if style == "json":
        click.echo(json.dumps({"dry_run": dry_run, **done.to_json()}, indent=2))
        return
    click.echo("\n".join(_pruned_lines(done, dry_run)))


def _pruned_lines(done: Pruned, dry_run: bool) -> list[str]:
    rows = [
        (f"{'result' if d in done.cached else 'blob'} {d.short}", human_size(file.size))
        for d, file in done.blobs
    ]
    rows += [
        (f"{left.kind.value} {left.file.path.name[:40]}", human_size(left.file.size))
        for left in done.leftovers
    ]
    lines = table(rows, frozenset({1})) if rows else []
    will = "would be removed" if dry_run else "removed"
    if done.only_copies:
        lines.append(f"{len(done.only_copies)} of them had no good copy in this store")
    lines.append(f"{counted(len(rows), 'file')} {will}, {human_size(done.freed)} freed")
    if done.kept:
        size = human_size(sum(file.size for _, file in done.kept))
        lines.append(f"kept {counted(len(done.kept), 'blob')} that no model uses, {size}")
    return lines + [f"  {text}" for text in _stays(done.waiting, done.reason, done.running)]


VERIFY_EPILOG = """\
\b
Examples:
  mbuild verify
  mbuild verify mario
  mbuild verify --dry-run --format json
  mbuild verify --rebuild mario      build it again elsewhere, compare bit for bit
  mbuild verify --signed --key mbuild.key.pub mario
"""


@click.command("verify", epilog=VERIFY_EPILOG)
@click.argument("names", metavar="[NAME]...", type=NameType(), nargs=-1)
@store_option
@click.option("--dry-run", is_flag=True, help="Only report; leave damaged blobs in place.")
@click.option("--rebuild", is_flag=True, help="Rebuild the models and compare them bit for bit.")
@modelfile_option("The Modelfile to rebuild from.")
@click.option(
    "--source",
    metavar="DIR",
    type=FolderType(),
    help="Where sources are that lie outside of the Modelfile's folder.",
)
@click.option(
    "--build-arg",
    metavar="NAME=VALUE",
    multiple=True,
    help="With --rebuild: the value of an argument that a statement withholds.",
)
@click.option("--signed", is_flag=True, help="Check that the key signed the models.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The public key.")
@converter_options
@format_option
@click.pass_context
def verify_command(
    ctx: click.Context,
    /,
    *,
    names: tuple[ModelName, ...],
    store: str | None,
    dry_run: bool,
    rebuild: bool,
    style: str,
    **further: Any,
) -> int:
    """Rehash what the store holds, or some models; report damage and how to repair it.

    A damaged blob is moved to .mbuild/damaged/ in the store, so that the next
    build, pull or import makes it again; verify deletes nothing. Exits with 1 when
    anything is wrong.

    With --rebuild good models are also built again in a throw-away store, as the
    last build made them, or as FILE and its lock file say; the two must agree
    to the last bit, and with what the statement about the model says (mbuild provenance).
    """
    _check_options(names, further, rebuild=rebuild)
    opened = open_store(ctx, store)
    models = [library.find(opened, name) for name in names]
    with meter("verifying") as show:
        found = verify(opened, models or None, set_aside=not dry_run, progress=show)
    good = not found.findings
    if rebuild and good:
        good = _show_rebuilt(found, _rebuilt(opened, models, further, style), style)
    elif style == "json":
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo("\n".join(_verified_lines(found)))
    if further["key"] is not None:
        for model in models:
            good = _show_signed(opened, model, further["key"], style) and good
    return 0 if good else 1


def _rebuilt(
    store: Store, models: list[StoredManifest], further: Mapping[str, Any], style: str
) -> list[Again]:
    """Each model built again, as the options of ``verify`` say how."""
    from mbuild.build.staged import arguments_of
    from mbuild.cli.rebuild import RebuildOptions, rebuilt

    asked = RebuildOptions(
        further["file"],
        further["source"],
        converter_of(further, store),
        style == "json",
        arguments_of(further["build_arg"]),
    )
    return [rebuilt(store, model, asked) for model in models]


def _check_options(
    names: tuple[ModelName, ...], further: Mapping[str, Any], *, rebuild: bool
) -> None:
    """Raise :class:`UsageError` for options that need others."""
    if rebuild and not names:
        raise UsageError("--rebuild needs a model's name", hint="mbuild verify --rebuild NAME")
    if further["file"] is not None and not (rebuild and len(names) == 1):
        raise UsageError(
            "-f needs --rebuild and one model's name", hint="mbuild verify --rebuild NAME -f FILE"
        )
    if further["build_arg"] and not rebuild:
        raise UsageError(
            "--build-arg needs --rebuild",
            hint="mbuild verify --rebuild NAME --source DIR --build-arg NAME=VALUE",
        )
    if further["source"] is not None and not rebuild:
        raise UsageError(
            "--source needs --rebuild", hint="mbuild verify --rebuild NAME --source DIR"
        )
    signed, key = further["signed"], further["key"]
    if signed != (key is not None) or (signed and not names):
        raise UsageError(
            "--signed, --key and a model's name belong together",
            hint="mbuild verify NAME --signed --key FILE",
        )


def _show_signed(store: Store, model: StoredManifest, key: Path, style: str) -> bool:
    """Whether the key signed the model, and what of it; beside JSON on standard error."""
    from mbuild.cli.provenance import signed_lines

    lines, good = signed_lines(store, model, key)
    click.echo("\n".join(lines), err=style == "json")
    return good


def _show_rebuilt(found: Verified, again: list[Again], style: str) -> bool:
    from mbuild.cli.rebuild import rebuilt_json, rebuilt_lines

    if style == "json":
        rows = [rebuilt_json(each) for each in again]
        click.echo(json.dumps({**found.to_json(), "rebuilt": rows}, indent=2))
    else:
        lines = [line for each in again for line in rebuilt_lines(each)]
        click.echo("\n".join([*_verified_lines(found), *lines]))
    return all(each.good for each in again)


def _verified_lines(found: Verified) -> list[str]:
    lines = []
    for finding in found.findings:
        lines += _finding_lines(finding)
    if found.reason:
        lines.append(f"not set aside: {found.reason}")
    looked = f"{counted(found.blobs, 'blob')} of {counted(found.models, 'model')}"
    result = counted(len(found.findings), "problem") if found.findings else "all good"
    return [*lines, f"{looked}, {human_size(found.bytes)}: {result}"]


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"{finding.problem.value}: {finding.what}", f"  {finding.detail}"]
    if finding.models:
        lines.append(f"  used by {', '.join(finding.models)}")
    if finding.set_aside:
        lines.append(f"  set aside as {finding.set_aside}")
    return [*lines, f"  to repair: {finding.heal}"]
