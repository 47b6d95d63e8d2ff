"""A model that has no name yet is asked."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from mbuild.core.names import ModelName
from mbuild.runtime.asked import Ask, ChatTurn, Finished
from mbuild.runtime.pool import Pool
from mbuild.runtime.runnable import runnable_of
from mbuild.runtime.runner import Runner
from mbuild.store import StoredManifest

if TYPE_CHECKING:
    from mbuild.build.graph import StepContext
    from mbuild.build.steps.manifest import Assembled
    from mbuild.runtime.runnable import Runnable
    from mbuild.store import Store

LONGEST = 256
"""Tokens of an answer at most."""

_OPTIONS = {"temperature": 0, "seed": 0}
"""Always the likeliest word: the same answer each time on one machine."""


def answer(model: Assembled, prompt: str, context: StepContext) -> str:
    """What a model answers to a prompt.

    Raises :class:`mbuild.runtime.failure.NoEngineError`, and what running it raises.
    """
    store = cast("Store", context.store)
    for layer in model.manifest.blobs():
        store.blobs.bring(layer.digest, layer.size)
    stored = StoredManifest(ModelName.parse("unnamed"), model.id, model.manifest, 0)
    return asyncio.run(_asked(runnable_of(store, stored, {}), prompt, store, context))


async def _asked(model: Runnable, prompt: str, store: Store, context: StepContext) -> str:
    pool = Pool("")
    parts = []
    ask = Ask((ChatTurn("user", prompt),), {**_OPTIONS, "num_predict": LONGEST}, think=False)
    try:
        async with aclosing(Runner(lambda: store, pool).answer(model, ask)) as pieces:
            async for piece in pieces:
                context.report(0, 0)
                if not isinstance(piece, Finished):
                    parts.append(piece.content)
    finally:
        await pool.close()
    return "".join(parts)
