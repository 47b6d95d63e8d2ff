"""``import-recipe``: the flags that give a model the tensor types of somebody's quantized file.

Every file type whose own type occurs in the file is tried with the rules of
llama.cpp and of Ollama; the one that leaves the fewest tensors wrong is taken,
and the rest is named. The outcome is checked by planning with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from mbuild.core.errors import MbuildError, SourceError
from mbuild.gguf.types import GGMLType
from mbuild.gguf.weights import GGUFWeights, open_weights, paths_of
from mbuild.quant.choose import rules
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.recipes import PLAIN, HasType, plan, quantizable
from mbuild.quant.choose.types import FILE_TYPES, FileType

_ROUNDS = 8
"""How often what is still wrong is named: naming a tensor shifts the count of its kind."""

_IMATRIX = "IMATRIX"
"""What stands for the importance matrix, which the file does not hold."""

_APART = ("output.weight", "token_embd.weight")
"""Tensors that have options of their own."""

_LAYER = re.compile(r"blk\.([0-9]+)\.(.+)", re.DOTALL)


class _Wanted(NamedTuple):
    """A tensor as it may have been before it was quantized, and the type that it shall get."""

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    wanted: GGMLType


@dataclass(frozen=True, slots=True)
class RecoveredRecipe:
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
    options, left = _named(rows, get, found[1])
    return RecoveredRecipe(options, len(rows), tuple(row.name for row in left))


def _best(
    rows: Sequence[_Wanted], get: Callable[..., Any], types: Sequence[FileType]
) -> tuple[int, Quantization] | None:
    """How many tensors are wrong at the least, and the file type and options that leave them."""
    best: tuple[int, Quantization] | None = None
    for options in _candidates(types, get):
        wrong = _wrong(rows, get, options)
        if wrong is None or (options.pure and any(row.name not in _APART for row in wrong)):
            continue  # older llama-quantize took no --tensor-type beside --pure
        if best is None or len(wrong) < best[0]:
            best = len(wrong), options
            if not wrong:
                break
    return best


def _likely(rows: Sequence[_Wanted]) -> list[FileType]:
    """File types whose own type, or what takes its place in odd rows, occurs."""
    types = {row.wanted for row in rows}
    usual = (t for t in FILE_TYPES if types & {t.default, rules.FALLBACK.get(t.default)})
    return sorted(usual, key=lambda type_: type_.default not in types)


def _wanted(tensors: Sequence[HasType], get: Callable[..., Any]) -> list[_Wanted]:
    """Tensors before they were quantized: those that no rule touches as they are, others F16."""
    architecture = str(get("general.architecture", ""))
    rows = []
    for tensor in tensors:
        touched = quantizable(tensor.name, tensor.dims, architecture, False)
        kept = tensor.type in PLAIN or not touched
        before = tensor.type if kept else GGMLType.F16
        rows.append(_Wanted(tensor.name, tensor.dims, before, tensor.type))
    return rows


def _candidates(types: Sequence[FileType], get: Callable[..., Any]) -> Iterator[Quantization]:
    """File types and options worth a try; first with a matrix if the file says it had one."""
    matrix = any(get(f"quantize.imatrix.{key}", None) for key in ("file", "dataset"))
    for type_, pure, importances in product(types, (False, True), (matrix, not matrix)):
        for recipe in ("llama.cpp", "ollama"):
            if recipe == "llama.cpp" or (type_.name in rules.OLLAMA_TYPES and not pure):
                imatrix = _IMATRIX if importances else None
                yield Quantization(type_, recipe, imatrix, pure)


def _wrong(
    rows: Sequence[_Wanted], get: Callable[..., Any], options: Quantization
) -> list[_Wanted] | None:
    """The tensors that would get another type; None where these options refuse the model."""
    try:
        return [row for row, new in plan(rows, get, options) if new is not row.wanted]
    except MbuildError:
        return None


def _named(
    rows: Sequence[_Wanted], get: Callable[..., Any], options: Quantization
) -> tuple[Quantization, list[_Wanted]]:
    """The options with what is wrong named, and what is wrong all the same."""
    wrong = _wrong(rows, get, options) or []
    named: dict[str, _Wanted] = {}
    for _ in range(_ROUNDS):
        if not wrong:
            break
        named.update((row.name, row) for row in wrong)
        tried = _with_names(rows, options, list(named.values()))
        left = _wrong(rows, get, tried)
        if left is None:
            return options, wrong
        wrong = left
        if not wrong:
            return tried, []
    else:
        return _with_names(rows, options, list(named.values())), wrong
    return options, wrong


def _with_names(
    rows: Sequence[_Wanted], options: Quantization, named: Sequence[_Wanted]
) -> Quantization:
    rest = []
    one_table = sum(row.name.endswith("token_embd.weight") for row in rows) == 1
    for row in named:
        if row.name == "output.weight":
            leave = row.wanted in PLAIN
            options = options._replace(
                leave_output_tensor=leave,
                output_tensor_type=None if leave else row.wanted,
            )
        elif row.name == "token_embd.weight" and one_table:
            options = options._replace(token_embedding_type=row.wanted)
        else:
            rest.append(row)
    return options._replace(tensor_types=tuple(_patterns(rows, rest)))


def _patterns(rows: Sequence[_Wanted], named: Sequence[_Wanted]) -> Iterator[tuple[str, GGMLType]]:
    """Regular expressions for the named tensors and no others of another type.

    They are in lower case, as llama-quantize makes them.
    """
    groups: dict[tuple[str, GGMLType], list[int]] = {}
    for row in named:
        layer = _LAYER.fullmatch(row.name)
        if layer is None:
            yield f"^{re.escape(row.name)}$".lower(), row.wanted
        else:
            groups.setdefault((layer[2], row.wanted), []).append(int(layer[1]))
    for (rest, type_), layers in groups.items():
        kinds = {row.wanted for row in rows if row.name.partition(".")[2].partition(".")[2] == rest}
        which = "[0-9]+" if kinds == {type_} else f"({'|'.join(map(str, sorted(layers)))})"
        yield f"^blk\\.{which}\\.{re.escape(rest)}$".lower(), type_
