"""How a model was built, from the log or from a lock: the build that makes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.fetching import Fetching, PullMode
from mbuild.build.history import History, modelfile_text
from mbuild.build.lock import BuildLock, locked_quantization, locked_request
from mbuild.build.locked import Locked
from mbuild.build.pins import UNQUANTIZED
from mbuild.build.prepare import Build, kept_recipe, read_recipe
from mbuild.build.rebuild import Unchanged
from mbuild.build.request import BuildRequest, Posted, Script, Target
from mbuild.build.sources.posted import BlobContext
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.staging import FilesKept, FilesTold, read_stages
from mbuild.core.errors import DamagedError, NameNotFoundError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.stages.opening import opens_stages

if TYPE_CHECKING:
    from mbuild.build.converter import ForeignConverter
    from mbuild.build.history import BuildRecord
    from mbuild.build.staging import Bringing, StagesRead
    from mbuild.store import Store, StoredManifest

OnRead = Callable[[str, int], None]
"""Is told the name and the size in bytes of a file that has to be read for its digest."""

_NOTHING = Fetching(PullMode.NEVER)
"""Whoever builds again to compare wants what is here."""

_BY_FILE = "name its Modelfile with -f FILE"


def from_log(
    stored: StoredManifest,
    store: Store,
    on_read: OnRead,
    *,
    build: str = "",
    elsewhere: Path | None = None,
) -> Build:
    """The build that made a model, for this one model, and only of what it was made from.

    ``build`` is the id of the one that is meant, if it was in this store; else it is the last.
    ``elsewhere`` is where sources lie that are not in the Modelfile's folder (any more).
    Raises :class:`NameNotFoundError` where the log knows no such build, :class:`UsageError`
    where it does not tell enough, and :class:`DamagedError` where a blob that a request to
    the API named is gone.
    """
    record, target = record_of(stored, store, build)
    request = record.request._replace(targets=(target._replace(names=(stored.name,)),))
    wanted = _asked(request, record, stored, store, (on_read, elsewhere))
    return wanted._replace(gate=Unchanged(record, store), fetching=_NOTHING)


def record_of(stored: StoredManifest, store: Store, build: str = "") -> tuple[BuildRecord, Target]:
    """The last build that made this very model, and which of its targets that is.

    ``build`` is the id of the one that is meant, if it was in this store. Raises
    :class:`NameNotFoundError` where the log knows none, :class:`UsageError` where another
    model was built under that name.
    """
    other = None
    for record in History(store).find(build) if build else ():
        target = record.target_of(str(stored.name), stored.id)
        if target is not None:
            return record, target
    for record in History(store).newest_first():
        target = record.target_of(str(stored.name), stored.id)
        if target is not None:
            return record, target
        other = other or record.models.get(str(stored.name))
    if other is not None:
        raise UsageError(
            f"{stored.name} is not what was built under that name: {stored.id.short} in the store,"
            f" {other.short} built last",
            hint=_BY_FILE,
        )
    raise NameNotFoundError(
        f"the history of this store has no build of {stored.name}", hint=_BY_FILE
    )


def _asked(
    request: BuildRequest,
    record: BuildRecord,
    stored: StoredManifest,
    store: Store,
    reading: tuple[OnRead, Path | None],
) -> Build:
    """The build of a request: its recipe, where what it names is found, warnings about it."""
    source = request.source
    if isinstance(source, Posted):
        recipe = kept_recipe(source.recipe, store)
        if recipe is None:
            raise UsageError(
                f"{stored.name}: the cache no longer has the request that it was built from",
                hint="build it again with POST /api/create",
            )
        _bring(source, record, stored, store)
        return Build(request, recipe, BlobContext(store, source))
    data = modelfile_text(source.text, store) if source is not None else None
    if source is None or data is None:
        raise UsageError(
            f"{stored.name}: the history does not have the Modelfile that it was built from",
            hint="name it with -f FILE",
        )
    context = _context(source, store, *reading)
    if opens_stages(data):
        read = _stages(data, request, source, store, FilesKept(source.brought, store))
        return _staged(request, read, context)
    recipe, warnings = read_recipe(data, source.name, store)
    return Build(request, recipe, context, warnings=warnings)


def _stages(
    data: bytes, request: BuildRequest, script: Script, store: Store, bring: Bringing
) -> StagesRead:
    """The stage that the one target of a request is."""
    (target,) = request.targets
    return read_stages(data, script.name, store, bring, script.arguments, (target.stage,))


def _staged(request: BuildRequest, read: StagesRead, context: LocalContext) -> Build:
    stages = {stage.name: stage for stage in read.stages}
    first = read.stages[0].recipe
    return Build(request, first, context, warnings=read.warnings, stages=stages)


def _context(script: Script, store: Store, on_read: OnRead, elsewhere: Path | None) -> LocalContext:
    """Where what a Modelfile names is found: its sources are digested before anything runs."""
    return LocalContext(
        Path(script.folder),
        store,
        directory=Path(script.directory),
        hash_files=True,
        on_read=on_read,
        elsewhere=elsewhere,
    )


class Untold(NamedTuple):
    """What a statement does not tell of a build.

    ``on_read`` is told of files that are read for their digests, ``elsewhere`` is where sources
    lie that are not in the Modelfile's folder (any more), ``arguments`` are the values that
    the statement withholds.
    """

    on_read: OnRead
    elsewhere: Path | None = None
    arguments: Mapping[str, str] = {}


def from_statement(
    data: bytes,
    script: Script,
    shown: Mapping[str, Any],
    stored: StoredManifest,
    store: Store,
    beside: Untold,
) -> Build:
    """The build that a statement tells of, from the Modelfile that it names by its digest.

    ``shown`` is the request in it, ``beside`` what it does not tell. Raises
    :class:`UsageError` for another Modelfile, and where the statement does not tell enough.
    """
    elsewhere = beside.elsewhere
    told = shown.get("modelfile")
    if not isinstance(told, dict) or told.get("text") != str(script.text):
        raise UsageError(
            f"{script.name} is not the Modelfile that {stored.name} was made from:"
            f" {told.get('text') if told else 'a request to the API'} in the statement,"
            f" {script.text} now",
            hint="name that one with -f FILE",
        )
    script = script._replace(arguments=_arguments_of(told, script.name, beside.arguments))
    request = _request_of(shown, script, stored)
    context = _context(script, store, beside.on_read, elsewhere)
    if opens_stages(data):
        digests = frozenset(map(str, told.get("brought", {}).values()))
        bring = FilesTold(Path(script.folder), elsewhere, digests)
        read = _stages(data, request, script, store, bring)
        request = _request_of(shown, script._replace(brought=read.brought), stored)
        return _staged(request, read, context)._replace(fetching=_NOTHING)
    recipe, warnings = read_recipe(data, script.name, store)
    return Build(request, recipe, context, warnings=warnings, fetching=_NOTHING)


def _request_of(shown: Mapping[str, Any], script: Script, stored: StoredManifest) -> BuildRequest:
    """The request in a statement, for one model, of a Modelfile that lies here."""
    own = BuildRequest((Target((stored.name,)),), script).to_json()["modelfile"]
    request = BuildRequest.from_json({**shown, "modelfile": own})
    target = request.targets[0]._replace(names=(stored.name,))
    return request._replace(targets=(target,), link=False, named=True)


def _arguments_of(
    told: Mapping[str, Any], name: str, given: Mapping[str, str]
) -> Mapping[str, str]:
    """The arguments' values: those that a statement has, and those that it withholds as given.

    Statements of earlier versions have names only. Raises :class:`UsageError` for one that is
    missing, and for one that nobody asks for.
    """
    said = told.get("arguments", {})
    known = {**said} if isinstance(said, dict) else {}
    asked = [*told.get("withheld", ()), *(said if isinstance(said, list) else ())]
    if missing := [each for each in asked if each not in given]:
        raise UsageError(
            f"{name}: the statement has no value of {', '.join(missing)}, which may be a secret",
            hint=" ".join(f"--build-arg {each}=VALUE" for each in missing),
        )
    if more := [each for each in given if each not in asked]:
        raise UsageError(
            f"--build-arg {more[0]}: no such argument, or one whose value the statement has",
            hint="leave it out",
        )
    return {**known, **given}


def _bring(source: Posted, record: BuildRecord, stored: StoredManifest, store: Store) -> None:
    """Make sure that every blob a request named is in the store; raises what is missing."""
    sizes = {layer.digest: layer.size for step in record.steps for layer in step.layers}
    with store.reading():
        missing = [
            f"{name} ({digest})"
            for digest, name in source.blobs.items()
            if store.blobs.size(digest) is None
            and not (digest in sizes and store.blobs.bring(digest, sizes[digest]))
        ]
    if missing:
        raise DamagedError(
            f"{stored.name} cannot be built again: the store no longer has {missing[0]}"
            + (f" and {len(missing) - 1} more of the request's files" if missing[1:] else ""),
            hint="upload what is missing again: POST /api/blobs/sha256:DIGEST",
        )


def from_modelfile(
    data: bytes,
    script: Script,
    lock: tuple[BuildLock, Path] | None,
    stored: StoredManifest,
    store: Store,
    on_read: OnRead,
    *,
    elsewhere: Path | None = None,
) -> Build:
    """The build of a model from a Modelfile, with the options of its lock and held to it.

    Raises :class:`UsageError` where none of the lock's variants is the model.
    """
    if opens_stages(data):
        raise UsageError(
            f"{script.name} has stages, of which one made {stored.name}",
            hint="leave -f out: the history knows the stage and its arguments",
        )
    recipe, warnings = read_recipe(data, script.name, store)
    context = _context(script, store, on_read, elsewhere)
    request = BuildRequest((Target((stored.name,)),), script)
    if lock is None:
        return Build(request, recipe, context, warnings=warnings, fetching=_NOTHING)
    request = locked_request(lock[0], _locked_target(*lock, stored), script)
    wanted = Build(request, recipe, context, warnings=warnings, fetching=_NOTHING)
    return wanted._replace(gate=Locked(*lock, wanted, store))


def _locked_target(lock: BuildLock, path: Path, stored: StoredManifest) -> Target:
    """The locked variant that is this model."""
    same = [name for name, result in lock.results.items() if result["id"] == str(stored.id)]
    chosen = same or list(lock.results)
    if len(chosen) != 1:
        raise UsageError(
            f"none of the variants in {path} is {stored.name}: {', '.join(lock.results)}",
            hint="name the Modelfile that the model was built from, or build it again",
        )
    quantization = None if chosen[0] == UNQUANTIZED else locked_quantization(lock, chosen[0])
    return Target((stored.name,), quantization)


def with_converter(wanted: Build, converter: ForeignConverter) -> Build:
    """The same build with the checkout that its checkpoint was converted with.

    Raises :class:`UsageError` for another checkout, and for a build that asked none.
    """
    asked = wanted.request.converter
    if asked is None or asked.digest != converter.digest:
        said = "no other converter" if asked is None else f"code with the digest {asked.digest}"
        raise UsageError(
            f"--converter {converter.path}: the model was converted by {said}",
            hint="leave --converter out" if asked is None else "name a checkout with that code",
        )
    return wanted._replace(request=wanted.request._replace(converter=converter))
