"""What a build takes from a shared cache instead of making it, waits for, and gives to it.

Trivial steps are not asked for: they are made sooner than an answer comes. Single flight is for
those that read weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from mbuild.build.graph import Result, Step
from mbuild.build.rates import seconds_to_make
from mbuild.build.results import cache_key, describe
from mbuild.core.errors import MbuildError
from mbuild.core.events import Code
from mbuild.core.values import NamedTuple
from mbuild.shared.lease_wait import LeaseWait
from mbuild.store.records import DESCRIPTION, STEP, TOOK

if TYPE_CHECKING:
    from mbuild.build.rates import Estimate
    from mbuild.core.digest import Digest
    from mbuild.core.events import Value
    from mbuild.store.ports import BuildStore
    from mbuild.store.records import Took
    from mbuild.store.shared import SharedCache, SharedLease

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
"""Seconds between two looks for what somebody else is making."""

_LARGEST = 1 << 50
"""Bytes that no layer has."""


class Follower(Protocol):
    """The run of a graph, as it hears of steps that other machines have made."""

    def make(self, steps: Sequence[Step]) -> None:
        """Make these steps together; each result counts when it is there."""

    def took(self, step: Step, result: Result, key: str, size: int) -> None:
        """A result came, and so many bytes of its layers with it; others were here."""

    def comes(self, step: Step) -> Callable[[int, int], None]:
        """What is told the bytes of a result that are here, and all of them; it may raise."""

    def say(self, code: Code, values: Mapping[str, Value]) -> None:
        """What is going on."""

    def check(self) -> None:
        """Raise when the build was stopped."""


def matters(step: Step) -> bool:
    """Whether a step's result is worth a question to another machine."""
    return not step.fetches and not step.trivial


class Weighed(NamedTuple):
    """How long fetching takes, and making here, in seconds; None where only running could tell."""

    fetching: float = 0.0
    making: Estimate | None = None

    @property
    def pays(self) -> bool:
        """Whether to fetch."""
        return self.making is None or self.fetching <= self.making.seconds

    def values(self) -> dict[str, Value]:
        """As an event has it."""
        making, source = self.making or (0.0, "")
        return {"fetching": round(self.fetching, 2), "making": round(making, 2), "by": source}


class SharedOffer(NamedTuple):
    """A result that another machine has made: bytes to fetch, and what that takes."""

    result: Result
    size: int
    weighed: Weighed


def offer(step: Step, key: str, store: BuildStore, shared: SharedCache) -> SharedOffer | None:
    """What the shared cache has of a step, all of it; nothing is fetched but what tells how fast.

    Layers that are here already cost nothing.
    """
    text = shared.get_many(STEP, [key]).get(key) if key and matters(step) else None
    result = sane_result(step, text) if text is not None else None
    if result is None:
        return None
    sizes = {layer.digest: layer.size for layer in result.layers}
    far = {digest: sizes[digest] for digest in store.blobs.missing(sizes)}
    if not far:
        return SharedOffer(result, 0, Weighed())
    if shared.missing(far):
        return None
    return SharedOffer(result, sum(far.values()), weigh(step, key, far, store, shared))


def weigh(
    step: Step, key: str, blobs: Mapping[Digest, int], store: BuildStore, shared: SharedCache
) -> Weighed:
    """What fetching a step's blobs takes, and what making them."""
    making = seconds_to_make(step, key, store, shared, sum(blobs.values()))
    return Weighed(0.0 if making is None else shared.seconds(blobs), making)


class SharedSteps:
    """A shared cache and one run of a graph."""

    def __init__(self, store: BuildStore, shared: SharedCache, follower: Follower) -> None:
        self._store = store
        self._shared = shared
        self._follower = follower
        self._makes = True

    def work(self, keys: Mapping[Step, str]) -> None:
        """Get a result for each step, whose key is empty while it is not known.

        What is there already is fetched, where that takes less time than making it. Of the
        rest each step is made by whoever has its lease; the others wait for its record.
        """
        left = self._taken(keys)
        mine: dict[Step, SharedLease | None] = {}
        theirs: dict[Step, str] = {}
        try:
            asked = [key for step, key in left.items() if key and self._is_leased(step)]
            taken = self._shared.take_many(asked) if asked else {}
            for step, key in left.items():
                if key in asked and key not in taken:
                    theirs[step] = key
                else:
                    mine[step] = taken.get(key)
            if leases := [step for step, lease in mine.items() if lease is not None]:
                # Whoever had the lease before may have ended between the look and the lease.
                still = self._taken({step: left[step] for step in leases}, again=True)
                for step in [step for step in leases if step not in still]:
                    _release([mine.pop(step)])
            if mine:
                self._follower.make(list(mine))
        finally:
            _release(mine.values())
        for step, key in theirs.items():
            self._wait(step, key)

    def _is_leased(self, step: Step) -> bool:
        """Whether only one machine should make a step at a time."""
        return bool(matters(step) and step.reads and self._shared.writes)

    def take(self, keys: Mapping[Step, str]) -> None:
        """Take what is there and comes sooner than it is made; nothing is made."""
        self._makes = False
        self._taken(keys)

    def _taken(self, keys: Mapping[Step, str], *, again: bool = False) -> dict[Step, str]:
        """Take what is there; the steps that are left, with their keys."""
        asked = [key for step, key in keys.items() if key and matters(step)]
        found = self._shared.get_many(STEP, asked, again=again) if asked else {}
        return {
            step: key
            for step, key in keys.items()
            if key not in found or not self._take(step, key, found[key])
        }

    def _take(self, step: Step, key: str, text: str) -> bool:
        """Bring a result's layers, if they are there and come sooner than they are made."""
        result = sane_result(step, text)
        if result is None:
            return False
        sizes = {layer.digest: layer.size for layer in result.layers}
        far = {d: size for d, size in sizes.items() if not self._store.blobs.bring(d, size)}
        if far and (self._shared.missing(far) or not self._pays(step, key, far)):
            return False
        if (far and not self._fetch(step, far)) or not fits(step, result, self._store):
            return False
        self._store.cache.put(STEP, key, text)
        size = sum(far.values())
        if far:
            values: dict[str, Value] = {"step": step.label, "size": size}
            self._follower.say(Code.TOOK_SHARED, values)
        self._follower.took(step, result, key, size)
        return True

    def _fetch(self, step: Step, sizes: Mapping[Digest, int]) -> bool:
        """Fetch blobs, which the cache keeps like those that are made here."""
        report, total, done = self._follower.comes(step), sum(sizes.values()), 0
        for digest, size in sizes.items():
            before = done

            def tell(now: int, before: int = before) -> None:
                report(before + now, total)

            if not self._shared.fetch(digest, size, tell):
                return False
            self._store.blobs.keep(digest)
            done += size
        return True

    def _pays(self, step: Step, key: str, sizes: Mapping[Digest, int]) -> bool:
        """Whether to fetch; what is made instead is said."""
        weighed = weigh(step, key, sizes, self._store, self._shared)
        if not weighed.pays and self._makes:
            self._follower.say(Code.MAKING_SOONER, {"step": step.label, **weighed.values()})
        return weighed.pays

    def _wait(self, step: Step, key: str) -> None:
        """Wait for somebody else's result; take over what nobody goes on with."""
        waiting, pause, told = LeaseWait(self._shared, key), _FIRST_WAIT, ""
        while True:
            if not self._taken({step: key}, again=True):
                return
            lease = waiting.attempt()
            values = {"step": step.label, "holder": waiting.holder}
            if lease is not None and waiting.holder:
                self._follower.say(Code.TAKING_OVER, values)
            if lease is not None or not self._shared.writes:
                self._make_alone(step, key, lease)
                return
            if waiting.holder not in ("", told):
                told = waiting.holder
                self._follower.say(Code.WAITING_FOR_MACHINE, values)
            self._pause(pause)
            pause = min(pause * 1.5, _LONGEST_WAIT)

    def _make_alone(self, step: Step, key: str, lease: SharedLease | None) -> None:
        try:
            if self._taken({step: key}, again=True):
                self._follower.make([step])
        finally:
            _release([lease])

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._follower.check()
            time.sleep(min(0.1, seconds))


def foreseen(
    steps: Sequence[Step], results: Mapping[Step, Result], shared: SharedCache
) -> list[Step]:
    """The steps that have a record there, as far as their keys follow from such records.

    ``steps`` are in order, inputs before users. Those whose keys are known are asked for
    together, then those whose keys follow from the answers.
    """
    known = dict(results)
    found: list[Step] = []
    left = [step for step in steps if matters(step)]
    while True:
        keys = {step: key for step in left if (key := _key(step, known))}
        texts = shared.get_many(STEP, list(keys.values())) if keys else {}
        left = [step for step in left if step not in keys]
        new = [step for step, key in keys.items() if key in texts]
        if not new:
            return found
        found += new
        for step in new:
            result = sane_result(step, texts[keys[step]])
            if result is not None:
                known[step] = result


def _key(step: Step, results: Mapping[Step, Result]) -> str:
    if any(source not in results for source in step.inputs):
        return ""
    description = describe(step, [results[source] for source in step.inputs])
    return cache_key(description) if description is not None else ""


def give_cached(
    shared: SharedCache, keys: Mapping[Step, str], results: Mapping[Step, Result]
) -> None:
    """Send what was in the store's own cache and is not there: asked for together."""
    own = {step: key for step, key in keys.items() if key and matters(step)}
    there = shared.get_many(STEP, list(own.values())) if own else {}
    for step, key in own.items():
        if key not in there:
            give(shared, step, key, results[step])


def give(
    shared: SharedCache,
    step: Step,
    key: str,
    result: Result,
    description: Mapping[str, Any] | None = None,
    took: Took | None = None,
) -> None:
    """Send a result there, where others would ask for it, with what it was and what it took."""
    if matters(step) and key:
        blobs = {layer.digest: layer.size for layer in result.layers}
        shared.put(STEP, key, result.to_json(), blobs)
        if description is not None:
            shared.put(DESCRIPTION, key, description)
        if took is not None and blobs:
            shared.put(TOOK, key, took)


def sane_result(step: Step, text: str) -> Result | None:
    """What another machine's record says, if the step's result can be like that."""
    from mbuild.build.steps.believed import can_be

    try:
        result = Result.from_json(text)
        sane = isinstance(result.facts, dict) and can_be(step, result)
        sane = sane and all(layer.size <= _LARGEST for layer in result.layers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MbuildError):
        return None
    return result if sane else None


def fits(step: Step, result: Result, store: BuildStore) -> bool:
    """Whether what a record says of its layers is what their headers say.

    So a record that names another blob is found, where the blob is that of another kind of
    model; one of the same kind only a signature finds.
    """
    from mbuild.store.media import GGUF

    weights = [layer for layer in result.layers if layer.media_type in GGUF]
    if not weights:
        return True
    from mbuild.build.steps.gguf import LAYER_TYPES
    from mbuild.build.steps.models import as_json, read_facts

    with suppress(MbuildError):
        paths = [store.blobs.local_path(layer.digest) for layer in weights]
        facts = as_json(read_facts(paths, "a shared layer"))
        media_type = LAYER_TYPES.get((step.role, facts["kind"]))
        return result.facts == facts and all(layer.media_type == media_type for layer in weights)
    return False


def _release(leases: Iterable[SharedLease | None]) -> None:
    for lease in leases:
        if lease is not None:
            lease.release()
