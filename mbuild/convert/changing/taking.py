"""Tensors of another model in the place of a model's own, and a vocabulary that grew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import FormatError, UsageError
from mbuild.core.values import FrozenValue, replace
from mbuild.gguf.model import KV, InPieces, MetadataEntry, Model
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NORMAL_SCORE = -1000.0  # of added tokens, as llama.cpp's converter writes it
_CONTROL, _USER, _UNUSED = 3, 4, 5  # tokenizer.ggml.token_type


class TakenLoad(FrozenValue):
    """A tensor's ``load`` that is another model's: told apart from the model's own."""

    load: Callable[[], Buffer]
    count: int

    def __call__(self) -> Buffer:
        """All the bytes."""
        return self.load()

    def pieces(self, size: int, row: int = 1) -> Iterator[InPieces]:
        """The other model's pieces, where it can be cut."""
        if isinstance(self.load, InPieces):
            yield from self.load.pieces(size, row)
        else:
            yield self


def take_tensors(model: Model, pattern: str, other: Model, name: str) -> Model:
    """The model with the tensors of another one whose names a regular expression is found in.

    Raises :class:`UsageError` where it is found in none, :class:`FormatError` for one that
    the model has not, or has in another shape.
    """
    found = re.compile(pattern)
    taken = {tensor.name: tensor for tensor in other.tensors if found.search(tensor.name)}
    if not taken:
        example = other.tensors[0].name if other.tensors else ""
        raise UsageError(
            f"TAKE {pattern:.60} FROM {name}: no tensor is called so",
            hint=f"a tensor is named, for example, {example}",
        )
    own = {tensor.name: tensor for tensor in model.tensors}
    for tensor in taken.values():
        here = own.get(tensor.name)
        if here is None or here.dims != tensor.dims:
            what = "has no such tensor" if here is None else f"has it with {list(here.dims)}"
            raise FormatError(
                f"TAKE {pattern:.60} FROM {name}: {tensor.name} has {list(tensor.dims)}, the model"
                f" {what}",
                hint="both models must be of one family and of one size",
            )
    tensors = tuple(
        replace(taken[t.name], load=TakenLoad(taken[t.name].load, taken[t.name].nbytes))
        if t.name in taken
        else t
        for t in model.tensors
    )
    return replace(model, tensors=tensors)


def grown(model: Model, old: int, added: Mapping[int, tuple[str, bool]]) -> Model:
    """The model's vocabulary with as many tokens as its embeddings have rows now.

    ``old`` is how many rows there were; ``added`` has the new tokens by their numbers, and
    whether each is special. A number without a token is padding, as llama.cpp's converter
    writes it.
    """
    rows = next((t.dims[-1] for t in model.tensors if t.name == "token_embd.weight"), old)
    tokens = model.read("tokenizer.ggml.tokens")
    if rows <= old or not tokens:
        return model
    numbers = range(len(tokens), rows)
    more = [added.get(number, (f"[PAD{number}]", None)) for number in numbers]
    kinds = [_UNUSED if s is None else _CONTROL if s else _USER for _, s in more]
    further: dict[str, list[Any]] = {
        "tokenizer.ggml.tokens": [text for text, _ in more],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [_NORMAL_SCORE] * len(more),
    }
    arch = model.read("general.architecture")

    def longer(entry: MetadataEntry) -> MetadataEntry:
        if entry.key == f"{arch}.vocab_size":
            return KV(entry.key, entry.type, rows)
        if entry.key not in further or entry.type is not ValueType.ARRAY:
            return entry
        value = model.read(entry.key)
        return KV(entry.key, entry.type, [*value, *further[entry.key]], entry.element)

    return replace(model, metadata=tuple(map(longer, model.metadata)))
