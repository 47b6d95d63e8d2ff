"""``mbuild export --preset`` and ``--model-yaml``: how other programs are to start a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mbuild.cli.common import read_limited, write_file
from mbuild.core.errors import MissingFileError, UsageError
from mbuild.models.artifacts import Written
from mbuild.models.artifacts.presets import (
    FILES,
    model_yaml,
    section,
    section_name,
    with_section,
)
from mbuild.store.contents import read_contents
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.store import Store, StoredManifest


def write_presets(
    store: Store,
    stored: StoredManifest,
    written: Sequence[Written],
    preset: Path | None,
    description: Path | None,
    *,
    replace: bool,
) -> None:
    """Add the model to llama.cpp's preset, and write LM Studio's description of it.

    ``written`` are the files that were exported; without any the preset names the store's. What is
    there stays unless it is to be replaced.
    """
    contents = read_contents(store.blobs, stored)
    if preset is not None:
        files = _exported(written) if written else _stored(store, stored)
        try:
            text = read_limited(preset, str(preset)).decode("utf-8", "surrogateescape")
        except MissingFileError:
            text = ""
        name = section_name(stored.name)
        new = with_section(text, name, section(contents, files), replace=replace)
        write_file(preset, new)
        click.echo(f"{preset}  [{name}]")
    if description is not None:
        if os.path.lexists(description) and not replace:
            raise UsageError(f"{description} exists", hint="replace it with --force")
        write_file(description, model_yaml(store, contents))
        click.echo(str(description))


def _exported(written: Sequence[Written]) -> dict[str, list[Path]]:
    """The exported files by their media types; raises :class:`UsageError` for an archive."""
    found: dict[str, list[Path]] = {}
    for file in written:
        if file.media_type:
            found.setdefault(file.media_type, []).append(file.path.absolute())
    if not found:
        raise UsageError(
            "a preset names files, which are not in an archive", hint="export to -o DIR"
        )
    return found


def _stored(store: Store, stored: StoredManifest) -> dict[str, list[Path]]:
    """The store's own files; raises :class:`UsageError` for weights in several of them."""
    found = {
        kind: [store.blobs.local_path(layer.digest).absolute() for layer in layers]
        for kind in FILES
        if (layers := stored.manifest.of_kind(kind))
    }
    if len(found.get(MODEL, ())) > 1:
        raise UsageError(
            f"{stored.name} has weights in several files, which llama.cpp finds by their names",
            hint="export them: -o DIR",
        )
    return found
