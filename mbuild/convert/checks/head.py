"""The output matrix of models that take the embedding for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mbuild.convert.read.dtypes import to_f32
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

_SAMPLE, _SAMPLES = 4096, 64
"""Elements that are compared in one place of two matrices, and in how many places."""


def check_head(hp: Hyper, kept: bool, head: Lazy | None, embedding: Lazy | None) -> Iterator[str]:
    """Warnings of an output matrix beside an embedding that counts as both.

    ``kept`` says whether the model gets the matrix. Raises :class:`UnsupportedError` where it
    does not, and the two are trained apart.
    """
    tied = hp.config.get("tie_word_embeddings")
    if head is None or embedding is None or (kept and tied is not True):
        return
    if not differ(head, embedding):
        return
    if kept:
        yield (
            f"config.json says tie_word_embeddings: true, but {head.origin} differs from the"
            " embedding; it is kept as the output matrix"
        )
        return
    said = f"llama.cpp uses the embedding in its place in all {hp.arch} models"
    if tied is False:
        raise UnsupportedError(
            f"{head.origin} differs from the embedding, but {said};"
            " config.json says tie_word_embeddings: false",
            hint="train the model with tied embeddings",
        )
    yield f"{head.origin} is left out although it differs from the embedding: {said}"


def differ(head: Lazy, embedding: Lazy) -> bool:
    """Whether two matrices are not one: told from values here and there."""
    if head.shape != embedding.shape or head.part is None or embedding.part is None:
        return head.shape != embedding.shape
    for start in range(0, head.size, max(_SAMPLE, head.size // _SAMPLES)):
        stop = min(start + _SAMPLE, head.size)
        one = to_f32(head.part(start, stop), head.dtype)
        if one.tobytes() != to_f32(embedding.part(start, stop), embedding.dtype).tobytes():
            return True
    return False
