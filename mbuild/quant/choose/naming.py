"""From wanted types of single tensors to the options that give them: rules by name.

Naming a tensor shifts what the recipes count, so what comes out is planned with, and what is
still wrong is named, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mbuild.core.errors import MbuildError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.recipes import PLAIN, plan

_ROUNDS = 8
"""How often what is still wrong is named: naming a tensor shifts the count of its kind."""

APART = ("output.weight", "token_embd.weight")
"""Tensors that have options of their own."""

_LAYER = regex(r"blk\.([0-9]+)\.(.+)", re.DOTALL)


class WantedTensor(NamedTuple):
    """A tensor as it is before it is quantized, and the type that it shall get."""

    name: str
    dims: tuple[int, ...]
    type: GGMLType
    wanted: GGMLType


def wrong_types(
    rows: Sequence[WantedTensor], get: Callable[..., Any], options: Quantization
) -> list[WantedTensor] | None:
    """The tensors that would get another type; None where these options refuse the model."""
    try:
        return [row for row, new in plan(rows, get, options) if new is not row.wanted]
    except MbuildError:
        return None


def named_types(
    rows: Sequence[WantedTensor], get: Callable[..., Any], options: Quantization
) -> tuple[Quantization, list[WantedTensor]]:
    """The options with what is wrong named, and what is wrong all the same."""
    wrong = wrong_types(rows, get, options) or []
    named: dict[str, WantedTensor] = {}
    for _ in range(_ROUNDS):
        if not wrong:
            break
        named.update((row.name, row) for row in wrong)
        tried = _with_names(rows, options, list(named.values()))
        left = wrong_types(rows, get, tried)
        if left is None:
            return options, wrong
        wrong = left
        if not wrong:
            return tried, []
    else:
        return _with_names(rows, options, list(named.values())), wrong
    return options, wrong


def _with_names(
    rows: Sequence[WantedTensor], options: Quantization, named: Sequence[WantedTensor]
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


def _patterns(
    rows: Sequence[WantedTensor], named: Sequence[WantedTensor]
) -> Iterator[tuple[str, GGMLType]]:
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
