"""``mbuild verify --rebuild``: shows a model being built again, and what came of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from mbuild.build.again import from_log, from_modelfile, with_converter
from mbuild.build.lock import BuildLock
from mbuild.build.rebuild import Rebuilt, rebuild
from mbuild.cli.build import read_modelfile, script_of
from mbuild.cli.common import say_reading
from mbuild.cli.locked import lock_path, read_lock
from mbuild.cli.meter import counted
from mbuild.cli.progress import renderer
from mbuild.core.events import BuildFinished, Explained, LayerReady, ModelBuilt, WritingManifest

if TYPE_CHECKING:
    from mbuild.build.converter import ForeignConverter
    from mbuild.build.prepare import Build
    from mbuild.store import Store, StoredManifest

_UNSAID = (LayerReady, WritingManifest, ModelBuilt, BuildFinished, Explained)
"""Events that speak of the throw-away store."""


def rebuilt(
    store: Store,
    stored: StoredManifest,
    file: str | None,
    *,
    quiet: bool = False,
    converter: ForeignConverter | None = None,
) -> Rebuilt:
    """Build a model again and compare, showing the build on standard error.

    Without ``file`` as the log says that it was built; else from that Modelfile,
    with the options of its lock file if it has one. ``converter`` is the checkout of llama.cpp
    that a model was converted with, which nothing but the command line names. Raises
    :class:`UsageError` where neither tells how, and :class:`NameNotFoundError` where the log knows
    no such build.
    """
    wanted = how_built(store, stored, file)
    if converter is not None:
        wanted = with_converter(wanted, converter)
    building = rebuild(wanted, stored, store)
    with renderer("auto") as show, closing(building):
        while True:
            try:
                event = next(building)
            except StopIteration as done:
                found: Rebuilt = done.value
                return found
            if not quiet and not isinstance(event, _UNSAID):
                show(event)


def how_built(store: Store, stored: StoredManifest, file: str | None) -> Build:
    """The build that made a model: as the log says, or of the Modelfile ``file``.

    Raises :class:`UsageError` where neither tells how, and :class:`NameNotFoundError` where
    the log knows no such build.
    """
    if file is None:
        return from_log(stored, store, say_reading)
    modelfile = read_modelfile(file, None)
    script, lock = script_of(modelfile), None
    if file != "-":
        path = lock_path(script, stdin=False)
        text = read_lock(path)
        lock = None if text is None else (BuildLock.from_text(text, str(path)), path)
    return from_modelfile(modelfile.data, script, lock, stored, store, say_reading)


def rebuilt_lines(found: Rebuilt) -> list[str]:
    """What the comparison found, for people."""
    if not found.differences:
        layers = counted(found.layers, "layer")
        return [f"{found.name}: built again, bit for bit the same ({layers}, manifest, config)"]
    lines = [f"{found.name}: built again, and it differs"]
    for difference in found.differences:
        lines.append(f"  {difference.what}: {difference.old or 'none'} in the store")
        lines.append(f"  {' ' * len(difference.what)}  {difference.new or 'none'} built again")
        if difference.where:
            lines.append(f"  {' ' * len(difference.what)}  {difference.where}")
    return lines


def rebuilt_json(found: Rebuilt) -> dict[str, Any]:
    """What the comparison found, for programs."""
    return {
        **found._asdict(),
        "differences": [difference._asdict() for difference in found.differences],
    }
