"""``import-recipe``: the flags that give a model the tensor types of somebody's quantized file.

Every file type whose own type occurs in the file is tried with the rules of
llama.cpp and of Ollama; the one that leaves the fewest tensors wrong is taken,
and the rest is named. The outcome is checked by planning with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mbuild.core.errors import SourceError
from mbuild.core.values import NamedTuple, replace
from mbuild.gguf.types import GGMLType
from mbuild.gguf.weights import GGUFWeights, open_weights, paths_of
from mbuild.quant.choose import rules
from mbuild.quant.choose.naming import APART, WantedTensor, named_types, wrong_types
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.recipes import PLAIN, HasType, quantizable
from mbuild.quant.choose.types import FILE_TYPES, FileType

_IMATRIX = "IMATRIX"
"""What stands for the importance matrix, which the file does not hold."""


class RecoveredRecipe(NamedTuple):
    """How to quantize: patterns in the order in which they count.

    ``tensors`` is how many the file has; ``wrong`` names those whose type cannot be
    had, none as a rule. ``source`` is where the file says it comes from, if it does.
    """

    quantization: Quantization
    tensors: int
    wrong: tuple[str, ...]
    source: str = ""

    def flags(self) -> list[str]:
        """The arguments of ``mbuild build``, without those for names; an imatrix is ``IMATRIX``."""
        options = self.quantization.flags()
        return ["-q", str(self), *(word for option in options for word in option if word)]

    def __str__(self) -> str:
        """The file type as people write it: ``q4_K_M``."""
        name = self.quantization.file_type.name
        return name[0].lower() + name[1:] if name.startswith("Q") else name.lower()


def read_recipe(path: Path) -> RecoveredRecipe:
    """The recipe of a GGUF file, or of all shards that belong to one.

    Raises :class:`SourceError` for what is no quantized model.
    """
    paths = paths_of(path)
    with open_weights(paths, [each.name for each in paths]) as file:
        if not file.tensors:
            raise SourceError(f"{path.name} has no tensors")
        found = infer(file.tensors, file.get)
        return replace(found, source=_source(file))


def _source(file: GGUFWeights) -> str:
    for key in ("general.source.repo_url", "general.base_model.0.repo_url", "general.source.url"):
        value = file.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def infer(tensors: Sequence[HasType], get: Callable[..., Any]) -> RecoveredRecipe:
    """The recipe that gives tensors of these names and shapes the types that they have.

    ``get(key, default)`` reads the file's metadata. Raises :class:`SourceError` where
    no file type comes near.
    """
    rows = _wanted(tensors, get)
    stated = get("general.file_type", None)
    own = [type_ for type_ in FILE_TYPES if type_.number == stated]
    found = _best(rows, get, own)
    # What the file calls itself is part of its bytes, so it counts unless it is plainly false.
    if found is None or found[0] > sum(row.type is not row.wanted for row in rows) // 2:
        others = _best(rows, get, _likely(rows))
        if others is not None and (found is None or others[0] < found[0]):
            found = others
    if found is None:
        raise SourceError("no file type is close to the tensors' types")
    options, left = named_types(rows, get, found[1])
    return RecoveredRecipe(options, len(rows), tuple(row.name for row in left))


def _best(
    rows: Sequence[WantedTensor], get: Callable[..., Any], types: Sequence[FileType]
) -> tuple[int, Quantization] | None:
    """How many tensors are wrong at the least, and the file type and options that leave them."""
    best: tuple[int, Quantization] | None = None
    for options in _candidates(types, get):
        wrong = wrong_types(rows, get, options)
        if wrong is None or (options.pure and any(row.name not in APART for row in wrong)):
            continue  # older llama-quantize took no --tensor-type beside --pure
        if best is None or len(wrong) < best[0]:
            best = len(wrong), options
            if not wrong:
                break
    return best


def _likely(rows: Sequence[WantedTensor]) -> list[FileType]:
    """File types whose own type, or what takes its place in odd rows, occurs."""
    types = {row.wanted for row in rows}
    usual = (t for t in FILE_TYPES if types & {t.default, rules.FALLBACK.get(t.default)})
    return sorted(usual, key=lambda type_: type_.default not in types)


def _wanted(tensors: Sequence[HasType], get: Callable[..., Any]) -> list[WantedTensor]:
    """Tensors before they were quantized: those that no rule touches as they are, others F16."""
    architecture = str(get("general.architecture", ""))
    rows = []
    for tensor in tensors:
        touched = quantizable(tensor.name, tensor.dims, architecture, False)
        kept = tensor.type in PLAIN or not touched
        before = tensor.type if kept else GGMLType.F16
        rows.append(WantedTensor(tensor.name, tensor.dims, before, tensor.type))
    return rows


def _candidates(types: Sequence[FileType], get: Callable[..., Any]) -> Iterator[Quantization]:
    """File types and options worth a try; first with a matrix if the file says it had one."""
    matrix = any(get(f"quantize.imatrix.{key}", None) for key in ("file", "dataset"))
    for type_, pure, importances in product(types, (False, True), (matrix, not matrix)):
        for recipe in ("llama.cpp", "ollama"):
            if recipe == "llama.cpp" or (type_.name in rules.OLLAMA_TYPES and not pure):
                imatrix = _IMATRIX if importances else None
                yield Quantization(type_, recipe, imatrix, pure=pure)
