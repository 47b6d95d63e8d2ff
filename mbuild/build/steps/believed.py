"""What a step's result can be: its layers and facts by its kind, one row each.

A record of another machine's is held against its row before anybody uses it, so that whoever
writes such records cannot make a build stumble over a text where a number belongs. Whether a fact
is true no table can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.store.media import ADAPTER, GGUF, TEMPLATE

if TYPE_CHECKING:
    from mbuild.build.graph import Result, Step

Shape = Callable[[Any], bool]
"""Tells whether a value of JSON has a form."""

_IMATRIX = "application/vnd.mbuild.imatrix"  # that of ``steps.importances``, which loads more
_MOST_FILES = 1024  # shards of a model


def text(value: Any) -> bool:
    """A string, which UTF-8 can say."""
    return type(value) is str and not any("\ud800" <= c <= "\udfff" for c in value)


def whole(value: Any) -> bool:
    """A whole number from 0 on, of at most 64 bits."""
    return type(value) is int and 0 <= value < 1 << 64


def number(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def flag(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def maybe(shape: Shape) -> Shape:
    """That, or null."""
    return lambda value: value is None or shape(value)


def either(*shapes: Shape) -> Shape:
    """One of these."""
    return lambda value: any(shape(value) for shape in shapes)


def each(shape: Shape) -> Shape:
    """A list of such."""
    return lambda value: type(value) is list and all(map(shape, value))


def row(*shapes: Shape) -> Shape:
    """A list of exactly these."""
    return lambda value: (
        type(value) is list
        and len(value) == len(shapes)
        and all(shape(item) for shape, item in zip(shapes, value, strict=True))
    )


def named(shape: Shape) -> Shape:
    """An object whose values are such."""
    return lambda value: (
        type(value) is dict and all(map(text, value)) and all(map(shape, value.values()))
    )


def fields(**shapes: Shape) -> Shape:
    """An object of exactly these fields."""
    return lambda value: (
        type(value) is dict
        and value.keys() == shapes.keys()
        and all(shape(value[key]) for key, shape in shapes.items())
    )


def _nothing(value: Any) -> bool:
    return value == {} and type(value) is dict


def _quantization(value: Any) -> bool:
    """What :class:`Quantization` reads."""
    from mbuild.quant.choose.options import Quantization

    if type(value) is not dict:
        return False
    try:
        return bool(Quantization.from_json(value))
    except (MbuildError, ValueError, TypeError, KeyError, AttributeError):
        return False


_WEIGHTS = fields(
    kind=text,
    model_format=text,
    model_family=text,
    model_families=each(text),
    model_type=text,
    file_type=text,
)
_CHAT = fields(text=text, bos=text, eos=text, adds_bos=flag)
_BASE = fields(architecture=text, numbers=named(whole), tensors=named(each(whole)))
_MEASURED = fields(
    positions=whole,
    perplexity=number,
    perplexity_error=number,
    base_perplexity=maybe(number),
    mean_kld=maybe(number),
    mean_kld_error=maybe(number),
    kld_99=maybe(number),
    max_kld=maybe(number),
    same_top=maybe(number),
)
_CHECKED = either(
    fields(value=either(number, flag)),
    fields(size=whole),
    fields(tensors=whole),
    fields(template=text),
    fields(chat_template=flag),
)


class ResultRow(NamedTuple):
    """What results of a kind of step have.

    ``layers`` are the media types that theirs can be of, from ``least`` to ``most`` of them;
    ``facts`` is the form of the facts, ``bare`` that of those of a result without layers.
    """

    facts: Shape
    layers: Collection[str] = ()
    least: int = 0
    most: int = 0
    bare: Shape = _nothing


_OF_WEIGHTS = ResultRow(_WEIGHTS, GGUF, 1, _MOST_FILES)

ROWS: Mapping[str, ResultRow] = {
    "ask": ResultRow(fields(answer=text)),
    "change": _OF_WEIGHTS,
    "check": ResultRow(_CHECKED),
    "choose": ResultRow(
        fields(
            quantization=_quantization,
            size=whole,
            bits=number,
            loss=number,
            flags=text,
            modelfile=text,
        )
    ),
    "compare": ResultRow(
        fields(
            error=number,
            tensor=text,
            mean_error=number,
            tensors=each(row(text, text, text, number)),
        )
    ),
    "convert": _OF_WEIGHTS,
    "convert-adapter": _OF_WEIGHTS,
    "convert-projector": _OF_WEIGHTS._replace(least=0),
    "detect-template": ResultRow(
        fields(template=text, parameters=either(_nothing, fields(stop=each(text)))),
        (TEMPLATE,),
        0,
        1,
    ),
    "header": ResultRow(either(_nothing, _CHAT, _BASE)),
    "imatrix": ResultRow(
        fields(imatrix=text, chunks=whole, weights=whole, unseen=maybe(named(each(whole)))),
        (_IMATRIX,),
        1,
        1,
    ),
    "import": _OF_WEIGHTS,
    "keep-shards": _OF_WEIGHTS,
    "measure": ResultRow(_MEASURED),
    "merge": _OF_WEIGHTS,
    "quantize": _OF_WEIGHTS,
    "split": _OF_WEIGHTS,
}
"""By the kind of step. A test holds that every kind has a row that other machines are asked for."""


def can_be(step: Step, result: Result) -> bool:
    """Whether a step can have come to a result; one of a kind without a row to any.

    An adapter's layer is called like what it was made from, all others like nothing.
    """
    found = ROWS.get(step.kind)
    if found is None:
        return True
    layers = result.layers
    shape = found.bare if found.most and not layers else found.facts
    if not found.least <= len(layers) <= found.most or not shape(result.facts):
        return False
    return all(
        layer.media_type in found.layers
        and layer.origin == (step.subject if layer.media_type == ADAPTER else "")
        for layer in layers
    )
