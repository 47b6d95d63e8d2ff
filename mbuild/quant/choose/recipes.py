"""Recipes: which tensor of a model gets which type, in which order they are written.

:func:`plan` gives what ``llama-quantize`` would do with a model's tensors; the rules
are the tables of :mod:`mbuild.quant.choose.rules`. Nothing is quantized here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.core.values import NamedTuple
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.choose import rules
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.patterns import compile_pattern
from mbuild.quant.choose.rules import Category, TensorPlace
from mbuild.quant.choose.types import FileType

PLAIN = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})
"""Types that are not quantized."""


class HasType(Protocol):
    """What a plan needs of a tensor: :class:`mbuild.gguf.model.Tensor` has it."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Its sizes, fastest first."""

    @property
    def type(self) -> GGMLType:
        """Its type now."""


T = TypeVar("T", bound=HasType)


class RecipeFacts(NamedTuple):
    """What the rules ask of a model's metadata."""

    architecture: str
    layers: int
    heads: int
    heads_kv: int
    experts: int

    @classmethod
    def of(cls, get: Callable[..., Any]) -> RecipeFacts:
        """From ``get(key, default)``, such as :meth:`mbuild.gguf.model.Model.get`.

        A key that holds one value per layer counts with its first, as in llama.cpp; layers
        that are passed several times count as often (Nanbeige).
        """
        architecture = str(get("general.architecture", ""))

        def number(key: str, default: int) -> int:
            value = get(f"{architecture}.{key}", default)
            if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
                value = value[0] if len(value) else default
            return int(value) if isinstance(value, (int, float)) or hasattr(value, "item") else 0

        heads = number("attention.head_count", 0)
        return cls(
            architecture=architecture,
            layers=number("block_count", 0) * max(number("num_loops", 1), 1),
            heads=heads,
            heads_kv=number("attention.head_count_kv", heads),
            experts=number("expert_count", 0),
        )

    @property
    def gqa(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.heads_kv if self.heads_kv else 0

    @property
    def is_70b(self) -> bool:
        """A Llama of 80 layers with shared keys and values."""
        return self.architecture == "llama" and self.layers == 80 and self.heads != self.heads_kv


def unpruned(get: Callable[..., Any], pruned: Sequence[int]) -> Callable[..., Any]:
    """The metadata of a model as it was with the layers that were taken out of it.

    llama-quantize chooses types by the number of layers before it prunes some.
    """
    counted = f"{get('general.architecture', '')}.block_count"

    def before(key: str, default: Any = None) -> Any:
        value = get(key, default)
        return value + len(pruned) if key == counted and isinstance(value, int) else value

    return before if pruned else get


def category(name: str) -> Category:
    """What a tensor of this name is for."""
    if name in rules.EXACT:
        return rules.EXACT[name]
    for part, found in rules.CONTAINS:
        if part in name:
            return found
    return Category.OTHER


def order(tensors: Sequence[T]) -> list[T]:
    """llama-quantize's order: tensors of no layer, then by layer, each by name."""

    def key(tensor: T) -> tuple[int, bytes]:
        layer = re.match(r"blk\.([+-]?[0-9]{1,9})", tensor.name)
        return (int(layer[1]) if layer else -1, tensor.name.encode())

    return sorted(tensors, key=key)


def quantizable(name: str, dims: Sequence[int], architecture: str, leave_output: bool) -> bool:
    """Whether a tensor may get another type: a matrix of weights, and not of a kept kind."""
    sizes = list(dims)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) < 2 or not name.endswith("weight"):
        return False
    if name in rules.NEVER_EXACT or (leave_output and name == "output.weight"):
        return False
    parts = (*rules.NEVER, *rules.NEVER_OF.get(architecture, ()))
    return not any(part in name for part in parts)


def plan(
    tensors: Sequence[T],
    get: Callable[..., Any],
    options: Quantization,
    *,
    keep_order: bool = False,
) -> list[tuple[T, GGMLType]]:
    """Each tensor with the type it gets, in the order of the quantized file.

    ``keep_order``: that is the source's, as with llama-quantize's ``--keep-split``; some types
    depend on it. ``get(key, default)`` reads the model's metadata. Raises :class:`UnsupportedError`
    where a tensor that is quantized already would be changed, where a type needs an
    importance matrix and there is none, and where a named type does not fit a row.
    """
    state = _State(RecipeFacts.of(get), options.file_type, options)
    placed = list(tensors) if keep_order else order(tensors)
    state.count(placed)
    planned = [(tensor, state.type_of(tensor)) for tensor in placed]
    for tensor, new in planned:
        _check(tensor, new, options)
    return planned


def unused(tensors: Sequence[HasType], options: Quantization) -> list[str]:
    """The patterns of ``tensor_types`` that fit no tensor's name, with their types."""
    names = [tensor.name for tensor in tensors]
    return [
        f"{pattern}={type_.name}"
        for pattern, type_ in options.tensor_types
        if not any(map(compile_pattern(pattern).search, names))
    ]


def _check(tensor: HasType, new: GGMLType, options: Quantization) -> None:
    if new is tensor.type:
        return
    if tensor.type not in PLAIN and not options.allow_requantize:
        raise UnsupportedError(
            "quantization is only supported for F16, BF16 and F32 models",
            hint=f"{tensor.name} is {tensor.type.name} already; --allow-requantize decodes it",
        )
    row, block = tensor.dims[0], BLOCKS[new].weights
    if row % block:
        raise UnsupportedError(
            f"{tensor.name}: rows of {row} values are not a multiple of {block}, the block size of"
            f" {new.name}"
        )
    if not options.importances and needs_importances(tensor.name, new, options.file_type):
        raise UnsupportedError(
            f"{tensor.name}: {new.name} needs an importance matrix",
            hint="give one with --imatrix FILE",
        )


def needs_importances(name: str, new: GGMLType, file_type: FileType) -> bool:
    """Whether llama-quantize gives a tensor this type only with importances for it."""
    if name in rules.EXACT:
        return False
    small = new is GGMLType.Q2_K and file_type.name == "Q2_K_S"
    return small or new in rules.NEEDS_IMPORTANCES


@dataclass(slots=True)
class _State:
    """The running numbers that the rules go by, over one model's tensors in order."""

    facts: RecipeFacts
    file_type: FileType
    options: Quantization
    tied: bool = True
    values: int = 0
    seen: dict[Category, int] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], GGMLType]] = field(default_factory=list)

    def count(self, tensors: Sequence[HasType]) -> None:
        """Count the value tensors, see whether there is an output, compile the patterns."""
        kinds = [category(tensor.name) for tensor in tensors]
        self.values = kinds.count(Category.ATTN_V)
        self.tied = Category.OUTPUT not in kinds
        named = [*self.options.tensor_types, *self._exceptions()]
        self.patterns = [(compile_pattern(text), type_) for text, type_ in named]

    def _exceptions(self) -> list[tuple[str, GGMLType]]:
        if self.options.recipe == "llama.cpp":
            return []
        if self.options.recipe != "ollama":
            raise UsageError(
                f"unknown recipe {self.options.recipe!r}", hint="choose llama.cpp or ollama"
            )
        if self.file_type.name not in rules.OLLAMA_TYPES:
            return []
        mine = self.facts.architecture
        return [(text, type_) for archs, text, type_ in rules.OLLAMA if mine in archs]

    def type_of(self, tensor: HasType) -> GGMLType:
        """The type of the next tensor."""
        options, kind = self.options, category(tensor.name)
        mine = self.facts.architecture
        if not quantizable(tensor.name, tensor.dims, mine, options.leave_output_tensor):
            return tensor.type
        named = next((t for p, t in self.patterns if p.search(tensor.name)), None)
        # The table of per-layer embeddings is large; a pattern may name it apart.
        apart = tensor.name == "per_layer_token_embd.weight" and named is not None
        if options.token_embedding_type is not None and kind is Category.TOKEN_EMBD and not apart:
            return options.token_embedding_type
        if options.output_tensor_type is not None and kind is Category.OUTPUT:
            return options.output_tensor_type
        if self.file_type.default in PLAIN:
            return self.file_type.default
        new = named
        if new is None:
            new = self.file_type.default if options.pure else self._ruled(tensor, kind)
        return _fitting(new, tensor.dims[0])

    def _ruled(self, tensor: HasType, kind: Category) -> GGMLType:
        """The type that the tables give."""
        default, name = self.file_type.default, self.file_type.name
        wanted = rules.AT_LEAST_Q8.get(self.facts.architecture, ())
        if any(part in tensor.name for part in wanted):
            return GGMLType.Q8_0
        if kind is Category.OUTPUT or (self.tied and kind is Category.TOKEN_EMBD):
            asked = self.options.output_tensor_type
            return self._output(tensor.dims[0]) if asked is None else asked
        if name == "MXFP4_MOE":
            return self._experts_only(tensor, kind)
        place = self._place(tensor, kind)
        rows = rules.ROWS.get(kind, ())
        fits = (t for names, when, t in rows if name in names.split() and when(place))
        new = next(fits, default)
        if name in rules.LOW_BIT:
            return new
        if kind is Category.ATTN_V and self.facts.is_70b and new in (GGMLType.Q3_K, GGMLType.Q4_K):
            new = GGMLType.Q5_K
        if kind in (Category.ATTN_V, Category.ATTN_K) and self.facts.experts == 8:
            new = GGMLType.Q8_0
        return new

    def _output(self, row: int) -> GGMLType:
        default, name = self.file_type.default, self.file_type.name
        unfit = row % BLOCKS[default].weights != 0
        if name == "MXFP4_MOE" or self.facts.architecture == "falcon" or unfit:
            return GGMLType.Q8_0
        if name in rules.LOW_BIT or name == "IQ3_XXS":
            return GGMLType.Q5_K
        return default if default is GGMLType.Q8_0 else GGMLType.Q6_K

    def _experts_only(self, tensor: HasType, kind: Category) -> GGMLType:
        stacked = len(tensor.dims) > 2 and tensor.dims[2] > 1
        if self.facts.architecture == "bailingmoe3":
            experts = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)
            stacked = stacked and kind in experts
        return GGMLType.MXFP4 if stacked else GGMLType.Q8_0

    def _place(self, tensor: HasType, kind: Category) -> TensorPlace:
        """The tensor's place among its kind; counts it."""
        number = self.seen.get(kind, 0)
        self.seen[kind] = number + 1
        total = self.values if kind is Category.ATTN_V else self.facts.layers
        feed_forward = kind in (Category.FFN_DOWN, Category.FFN_GATE, Category.FFN_UP)
        if feed_forward and self.facts.experts > 1 and self.file_type.name not in rules.LOW_BIT:
            number = self._layer(tensor.name)
        return TensorPlace(
            i=number,
            n=total,
            gqa=self.facts.gqa,
            experts=self.facts.experts,
            falcon=self.facts.architecture == "falcon",
            importances=self.options.importances,
        )

    def _layer(self, name: str) -> int:
        """The layer in a tensor's name: experts do not stand in the layers' order."""
        found = re.match(r"blk\.([0-9]{1,9})", name)
        if not found:
            raise UnsupportedError(f"{name!r} does not name a layer")
        if int(found[1]) >= self.facts.layers:
            raise UnsupportedError(f"{name!r}: the model has {self.facts.layers} layers")
        return int(found[1])


def _fitting(new: GGMLType, row: int) -> GGMLType:
    """The type, or the one to fall back to for such a row."""
    if row % BLOCKS[new].weights == 0:
        return new
    new = rules.FALLBACK.get(new, new)
    return GGMLType.F16 if row % BLOCKS[new].weights else new
