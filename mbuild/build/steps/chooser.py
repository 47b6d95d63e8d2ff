"""The work of choosing types: which tensors are free, what each type costs and loses, the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from shlex import quote
from typing import Any

from mbuild.build.graph import StepContext
from mbuild.build.steps.losses import losses
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.core.units import human_size
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType, tensor_nbytes
from mbuild.gguf.writer import layout
from mbuild.quant.choose.budget import TypeChoice, choose, least
from mbuild.quant.choose.imatrix import Imatrix
from mbuild.quant.choose.metadata import quantized
from mbuild.quant.choose.naming import WantedTensor, named_types
from mbuild.quant.choose.options import BESIDE_TYPES, OPTIONS, Quantization, spelled
from mbuild.quant.choose.patterns import compile_pattern
from mbuild.quant.choose.recipes import (
    PLAIN,
    RecipeFacts,
    needs_importances,
    plan,
    quantizable,
)
from mbuild.quant.choose.types import FILE_TYPES, FileType, file_type
from mbuild.quant.quantize import prepare
from mbuild.quant.table import supports
from mbuild.work.spread import Part, spread

_MORE = "ask for more, or give an importance matrix, which the smallest types need"

_NARROW, _WIDE = 0.45, 2.2
"""Types of so many times the wanted bits at least and at most are tried, beside Q8_0."""


class TypeChooser:
    """The work of one choice, over an opened model."""

    def __init__(
        self, asked: Quantization, model: Model, imatrix: Imatrix | None, context: StepContext
    ) -> None:
        """``asked`` has a budget."""
        assert asked.file_type.budget is not None
        self._asked = asked
        self._budget = asked.file_type.budget
        self._model = model
        self._imatrix = imatrix
        self._context = context
        self._weights = sum(prod(tensor.dims) for tensor in model.tensors)

    def facts(self) -> dict[str, Any]:
        """The choice as facts of a step.

        Raises :class:`UsageError` for a budget that is too small.
        """
        fixed, free = self._divided()
        rows = self._choices(free)
        other = self._size(fixed)
        taken = choose(rows, self._room() - other)
        if taken is None:
            smallest = least(rows) + other
            bits = 8 * smallest / self._weights
            raise UsageError(
                f"{self._asked.file_type.name} is too small: the model's tensors take at least"
                f" {human_size(smallest)}, {bits:.2f} bits a weight",
                hint="ask for more" if self._imatrix else _MORE,
            )
        own = {t.name: c.type for t, c in zip(free, taken, strict=True)}
        types = {**fixed, **own}
        return self._named(types, sum(choice.loss for choice in taken))

    def _size(self, types: Mapping[str, GGMLType]) -> int:
        """The bytes of some tensors, by their names, in some types."""
        every = self._model.tensors
        return sum(tensor_nbytes(types[t.name], t.dims) for t in every if t.name in types)

    def _divided(self) -> tuple[dict[str, GGMLType], list[Tensor]]:
        """The tensors whose type is not free (kept, or named by the user), and the others."""
        said = self._asked
        architecture = RecipeFacts.of(self._model.get).architecture
        plain = said._replace(file_type=file_type("Q8_0"), pure=True)
        every = plan(self._model.tensors, self._model.get, plain)
        planned = {tensor.name: new for tensor, new in every}
        named = [pattern for pattern, _ in said.tensor_types]
        fixed, free = {}, []
        for tensor in self._model.tensors:
            leave = said.leave_output_tensor
            if not quantizable(tensor.name, tensor.dims, architecture, leave):
                fixed[tensor.name] = tensor.type
            elif _says(tensor.name, said, named):
                fixed[tensor.name] = planned[tensor.name]
            else:
                free.append(tensor)
        return fixed, free

    def _room(self) -> int:
        """Bytes for all tensors; of a file's size its header and gaps are taken off."""
        budget = self._budget
        room = budget.bytes_for(self._weights)
        if budget.size is None:
            return room
        about = self._imatrix.source("imatrix.gguf") if self._imatrix else None
        own = self._asked.override_kv
        metadata = quantized(self._model.metadata, file_type("Q8_0"), about, own)
        laid = layout(Model(metadata, self._model.tensors))
        return room - len(laid.header) - laid.alignment * len(self._model.tensors)

    # What each type loses.

    def _choices(self, tensors: Sequence[Tensor]) -> list[list[TypeChoice]]:
        wanted = 8 * self._budget.bytes_for(self._weights) / self._weights
        types = [self._types(tensor, wanted) for tensor in tensors]
        self._prepare({type_ for some in types for type_ in some})

        def work(pair: tuple[Tensor, list[GGMLType]], part: Part) -> list[TypeChoice]:
            tensor, some = pair
            weight = self._counts_for(tensor)
            found = losses(tensor, some, self._imatrix, self._context, part)
            return [
                TypeChoice(type_, tensor_nbytes(type_, tensor.dims), weight * lost.relative**2)
                for type_, lost in found.items()
            ]

        pairs = list(zip(tensors, types, strict=True))
        total = sum(map(len, types))
        size = sum(tensor.nbytes for tensor in tensors)

        def report(done: int, all_: int) -> None:
            self._context.report(size * done // max(all_, 1), size)

        return spread(work, pairs, total, report, name="mbuild-choose")

    def _counts_for(self, tensor: Tensor) -> float:
        """What a tensor's error counts: the output's as much as that of all layers.

        The error of a product in a layer is one part of many in what the layers come to; the
        output's goes into every answer as it is.
        """
        tied = all(each.name != "output.weight" for each in self._model.tensors)
        output = "token_embd.weight" if tied else "output.weight"
        layers = RecipeFacts.of(self._model.get).layers
        return float(max(layers, 1)) if tensor.name == output else 1.0

    def _types(self, tensor: Tensor, wanted: float) -> list[GGMLType]:
        """The types that llama-quantize makes of such a tensor, near the wanted bits."""
        weighted = self._imatrix is not None and self._imatrix.has(tensor.name, tensor.dims)
        row = tensor.dims[0]
        kept = tensor.type if tensor.type in PLAIN and tensor.type is not GGMLType.F32 else None
        found: list[GGMLType] = [kept or GGMLType.F16]
        for name in _LARGE_BLOCKS if row % 256 == 0 else _SMALL_BLOCKS:
            type_ = GGMLType[name]
            bits = 8 * BLOCKS[type_].size / BLOCKS[type_].weights
            near = _NARROW * wanted <= bits <= _WIDE * wanted or type_ is GGMLType.Q8_0
            if near and _able(tensor, type_, weighted=weighted):
                found.append(type_)
        if len(found) == 1 or all(t in (GGMLType.Q8_0, *PLAIN) for t in found):
            found += self._smallest(tensor, weighted)
        return found

    def _smallest(self, tensor: Tensor, weighted: bool) -> list[GGMLType]:
        """The smallest type of such a tensor, where none is near what is wanted."""
        names = _LARGE_BLOCKS if tensor.dims[0] % 256 == 0 else _SMALL_BLOCKS
        types = (GGMLType[name] for name in names)
        return [t for t in types if _able(tensor, t, weighted=weighted)][:1]

    def _prepare(self, types: set[GGMLType]) -> None:
        """Load or compile the kernels before threads start."""
        some = sorted(types - set(PLAIN))
        prepare([type_ for type_ in some if supports(type_, weighted=False)], weighted=False)
        if self._imatrix is not None:
            prepare(some, weighted=True)

    # How the choice is said.

    def _named(self, types: Mapping[str, GGMLType], loss: float) -> dict[str, Any]:
        rows = [WantedTensor(t.name, t.dims, t.type, types[t.name]) for t in self._model.tensors]
        base = self._asked._replace(
            file_type=_most(rows), pure=True, tensor_types=(), output_tensor_type=None
        )._replace(token_embedding_type=None, leave_output_tensor=False)
        named, wrong = named_types(rows, self._model.get, base)
        if wrong:
            raise UnsupportedError(
                f"no option gives {wrong[0].name} the type {wrong[0].wanted.name}",
                hint="name its type with --tensor-type",
            )
        size = self._size(types)
        own = named._replace(**{name: OPTIONS[name].default for name in BESIDE_TYPES})
        flags = [("-q", spelled(named.file_type.name)), *named.flags()]
        return {
            "quantization": own.to_json(),
            "size": size,
            "bits": round(8 * size / self._weights, 4),
            "loss": loss,
            "flags": _command(flags),
            "modelfile": _line(named),
        }


_LARGE_BLOCKS = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "Q3_K", "IQ3_S"),
    *("IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
)
"""Types for rows that are a multiple of 256, the smallest first."""

_SMALL_BLOCKS = ("IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types for other rows."""


def _able(tensor: Tensor, type_: GGMLType, *, weighted: bool) -> bool:
    """Whether a tensor can have a type, with importances or without."""
    return (
        tensor.dims[0] % BLOCKS[type_].weights == 0
        and supports(type_, weighted)
        and (weighted or not needs_importances(tensor.name, type_, _file_type_of(type_)))
    )


def _says(name: str, said: Quantization, patterns: Sequence[str]) -> bool:
    """Whether the user names a tensor's type."""
    if name == "output.weight" and said.output_tensor_type is not None:
        return True
    if name == "token_embd.weight" and said.token_embedding_type is not None:
        return True
    return any(compile_pattern(pattern).search(name) for pattern in patterns)


def _file_type_of(type_: GGMLType) -> FileType:
    """The file type that is called after a type, or the first whose tensors have it."""
    same = [each for each in FILE_TYPES if each.default is type_]
    wanted = (type_.name, f"{type_.name}_M")
    return next((each for each in same if each.name in wanted), same[0])


def _most(rows: Sequence[WantedTensor]) -> FileType:
    """The file type of the type that most of the tensors that change get.

    Where nothing is quantized it is that of the first matrix.
    """
    counts: dict[GGMLType, int] = {}
    for row in rows:
        if row.wanted not in PLAIN:
            counts[row.wanted] = counts.get(row.wanted, 0) + 1
    matrices = (row.wanted for row in rows if len(row.dims) > 1)
    if not counts:
        return _file_type_of(next(matrices, GGMLType.F16))
    return _file_type_of(max(counts, key=lambda type_: (counts[type_], -int(type_))))


def _command(flags: Sequence[tuple[str, str]]) -> str:
    """Flags as a shell takes them."""
    return " ".join(quote(word) for flag in flags for word in flag if word)


def _line(named: Quantization) -> str:
    """The same as a line of a Modelfile."""
    words = ["QUANTIZE", spelled(named.file_type.name), "PURE"]
    if named.imatrix is not None:
        words += ["IMATRIX", named.imatrix]
    if named.imatrix_from is not None:
        words += ["IMATRIX FROM", named.imatrix_from]
        words += ["CHUNKS", str(named.imatrix_chunks)] if named.imatrix_chunks else []
    for word, names in (("INCLUDE", named.include_weights), ("EXCLUDE", named.exclude_weights)):
        words += [word, *names] if names else []
    if named.prune_layers:
        words += ["PRUNE", ",".join(map(str, named.prune_layers))]
    if named.leave_output_tensor:
        words += ["OUTPUT KEEP"]
    elif named.output_tensor_type is not None:
        words += ["OUTPUT", named.output_tensor_type.name.lower()]
    if named.token_embedding_type is not None:
        words += ["EMBEDDING", named.token_embedding_type.name.lower()]
    if named.tensor_types:
        words.append("TENSOR")
        words += (f"{pattern}={type_.name.lower()}" for pattern, type_ in named.tensor_types)
    return " ".join([*words, *(["REQUANTIZE"] if named.allow_requantize else [])])
