"""How well a model predicts a text, and how far it is from another one.

The rules are llama-perplexity's (``tools/perplexity/perplexity.cpp`` of llama.cpp b11549): of
each chunk the second half counts, all but its last position. No logits are kept: two models
go through the text in step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.runtime.statistics.passes import Logits, Network, TextChunks

Reals = NDArray[np.float64]


class Quality(NamedTuple):
    """Of a model on a text, over ``positions`` of it; errors are those of the mean.

    Divergences (nats) and the share of equal first choices are None without another model.
    """

    positions: int
    perplexity: float
    perplexity_error: float
    base_perplexity: float | None = None
    mean_kld: float | None = None
    mean_kld_error: float | None = None
    kld_99: float | None = None
    max_kld: float | None = None
    same_top: float | None = None


class Tally:
    """What was found at each position so far."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._base_losses: list[float] = []
        self._divergences: list[float] = []
        self._same = 0

    def add(self, logits: Logits, token: int, base: Logits | None) -> None:
        """One position: the model's logits, the word that followed, the other's logits."""
        own = log_softmax(logits)
        self._losses.append(-float(own[token]))
        if base is None:
            return
        other = log_softmax(base)
        self._base_losses.append(-float(other[token]))
        self._divergences.append(float(np.exp(other) @ (other - own)))
        self._same += int(own.argmax() == other.argmax())

    def quality(self) -> Quality:
        """What it comes to."""
        mean, error = _mean(self._losses)
        found = Quality(len(self._losses), math.exp(mean), math.exp(mean) * error)
        if not self._divergences:
            return found
        mean_kld, kld_error = _mean(self._divergences)
        return found._replace(
            base_perplexity=math.exp(_mean(self._base_losses)[0]),
            mean_kld=mean_kld,
            mean_kld_error=kld_error,
            kld_99=float(np.quantile(self._divergences, 0.99)),
            max_kld=max(self._divergences),
            same_top=self._same / len(self._divergences),
        )


def log_softmax(logits: Logits) -> Reals:
    """Logarithms of the probabilities (float64) that logits stand for."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= math.log(float(np.exp(shifted).sum()))
    return shifted


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean, and the standard error of it."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def measure(
    path: str, against: str | None, text: bytes, n_ctx: int, most: int, threads: int
) -> Iterator[tuple[int, TextChunks, Tally]]:
    """Run a text; after each chunk its number, all chunks, and what was found.

    Raises :class:`UsageError` for models of different vocabularies and short texts, and
    :class:`EngineError`.
    """
    tally = Tally()
    model = Network(path, n_ctx, threads)
    base = None
    try:
        base = Network(against, n_ctx, threads) if against is not None else None
        if base is not None and base.words != model.words:
            raise UsageError(
                f"the models have {model.words} and {base.words} tokens: their answers cannot be"
                " compared",
                hint="compare a model with the one that it was quantized from",
            )
        chunks = model.chunks(text, most)
        first = n_ctx // 2
        for number, chunk in enumerate(chunks.tokens, 1):
            others = base.run(chunk, first) if base is not None else None
            for place, logits in enumerate(model.run(chunk, first), first):
                other = next(others) if others is not None else None
                if place + 1 < len(chunk):
                    tally.add(logits, int(chunk[place + 1]), other)
            yield number, chunks, tally
    finally:
        model.close()
        if base is not None:
            base.close()
