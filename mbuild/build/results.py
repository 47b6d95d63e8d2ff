"""The result of a step: by which key it is kept, and what running a graph gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import Made, Result, Step
from mbuild.core.digest import canonical_json, sha256
from mbuild.core.errors import MbuildError
from mbuild.core.events import Cause, Note
from mbuild.core.values import NamedTuple
from mbuild.store.records import DESCRIPTION, STEP

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.store import Layer
    from mbuild.store.ports import BuildStore


def describe(step: Step, inputs: Sequence[Result]) -> dict[str, Any] | None:
    """Everything that decides a step's result; None while that is not known.

    This value is what is hashed for the key, and what is printed to explain a
    rebuild. Inputs count with their results, so a step that comes out
    unchanged stops the rebuild.
    """
    own = step.key_fields()
    if own is None:
        return None
    return {
        "kind": step.kind,
        "version": step.version,
        "fields": own,
        "inputs": [
            {"kind": source.kind, "result": json.loads(result.to_json())}
            for source, result in zip(step.inputs, inputs, strict=True)
        ],
    }


def cache_key(description: Mapping[str, Any]) -> str:
    """The key under which a result is kept: the SHA-256 of the description."""
    return sha256(canonical_json(description).encode()).hexdigest()


class StepCache:
    """The results of steps that a store keeps; without ``use_cache`` none is taken from it."""

    def __init__(self, store: BuildStore, use_cache: bool = True) -> None:
        self.store = store
        self.use_cache = use_cache

    def look_up(
        self, step: Step, results: Mapping[Step, Result], bring: bool = True
    ) -> tuple[Result | None, str]:
        """The cached result of a step, if it is recorded and its layers are still there.

        With it the step's key, empty while that is not known. Layers that only the cache
        keeps are brought back, unless nothing is to be written.
        """
        if not self.use_cache or any(source not in results for source in step.inputs):
            return None, ""
        description = describe(step, [results[source] for source in step.inputs])
        if description is None:
            return None, ""
        key = cache_key(description)
        return self._cached(key, bring), key

    def _cached(self, key: str, bring: bool) -> Result | None:
        """What is recorded under a key, if its layers are still there; ``bring`` them back."""
        text = self.store.cache.get(STEP, key)
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, MbuildError):
            result = Result.from_json(text)
            sizes = {layer.digest: layer.size for layer in result.layers}
            blobs = self.store.blobs
            if bring:
                whole = all(blobs.bring(*item) for item in sizes.items())
            else:
                whole = not blobs.missing(sizes)
            if whole:
                return result
        return None

    def lost(self, key: str) -> Note:
        """Why there is no result under a key: it was never there, or its layers are gone.

        Without a key files had to be read for it, and nothing but that was the reason.
        """
        if not key:
            return Note(Cause.READ_AGAIN)
        text = self.store.cache.get(STEP, key)
        with suppress(ValueError, KeyError, TypeError, MbuildError):
            for layer in Result.from_json(text or "").layers:
                size = self.store.blobs.size(layer.digest)
                if size is not None and size != layer.size:
                    return Note(Cause.LAYER_DAMAGED, {"layer": layer.digest.short, "size": size})
                if size is None:
                    return Note(Cause.LAYER_REMOVED, {"layer": layer.digest.short})
        return Note(Cause.RESULT_REMOVED)

    def record(self, description: Mapping[str, Any], made: Made) -> str:
        """Keep a step's result, and its description, under its key; returns the key.

        The layers that it made outlive the models that name them.
        """
        for layer in made.new:
            self.store.blobs.keep(layer.digest)
        key = cache_key(description)
        self.store.cache.put(STEP, key, made.result.to_json())
        self.store.cache.put(DESCRIPTION, key, description)
        return key


class Run(NamedTuple):
    """When a step ran: seconds since the clock's zero, and seconds of work.

    ``new`` are the layers that it made and that the store did not have before, ``limits``
    the seconds in which each resource held it up.
    """

    started: float
    seconds: float
    new: tuple[Layer, ...] = ()
    limits: Mapping[str, float] = {}

    @property
    def written(self) -> int:
        """Bytes of the new layers."""
        return sum(layer.size for layer in self.new)


class Outcome:
    """What running a graph gave: every step's result and key.

    ``begun`` says when steps began, by the monotonic clock, those that never ended
    among them. For those that ran also when they did, what was hashed for their keys, and
    why there was no cached result, should no input have changed. ``files`` are the digests
    that were found by reading, by path. ``fetched`` are the bytes of layers that came from other
    machines.
    """

    def __init__(self) -> None:
        self.results: dict[Step, Result] = {}
        self.keys: dict[Step, str] = {}
        self.ran: dict[Step, Run] = {}
        self.begun: dict[Step, float] = {}
        self.descriptions: dict[Step, dict[str, Any]] = {}
        self.lost: dict[Step, Note] = {}
        self.files: dict[str, Digest] = {}
        self.fetched: dict[Step, int] = {}
