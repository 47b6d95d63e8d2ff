"""``mbuild verify --rebuild``: shows a model being built again, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.again import Untold, from_log, from_modelfile, from_statement, with_converter
from mbuild.build.asked import script_of
from mbuild.build.converter import ForeignConverter
from mbuild.build.lock import BuildLock
from mbuild.build.rebuild import Rebuilt, keys_of, rebuild
from mbuild.cli.asking import read_modelfile
from mbuild.cli.common import say_reading
from mbuild.cli.locked import lock_path, read_lock
from mbuild.cli.meter import counted
from mbuild.cli.progress import renderer
from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.core.events import BuildFinished, Explained, LayerReady, ModelBuilt, WritingManifest
from mbuild.core.values import NamedTuple
from mbuild.models.provenance.comparing import Compared, compare, compare_lock, same_steps
from mbuild.models.provenance.statements import Statement, statements
from mbuild.store.records import DESCRIPTION

if TYPE_CHECKING:
    from mbuild.build.prepare import Build
    from mbuild.store import Store, StoredManifest

_UNSAID = (LayerReady, WritingManifest, ModelBuilt, BuildFinished, Explained)
"""Events that speak of the throw-away store."""


class RebuildOptions(NamedTuple):
    """What the command line says of building again.

    ``file`` is the Modelfile, ``source`` where its sources lie that are not beside it,
    ``converter`` the checkout of llama.cpp that a model was converted with, which nothing but
    the command line names, ``arguments`` the values that a statement withholds.
    """

    file: str | None = None
    source: Path | None = None
    converter: ForeignConverter | None = None
    quiet: bool = False
    arguments: Mapping[str, str] = {}


class Again(NamedTuple):
    """A model that was built again, and what the statement about it says beside that.

    ``statement`` is the digest of the statement, empty where there is none.
    """

    rebuilt: Rebuilt
    statement: str
    compared: tuple[Compared, ...]

    @property
    def good(self) -> bool:
        """Whether everything agrees."""
        return not self.rebuilt.differences and all(row.agrees for row in self.compared)


def rebuilt(store: Store, stored: StoredManifest, asked: RebuildOptions) -> Again:
    """Build a model again and compare, showing the build on standard error.

    Without a Modelfile as the log says that it was built; else from that Modelfile, with the
    options of its lock file if it has one, or those of the statement. Raises
    :class:`UsageError` where nothing tells how, and :class:`NameNotFoundError` where the log
    knows no such build.
    """
    known = statements(store, stored.id)
    statement = known[0] if known else None
    wanted = _wanted(store, stored, asked, statement)
    if asked.converter is not None:
        wanted = with_converter(wanted, asked.converter)
    building = rebuild(wanted, stored, store)
    with renderer("auto") as show, closing(building):
        while True:
            try:
                event = next(building)
            except StopIteration as done:
                return _compared(store, done.value, statement, wanted)
            if not asked.quiet and not isinstance(event, _UNSAID):
                show(event)


def _wanted(
    store: Store, stored: StoredManifest, asked: RebuildOptions, statement: Statement | None
) -> Build:
    """The build to make again: the log knows best, then a lock, then the statement."""
    source = asked.source
    if asked.file is not None:
        return _from_file(asked.file, stored, store, asked, statement)
    build = statement.build if statement else ""
    try:
        found = from_log(stored, store, say_reading, build=build, elsewhere=source)
        _check_no_arguments(asked)
        return found
    except NameNotFoundError:
        shown = statement.definition["externalParameters"]["request"] if statement else {}
        if source is None or "modelfile" not in shown:
            raise
        modelfile = read_modelfile(str(source / str(shown["modelfile"]["name"])), None)
        script = script_of(modelfile.name, modelfile.data, modelfile.folder)
        beside = Untold(say_reading, source, asked.arguments)
        return from_statement(modelfile.data, script, shown, stored, store, beside)


def _check_no_arguments(asked: RebuildOptions) -> None:
    if asked.arguments:
        raise UsageError(
            "--build-arg is for a statement that withholds a value, and nothing asks one here",
            hint="leave it out",
        )


def how_built(store: Store, stored: StoredManifest, file: str | None) -> Build:
    """The build that made a model: as the log says, or of the Modelfile ``file``.

    Raises :class:`UsageError` where nothing tells how, and :class:`NameNotFoundError` where
    the log knows no such build.
    """
    known = statements(store, stored.id)
    return _wanted(store, stored, RebuildOptions(file), known[0] if known else None)


def _from_file(
    file: str,
    stored: StoredManifest,
    store: Store,
    asked: RebuildOptions,
    statement: Statement | None,
) -> Build:
    source = asked.source
    modelfile = read_modelfile(file, None)
    script, lock = script_of(modelfile.name, modelfile.data, modelfile.folder), None
    if file != "-":
        path = lock_path(script, stdin=False)
        text = read_lock(path)
        lock = None if text is None else (BuildLock.from_text(text, str(path)), path)
    data = modelfile.data
    if lock is None and statement is not None:
        shown = statement.definition["externalParameters"]["request"]
        if shown.get("modelfile", {}).get("text") == str(script.text):
            beside = Untold(say_reading, source, asked.arguments)
            return from_statement(data, script, shown, stored, store, beside)
    _check_no_arguments(asked)
    return from_modelfile(data, script, lock, stored, store, say_reading, elsewhere=source)


def _compared(store: Store, found: Rebuilt, statement: Statement | None, wanted: Build) -> Again:
    """What the statement says beside the model that was made again, and beside the lock file."""
    if statement is None or not found.statement:
        return Again(found, "", ())
    keys = keys_of(statement.value)
    known = store.cache.get_many(DESCRIPTION, keys)
    same = same_steps(known.get, found.descriptions.get, store.files.alias)
    rows = compare(statement.value, found.statement, same)
    text, script = None, wanted.request.script
    if script is not None:
        path = Path(script.folder) / f"{Path(script.name).name}.lock"
        text = read_lock(path)
    if text is not None:
        lock = BuildLock.from_text(text, str(path))
        if any(result["id"] == found.old for result in lock.results.values()):
            rows += compare_lock(lock, text, statement.value, store.files.alias)
    return Again(found, str(statement.document.digest), tuple(rows))


def rebuilt_lines(again: Again) -> list[str]:
    """What the comparison found, for people."""
    return [*_model_lines(again.rebuilt), *_statement_lines(again)]


def _model_lines(found: Rebuilt) -> list[str]:
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


def _statement_lines(again: Again) -> list[str]:
    if not again.statement:
        return []
    wrong = [row for row in again.compared if not row.agrees]
    agree = len(again.compared) - len(wrong)
    lines = [f"statement {again.statement}: {agree} of {len(again.compared)} entries agree"]
    for row in wrong:
        lines.append(f"  {row.what}: {row.said} in the statement")
        lines.append(f"  {' ' * len(row.what)}  {row.found} built again")
    lines.append("  not shown by building again: when it was built, and on which machine")
    return lines


def rebuilt_json(again: Again) -> dict[str, Any]:
    """What the comparison found, for programs."""
    found = again.rebuilt
    value: dict[str, Any] = {
        "name": found.name,
        "old": found.old,
        "new": found.new,
        "layers": found.layers,
        "bytes": found.bytes,
        "differences": [difference._asdict() for difference in found.differences],
    }
    if again.statement:
        value["statement"] = again.statement
        value["compared"] = [row._asdict() for row in again.compared]
    return value
