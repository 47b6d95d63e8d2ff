"""``mbuild push``: what goes to the Hub, shown and sent, and what a dry run tells."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mbuild.cli.common import human_size, write_json
from mbuild.cli.meter import meter
from mbuild.core.errors import UsageError
from mbuild.core.names import DEFAULT_TAG
from mbuild.registry.client.access import Access
from mbuild.registry.hub.reference import HubReference
from mbuild.store.files import temporary_folder

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.models.publish.upload import Publication
    from mbuild.registry.reference import ModelReference
    from mbuild.registry.transfer.push import Unsent
    from mbuild.store import Store


def publish(
    store: Store,
    name: ModelName,
    target: ModelReference,
    style: str,
    *,
    dry_run: bool,
    private: bool,
) -> None:
    """Push a model to a repository of the Hub, or only show what would be sent."""
    from mbuild.models.publish.upload import publication, send

    if target.tag != DEFAULT_TAG:
        raise UsageError(
            f"{target}: files of the Hub are named after their quantization, not by a tag",
            hint=f"write hf.co/{target.path}",
        )
    reference = HubReference.parse(f"hf.co/{target.path}")
    store.prepare()
    with temporary_folder(store.private / "tmp") as folder, store.reading():
        stored = store.manifests.read(name)
        with meter("checking") as show:
            found = publication(store, stored, reference, Access(), folder, show)
        commit = "" if dry_run else send(found, private=private, bars=sys.stderr.isatty())
    for note in found.notes:
        click.echo(f"warning: {note}", err=True)
    if style == "json":
        _write_json(found, commit)
    elif dry_run:
        _show(found)
    else:
        size = sum(file.size for file in found.files)
        sent = f"{human_size(found.size)} sent" if commit else "all of it was there"
        at = f"  {commit[:12]}" if commit else ""
        click.echo(f"pushed {reference}{at}  {human_size(size)}, {sent}")


def _show(found: Publication) -> None:
    changed = {file.name for file in found.changed}
    for file in found.files:
        word = "send " if file.name in changed else "there"
        click.echo(f"{word}  {human_size(file.size):>9}  {file.name}")
    new = ", which is new" if found.is_new else ""
    click.echo(f"would send {human_size(found.size)} to {found.reference}{new}")


def _write_json(found: Publication, commit: str) -> None:
    changed = {file.name for file in found.changed}
    rows = [
        {
            "name": file.name,
            "size": file.size,
            "sha256": file.sha256.hex,
            "send": file.name in changed,
        }
        for file in found.files
    ]
    write_json(
        {
            "target": str(found.reference),
            "new": found.is_new,
            "bytes": found.size,
            "commit": commit or None,
            "files": rows,
        }
    )


def show_dry_run(planned: Unsent, style: str) -> None:
    """What a push would send, and the tags that the model would get."""
    names = [str(reference) for reference in planned.references]
    rows = [(layer, layer.digest in planned.missing) for layer in planned.layers]
    size = sum(layer.size for layer, send in rows if send)
    if style == "json":
        blobs = [
            {"digest": str(layer.digest), "kind": layer.kind, "size": layer.size, "send": send}
            for layer, send in rows
        ]
        write_json({"targets": names, "bytes": size, "blobs": blobs})
        return
    for layer, send in rows:
        word = "send " if send else "there"
        click.echo(f"{word}  {human_size(layer.size):>9}  {layer.kind} {layer.digest.short}")
    click.echo(f"would send {human_size(size)} and tag {', '.join(names)}")
