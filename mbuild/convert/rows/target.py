"""What a draft's row knows of the model that it drafts for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.conversion import TARGET
from mbuild.convert.read.dtypes import NUMPY
from mbuild.convert.read.lazy import Packed
from mbuild.convert.rows.hyper import as_integer, missing
from mbuild.core.errors import FormatError
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors


def target_config(hp: Hyper) -> Mapping[str, Any]:
    """The target's config.json, its text half laid over it; empty without a target."""
    root = hp.files.json_object(f"{TARGET}config.json") or {}
    nested = root.get("text_config")
    return {**root, **nested} if isinstance(nested, dict) else root


def target_integer(hp: Hyper, name: str) -> int:
    """A number of the target's config.json; raises :class:`FormatError` where there is none."""
    value = target_config(hp).get(name)
    if value is None:
        raise missing(name, file="the target's config.json")
    return as_integer(value, name, low=1)


def check_reduced(hp: Hyper, tensors: Tensors, head: str) -> None:
    """Raise :class:`FormatError` where a draft with some of its target's tokens lacks the table of
    them, or the ``head`` that only it can have."""
    whole, own = hp.integer("vocab_size", low=1), hp.optional_integer("draft_vocab_size") or 0
    if not 0 < own < whole:
        return
    missing = next((name for name in ("d2t", head) if name not in tensors), None)
    if missing is not None:
        raise FormatError(
            f"config.json says draft_vocab_size {own} of {whole}, but there is no tensor"
            f" {missing!r}",
            hint="a shard is missing",
        )


def draft_tokens(hp: Hyper, tensors: Tensors, vocabulary: int) -> Iterator[tuple[str, Packed]]:
    """``d2t``: for each token of the draft the target's, int64, from the differences in the
    checkpoint. Raises :class:`FormatError` for one that the target does not have, or has twice.
    """
    lazy = tensors.get("d2t")
    if lazy is None:
        return
    import numpy as np

    if NUMPY.get(lazy.dtype, "") not in ("<i4", "<i8"):
        raise FormatError(f"{lazy.origin} is {lazy.dtype}; whole numbers are needed")
    differences = lazy.load().astype("<i8").reshape(-1)
    tokens = differences + np.arange(differences.size, dtype="<i8")
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocabulary):
        raise FormatError(
            f"{lazy.origin} leads to token {int(tokens.max())}, but the target has {vocabulary}",
            hint="the draft was trained for another target",
        )
    if np.unique(tokens).size != tokens.size:
        raise FormatError(f"{lazy.origin} leads to one token of the target twice")
    data = tokens.view(np.uint8)
    yield "d2t", Packed(GGMLType.I64, (int(tokens.size),), lambda: data, lazy.origin)
