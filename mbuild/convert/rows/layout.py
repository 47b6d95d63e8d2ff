"""A tensor that a model has or may have, as one line of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mbuild.core.values import EMPTY, Frozen, FrozenValue, NamedTuple

if TYPE_CHECKING:
    from mbuild.convert.rows.sizes import Size, Sizes

Where = Callable[["Sizes", int], bool]


class Slot(NamedTuple):
    """A place for one tensor.

    Attributes:
        name: GGUF's name, without ``blk.N.`` in a layer.
        dims: sums of products of sizes, as GGUF counts: the fastest dimension first.
        together: empty for a tensor that must be there; else the name of a set of tensors that
            are there all or none, in all layers or in none.
        whole: kept as F32 though it is a matrix.
    """

    name: str
    dims: tuple[str, ...]
    together: str = ""
    whole: bool = False


class Group(Frozen):
    """Tensors of those layers that ``where`` names."""

    slots: tuple[Slot, ...]
    where: Where = lambda sizes, layer: True


class TensorLayout(FrozenValue):
    """All tensors of an architecture.

    Attributes:
        model: those outside the layers.
        layers: those of each layer.
        keys: metadata that llama.cpp needs, without the architecture's name.
        one_head: a head's rotary part is the whole head; nothing else is loaded.
        sizes: those that this architecture alone has; the others are :data:`rows.sizes.SIZES`.
        doubts: what llama.cpp's converter writes all the same and its loader does not take, from
            the sizes and the tensors' shapes.
    """

    model: tuple[Slot, ...]
    layers: tuple[Group, ...]
    keys: tuple[str, ...]
    one_head: bool = False
    sizes: Mapping[str, Size] = EMPTY
    doubts: Callable[[Sizes, Mapping[str, tuple[int, ...]]], Iterable[str]] | None = None

    @property
    def tied(self) -> bool:
        """Whether the embedding is always the output matrix too."""
        return not any(slot.name == "output.weight" for slot in self.model)

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors; of those in layers without the layer."""
        groups = (self.model, *(group.slots for group in self.layers))
        return frozenset(slot.name for slots in groups for slot in slots)

    def at(self, sizes: Sizes, layer: int) -> list[Slot]:
        """The tensors of one layer: none for a layer that the checkpoint was saved without.

        A draft model has nothing but layers for multi-token prediction.
        """
        if ahead(sizes, layer) and not ahead(sizes, 0) and not sizes.value("predicts", layer):
            return []
        return [slot for group in self.layers if group.where(sizes, layer) for slot in group.slots]


def in_layer(name: str, layer: int) -> str:
    """The whole name of a slot of a layer; ``enc.`` and ``dec.`` stand before the layer."""
    half = name[:4] if name.startswith(("enc.", "dec.")) else ""
    return f"{half}blk.{layer}.{name[len(half) :]}"


def ahead(sizes: Sizes, layer: int) -> bool:
    """The last layers, which are for multi-token prediction."""
    return layer >= (sizes.value("layers", layer) or 0) - (sizes.value("nextn", layer) or 0)


def slots(text: str) -> tuple[Slot, ...]:
    """Slots from lines of ``NAME DIM...``; ``.weight`` is left out of names, and a name that ends
    with a dot has no ending at all.

    A question mark in front makes one optional: ``?`` alone for itself, ``?SET`` with others.
    ``F32`` at the end keeps a small matrix in full precision, whatever others become.
    """
    result = []
    for line in filter(str.strip, text.splitlines()):
        first, *rest = line.removesuffix(" F32").split()
        together = ""
        if first.startswith("?"):
            together, (first, *rest) = first[1:] or rest[0], rest
        whole = first.endswith((".bias", ".weight"))
        name = first if whole else f"{first}.weight" if first[-1] != "." else first[:-1]
        result.append(Slot(name, tuple(rest), together, line.endswith(" F32")))
    return tuple(result)
