"""``mbuild verify --rebuild``: how a model was built, and what building it again comes to."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.history import History, Script, modelfile_text
from mbuild.build.lock import Lock
from mbuild.build.plan import Options
from mbuild.build.rebuild import Rebuilt, Unchanged, rebuild
from mbuild.build.request import Request, read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.cli.build import read_modelfile
from mbuild.cli.common import say_reading
from mbuild.cli.locked import held_to_lock, lock_path, locked_options, read_lock
from mbuild.cli.meter import counted
from mbuild.cli.progress import renderer
from mbuild.cli.quantizing import (
    defaults,
    distinct,
    draft_quantization,
    quantizations,
)
from mbuild.core.digest import Digest
from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.core.events import BuildFinished, Explained, LayerReady, ModelBuilt, WritingManifest

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.build.sources.values import SourceFile
    from mbuild.store import Store, StoredManifest

_UNSAID = (LayerReady, WritingManifest, ModelBuilt, BuildFinished, Explained)
"""Events that speak of the throw-away store."""


def rebuilt(
    store: Store, stored: StoredManifest, file: str | None, *, quiet: bool = False
) -> Rebuilt:
    """Build a model again and compare, showing the build on standard error.

    Without ``file`` as the log says that it was built; else from that Modelfile,
    with the options of its lock file if it has one. Raises :class:`UsageError`
    where neither tells how, and :class:`NameNotFoundError` where the log knows no such build.
    """
    request = _from_log(store, stored) if file is None else _from_file(store, stored, file)
    building = rebuild(request, stored, store)
    with renderer("auto") as show, closing(building):
        while True:
            try:
                event = next(building)
            except StopIteration as done:
                found: Rebuilt = done.value
                return found
            if not quiet and not isinstance(event, _UNSAID):
                show(event)


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


# How it was built, by the log.


def _from_log(store: Store, stored: StoredManifest) -> Request:
    record, number = _record_of(store, stored)
    script = record.script
    data = modelfile_text(script.text, store) if script is not None else None
    if script is None or data is None:
        raise UsageError(
            f"{stored.name}: the history does not have the Modelfile that it was built from",
            hint="name it with -f FILE",
        )
    recipe, warnings = read_recipe(data, script.name, store)
    context = LocalContext(Path(script.folder), store, hash_files=True, on_read=say_reading)
    options = _options(script, context)
    if options.quantizations:
        # All names of the first variant come before those of the second.
        variant = number * len(options.quantizations) // max(1, len(record.names))
        options = options._replace(quantizations=(options.quantizations[variant],))
    return Request(
        recipe,
        context,
        (stored.name,),
        options,
        warnings=warnings,
        script=script,
        gate=Unchanged(record, store),
    )


def _record_of(store: Store, stored: StoredManifest) -> tuple[BuildRecord, int]:
    """The last build that made this very model, and which of its names has it."""
    other = None
    for record in History(store).newest_first():
        for number, name in enumerate(record.names):
            if record.models.get(name) == stored.id:
                return record, number
            if name == str(stored.name) and name in record.models:
                other = other or record.models[name]
    if other is not None:
        raise UsageError(
            f"{stored.name} is not what was built under that name: {stored.id.short} in the store,"
            f" {other.short} built last",
            hint="name its Modelfile with -f FILE",
        )
    raise NameNotFoundError(
        f"no build of {stored.name} is in the history of this store",
        hint="name its Modelfile with -f FILE",
    )


def _options(script: Script, context: LocalContext) -> Options:
    """The planner's options from those of a command line."""
    given = {**defaults(), **{key: _tuple(value) for key, value in script.options.items()}}
    link, outtype = bool(given.pop("link", False)), str(given.pop("outtype", "auto"))
    pre, draft = given.pop("pre", None), given.pop("draft_quantize", None)
    base = Path(script.directory)
    if given.get("tensor_type_file"):
        given["tensor_type_file"] = str(base / given["tensor_type_file"])

    def find(path: str, name: str) -> SourceFile:
        return context.named_file(str(base / path), name)

    given["quantize"] = distinct(given["quantize"])
    return Options(link, outtype, pre, quantizations(find, **given), draft_quantization(draft))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# How it was built, by a Modelfile and its lock.


def _from_file(store: Store, stored: StoredManifest, file: str) -> Request:
    modelfile = read_modelfile(file, None)
    recipe, warnings = read_recipe(modelfile.data, modelfile.name, store)
    context = LocalContext(modelfile.folder, store, hash_files=True, on_read=say_reading)
    text = Digest.of(modelfile.data)
    script = Script(modelfile.name, text, str(modelfile.folder.absolute()))
    request = Request(recipe, context, (stored.name,), warnings=warnings, script=script)
    if file == "-":
        return request
    path = lock_path(script, stdin=False)
    locked = read_lock(path)
    if locked is None:
        return request
    options = _locked_options(Lock.from_text(locked, str(path)), stored, context, path)
    return held_to_lock(request._replace(options=options), store)


def _locked_options(
    lock: Lock, stored: StoredManifest, context: LocalContext, path: Path
) -> Options:
    """The options of the locked variant that is this model."""
    same = [name for name, result in lock.results.items() if result["id"] == str(stored.id)]
    chosen = same or list(lock.results)
    if len(chosen) != 1:
        raise UsageError(
            f"none of the variants in {path} is {stored.name}: {', '.join(lock.results)}",
            hint="it was built from something else",
        )
    given = {**defaults(), **locked_options(lock, chosen)}
    outtype, pre = given.pop("outtype"), given.pop("pre")
    draft = draft_quantization(given.pop("draft_quantize"))
    return Options(False, outtype, pre, quantizations(context.named_file, **given), draft)


def rebuilt_json(found: Rebuilt) -> dict[str, Any]:
    """What the comparison found, for programs."""
    return {
        **found._asdict(),
        "differences": [difference._asdict() for difference in found.differences],
    }
