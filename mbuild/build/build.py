"""Builds: from a request to a named model, as a stream of events."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import in_order
from mbuild.build.prepare import Build, fetched, prepared
from mbuild.build.recording import Recorder
from mbuild.build.results import Outcome
from mbuild.build.steps.manifest import Assembled
from mbuild.core.digest import Digest
from mbuild.core.errors import BusyError, CancelledError, DamagedError
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    BuildStarted,
    Code,
    Explained,
    LayerReady,
    ModelBuilt,
    Replaced,
    Status,
    Warned,
    WritingManifest,
)

if TYPE_CHECKING:
    from mbuild.build.history import BuildRecord
    from mbuild.build.request import BuildRequest
    from mbuild.core.names import ModelName
    from mbuild.store import Store
    from mbuild.store.shared import SharedCache
    from mbuild.work.cancel import Cancel

_NOTICE_SECONDS = 1.0


def build(wanted: Build, store: Store) -> Generator[BuildEvent, None, None]:
    """Build and name the model; raises :class:`MbuildError` for everything that can go wrong.

    Closing the iterator stops the build; nothing half done is left.
    """
    recorder = Recorder(wanted, store)
    with ExitStack() as stack:
        try:
            stack.enter_context(store.using(timeout=_NOTICE_SECONDS))
        except BusyError:
            yield Status(Code.WAITING_FOR_PRUNE)
            stack.enter_context(store.using())
        yield from _recorded(wanted, store, recorder)


def _recorded(wanted: Build, store: Store, recorder: Recorder) -> Iterator[BuildEvent]:
    """Build, and add the build to the log, however it ends."""
    models: dict[str, Digest] = {}
    try:
        finished = yield from _build(wanted, store, recorder, models)
    except Exception as error:
        stopped = isinstance(error, CancelledError)
        recorder.ends("stopped" if stopped else "failed", str(error), models)
        raise
    except BaseException:  # Ctrl-C, or whoever followed the build went away
        recorder.ends("stopped", models=models)
        raise
    warning = _attest(recorder.ends("built", models=models), recorder, store)
    if warning:
        yield Warned(warning)
    if recorder.reasons and not recorder.first:
        yield Explained(tuple(recorder.reasons.values()))
    yield finished


def _attest(record: BuildRecord, recorder: Recorder, store: Store) -> str:
    """Keep statements about new models; why that cannot be done, if it cannot.

    A build with nothing to do has nothing to say that was not said before.
    """
    if not recorder.ran and all(map(store.has_provenance, record.models.values())):
        return ""
    from mbuild.build.provenance.keeping import keep

    return keep(record, recorder.found, recorder.plans, recorder.files, store)


def _build(
    wanted: Build, store: Store, recorder: Recorder, ids: dict[str, Digest]
) -> Generator[BuildEvent, None, BuildFinished]:
    """Run the graph and name what it made; ``ids`` fills with the names given."""
    script = wanted.request.script
    for warning in wanted.warnings:
        span = warning.span
        place = (span.file or script.name, span.line, span.column) if script and span else ()
        yield Warned(warning.message, *place)
    yield from recorder.watched(fetched(wanted, store))
    found, plans = prepared(wanted, store)
    steps = [planned.manifest for planned in plans]
    outcome = Outcome()
    ends = [step for planned in plans for step in planned.ends]
    recorder.begins(steps, outcome, ends)
    recorder.found, recorder.plans = found, plans
    request = wanted.request
    yield BuildStarted(str(request.names[0]), len(in_order(ends)))
    pulled = {p.base.name: _id(store, p.base.name) for p in plans if p.base and p.base.remote}
    engine = BuildEngine(store, wanted.use_cache, wanted.pool, wanted.cancel)
    yield from recorder.watched(engine.run(ends, outcome))
    if store.shared is not None and store.shared.writes:
        from mbuild.build.exchange import give_cached

        give_cached(store.shared, outcome.keys, outcome.results)
    for name, before in pulled.items():
        if before is not None and _id(store, name) != before:
            yield Replaced(str(name), before)
    new_configs = (planned for planned in plans if planned.manifest.config in outcome.ran)
    for text in dict.fromkeys(planned.warning for planned in new_configs if planned.warning):
        yield Warned(text)
    models = [Assembled.of(outcome.results[step]) for step in steps]
    if wanted.gate is not None:
        wanted.gate.after([model.data for model in models])
    # Of two steps that make the same blob at once only one finds it there.
    new = {layer.digest: layer for run in outcome.ran.values() for layer in run.new}
    for target, model in zip(request.targets, models, strict=True):
        yield from _layers(model, outcome, set(new))
        yield from _named(target.names if request.named else (), model, store, ids)
    written = sum(layer.size for layer in new.values())
    if store.shared is not None:
        yield from _drained(store.shared, wanted.cancel)
    return _finished(request, models, outcome, written, recorder.clock)


def _named(
    names: Sequence[ModelName], model: Assembled, store: Store, ids: dict[str, Digest]
) -> Iterator[BuildEvent]:
    """Give a model its names, each of which is noted among the ``ids``."""
    for name in names:
        yield WritingManifest(str(name))
        replaced = _name(store, name, model)
        ids[str(name)] = model.id
        if replaced is not None:
            yield Replaced(str(name), replaced)
    size = sum(layer.size for layer in model.manifest.layers)
    yield ModelBuilt(str(names[0]) if names else "", model.id, size)


def _drained(shared: SharedCache, cancel: Cancel | None) -> Iterator[BuildEvent]:
    """Wait for what is still on its way to the shared cache; the models have their names."""
    said, done = False, 0
    for done, total in shared.drain() if shared.writes else ():
        if cancel is not None:
            cancel.check()
        if not said and done < total:
            said = True
            yield Status(Code.SENDING_SHARED, {"size": total - done})
    if done and shared.writes:
        yield Status(Code.SENT_SHARED, {"size": done})


def _id(store: Store, name: ModelName) -> Digest | None:
    """The id of the model of that name, if there is one."""
    data = store.manifests.read_bytes(store.manifests.resolve(name))
    return None if data is None else Digest.of(data)


def _layers(model: Assembled, outcome: Outcome, new: set[Digest]) -> Iterator[BuildEvent]:
    """One event for each layer of the manifest, in its order; a new one is said once."""
    detected = {
        layer.digest: result.facts["template"]
        for result in outcome.results.values()
        if "template" in result.facts
        for layer in result.layers
    }
    for layer in model.manifest.layers:
        if layer.digest in detected:
            template = detected[layer.digest]
            yield Status(Code.AUTODETECTED_TEMPLATE, {"template": template})
        else:
            existing = layer.digest not in new
            yield LayerReady(layer.digest, layer.media_type, layer.size, existing)
            new.discard(layer.digest)


def _name(store: Store, name: ModelName, model: Assembled) -> Digest | None:
    """Give the model its name, unless it has it already; the id of the one that had it.

    Ollama removes blobs that no manifest names when it starts, and may have done so since
    the steps ended: those that the cache keeps are brought back before they are named.
    """
    stored = store.manifests.resolve(name)
    if store.manifests.read_bytes(stored) == model.data:
        return None
    for layer in model.manifest.blobs():
        if not store.blobs.bring(layer.digest, layer.size):
            raise DamagedError(
                f"layer {layer.digest} was removed while the build ran", hint="build again"
            )
    return store.replace(stored, model.data)


def _finished(
    request: BuildRequest,
    models: Sequence[Assembled],
    outcome: Outcome,
    written: int,
    started: float,
) -> BuildFinished:
    return BuildFinished(
        ", ".join(str(target.names[0]) for target in request.targets) if request.named else "",
        models[0].id,
        len(outcome.ran),
        len(outcome.results) - len(outcome.ran),
        written,
        time.monotonic() - started,
    )
