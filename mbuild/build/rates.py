"""How long making a result takes here, so that it is known whether to fetch it instead.

Measured where that was done: by this machine's last steps of the kind, else by what the step took
whoever has made it; only where neither is known by a figure that holds for most.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.store.records import RATES, TOOK, Took

if TYPE_CHECKING:
    from mbuild.build.graph import Step
    from mbuild.store.ports import BuildStore
    from mbuild.store.shared import SharedCache

_CORE_RATE = 100_000_000
"""Bytes of new weights that a core makes in a second, where nothing is known."""

_START_SECONDS = 2.0
"""What opening a checkpoint and loading kernels may take: small layers are fetched."""

_SHORTEST = 0.25  # seconds: what takes less tells how long a start takes, and not a rate
_KEPT = 8  # measurements of a kind


class Estimate(NamedTuple):
    """Seconds, and what they were taken from: ``here``, ``elsewhere`` or a ``guess``."""

    seconds: float
    source: str


def remember(store: BuildStore, step: Step, size: int, took: Took) -> None:
    """Keep how long this machine took to make so many bytes; a short run tells nothing."""
    if took.seconds < _SHORTEST or size <= 0:
        return
    key = _kind(step)
    known = store.cache.get(RATES, key) or []
    work = round(took.seconds * took.cores, 4)
    store.cache.put(RATES, key, [*known[1 - _KEPT :], [size, work]])


def seconds_to_make(
    step: Step, key: str, store: BuildStore, shared: SharedCache, size: int
) -> Estimate | None:
    """How long a result of so many bytes would take here; None where only running could tell.

    That is where something has to be loaded first, and of types that take a search and that
    nobody has measured.
    """
    if any(not each.is_there(store, bring=False) for each in step.needs):
        return None
    from mbuild.work.cores import cores

    with suppress(MbuildError):
        cost = step.cost(store)
        if cost.writes is None:
            return None
        own = store.cache.get(RATES, _kind(step))
        if own:
            rates = sorted(work / made for made, work in own)
            return Estimate(rates[len(rates) // 2] * size / cores(), "here")
        told = shared.get_many(TOOK, [key]).get(key)
        if told is not None:
            speedup = cores() / told.cores if cost.every_core else 1.0
            return Estimate(told.seconds / speedup, "elsewhere")
        types = {tensor.after.name for tensor in cost.tensors if tensor.after is not tensor.before}
        if any(name.startswith("IQ") for name in types):
            return None
        threads = cores() if cost.every_core else 1
        return Estimate(_START_SECONDS + size / (_CORE_RATE * threads), "guess")
    return None


def _kind(step: Step) -> str:
    """Steps that take as long for as many bytes."""
    return f"{step.kind} {step.target}".rstrip()
