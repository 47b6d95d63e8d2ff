"""Builds: from a request to a named model, as a stream of events."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mbuild.build.engine import Engine, Outcome
from mbuild.build.graph import in_order
from mbuild.build.plan import Plan
from mbuild.build.recording import Recorder
from mbuild.build.request import Request, plans_of
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
from mbuild.store import Layer, Manifest

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.store import Store

_NOTICE_SECONDS = 1.0


def build(request: Request, store: Store) -> Generator[BuildEvent, None, None]:
    """Build and name the model; raises :class:`MbuildError` for everything that can go wrong.

    Closing the iterator stops the build; nothing half done is left.
    """
    recorder = Recorder(request, store)
    with ExitStack() as stack:
        try:
            stack.enter_context(store.using(timeout=_NOTICE_SECONDS))
        except BusyError:
            yield Status(Code.WAITING_FOR_PRUNE)
            stack.enter_context(store.using())
        yield from _recorded(request, store, recorder)


def _recorded(request: Request, store: Store, recorder: Recorder) -> Iterator[BuildEvent]:
    """Build, and add the build to the log, however it ends."""
    models: dict[str, Digest] = {}
    try:
        finished = yield from _build(request, store, recorder, models)
    except Exception as error:
        stopped = isinstance(error, CancelledError)
        recorder.ends("stopped" if stopped else "failed", str(error), models)
        raise
    except BaseException:  # Ctrl-C, or whoever followed the build went away
        recorder.ends("stopped", models=models)
        raise
    recorder.ends("built", models=models)
    if recorder.reasons and not recorder.first:
        yield Explained(tuple(recorder.reasons.values()))
    yield finished


def _build(
    request: Request, store: Store, recorder: Recorder, models: dict[str, Digest]
) -> Generator[BuildEvent, None, BuildFinished]:
    """Run the graph and name what it made; ``models`` fills with the names given."""
    for warning in request.warnings:
        yield Warned(warning)
    plans = plans_of(request, store)
    targets = [planned.manifest for planned in plans]
    outcome = Outcome()
    recorder.begins(targets, outcome)
    yield BuildStarted(str(request.names_of(0)[0]), len(in_order(targets)))
    yield from Engine(store, request.use_cache).run(targets, outcome)
    manifests = [outcome.results[target].facts["manifest"].encode() for target in targets]
    if request.gate is not None:
        request.gate.after(manifests)
    for number, (planned, data) in enumerate(zip(plans, manifests, strict=True)):
        yield from _layers(planned, outcome)
        for name in request.names_of(number) if request.named else ():
            yield WritingManifest(str(name))
            replaced = _name(store, name, data)
            models[str(name)] = Digest.of(data)
            if replaced is not None:
                yield Replaced(str(name), replaced)
        named = str(request.names_of(number)[0]) if request.named else ""
        size = sum(layer.size for layer in Manifest.decode(data, "the new manifest").layers)
        yield ModelBuilt(named, Digest.of(data), size)
    return _finished(request, plans, outcome, recorder.clock)


def _layers(planned: Plan, outcome: Outcome) -> Iterator[BuildEvent]:
    """One event for each layer of the manifest, in its order."""
    # Of two steps that make the same blob at once only one finds it there.
    new = {
        layer.digest
        for step in outcome.ran
        for layer in outcome.results[step].layers
        if layer.digest not in outcome.results[step].existed
    }
    detected = {
        layer.digest: result.facts["template"]
        for result in outcome.results.values()
        if "template" in result.facts
        for layer in result.layers
    }
    data = outcome.results[planned.manifest].facts["manifest"].encode()
    for layer in Manifest.decode(data, "the new manifest").layers:
        if layer.digest in detected:
            template = detected[layer.digest]
            yield Status(Code.AUTODETECTED_TEMPLATE, {"template": template})
        else:
            existing = layer.digest not in new
            yield LayerReady(layer.digest, layer.media_type, layer.size, existing)
            new.discard(layer.digest)


def _name(store: Store, name: ModelName, data: bytes) -> Digest | None:
    """Give the model its name, unless it has it already; the id of the one that had it.

    Ollama removes blobs that no manifest names when it starts, and may have done so since
    the steps ended: those that the cache keeps are brought back before they are named.
    """
    stored = store.manifests.resolve(name)
    if store.manifests.read_bytes(stored) == data:
        return None
    for layer in Manifest.decode(data, "the new manifest").blobs():
        if not store.blobs.bring(layer.digest, layer.size):
            raise DamagedError(
                f"layer {layer.digest} was removed while the build ran", hint="build again"
            )
    return store.replace(stored, data)


def _finished(
    request: Request, plans: Sequence[Plan], outcome: Outcome, started: float
) -> BuildFinished:
    new: dict[Digest, Layer] = {
        layer.digest: layer
        for step in outcome.ran
        for layer in outcome.results[step].layers
        if layer.digest not in outcome.results[step].existed
    }
    data = outcome.results[plans[0].manifest].facts["manifest"].encode()
    return BuildFinished(
        ", ".join(str(request.names_of(number)[0]) for number in range(len(plans)))
        if request.named
        else "",
        Digest.of(data),
        len(outcome.ran),
        len(outcome.results) - len(outcome.ran),
        sum(layer.size for layer in new.values()),
        time.monotonic() - started,
    )
