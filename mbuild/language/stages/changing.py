"""QUANTIZE, MERGE, UNSET, DROP, TAKE and CHECK: from their words to values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import ModelfileError
from mbuild.core.units import parse_size
from mbuild.language.instructions import TYPES, Parameter, Problem
from mbuild.language.parameters import PARAMETERS
from mbuild.language.recipe import ModelChange
from mbuild.language.stages.values import Expectation, QuantizeLine
from mbuild.language.stages.words import Drop, MergeIn

if TYPE_CHECKING:
    from mbuild.language.stages.clauses import Phrase, Phrases, Word
    from mbuild.language.stages.stage import Stage

Read = Callable[["Word"], str]
"""A word with its arguments put in, without its quotes."""

_KEY = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
_LAYERS = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
MAX_LAYERS = 10_000
"""More layers than any model has."""

OPTION_OF: dict[str, str] = {
    "imatrix": "imatrix",
    "output": "output_tensor_type",
    "embedding": "token_embedding_type",
    "rules": "recipe",
}
"""The flags' names of the options that have one value, by their rule in the grammar."""

_FLAGS = {"pure": "pure", "requantize": "allow_requantize"}
_ABSENT = {
    "imatrix_from": "IMATRIX FROM runs the model, which a build cannot do yet",
    "chunks": "CHUNKS belongs to IMATRIX FROM, which a build cannot do yet",
    "size": "SIZE measures each type's error, which a build cannot do yet",
    "bpw": "BPW measures each type's error, which a build cannot do yet",
}
_RUN = ("kld", "perplexity", "error", "answers")


def quantize_of(item: Any, phrases: Phrases, read: Read) -> QuantizeLine:
    """A QUANTIZE line; types are as written, for whoever knows them.

    Raises :class:`ModelfileError` for an option given twice, or not built yet.
    """
    options: dict[str, Any] = {}
    outtype: str | None = None
    splitting: dict[str, Any] | None = None
    seen: set[str] = set()
    for phrase in phrases.options:
        rule, keyword = phrase.rule, " ".join(phrase.keywords)
        if rule in _ABSENT:
            raise ModelfileError([Problem(_ABSENT[rule], item.span, code="absent")])
        if rule in seen and rule != "tensor":
            raise ModelfileError(
                [Problem(f"QUANTIZE has {keyword} twice", item.span, code="twice")]
            )
        seen.add(rule)
        words = [read(word) for word in phrase.words]
        if rule == "tensor":
            options["tensor_type"] = [*options.get("tensor_type", ()), *words]
        elif rule in _FLAGS:
            options[_FLAGS[rule]] = True
        elif rule == "output" and words[0].upper() == "KEEP":
            options["leave_output_tensor"] = True
        elif rule == "outtype":
            outtype = words[0].lower()
        elif rule == "split":
            splitting = _splitting(words[0], phrase)
        else:
            options[OPTION_OF[rule]] = words[0]
    types = tuple(read(word) for word in phrases.head.words)
    if not types:
        hint = "name one or several: QUANTIZE q4_K_M q8_0"
        raise ModelfileError(
            [Problem("QUANTIZE names no type", item.span, code="missing-type", suggestion=hint)]
        )
    return QuantizeLine(types, options, outtype, splitting, item.span)


def _splitting(word: str, phrase: Phrase) -> dict[str, Any]:
    if "LAYERS" in phrase.keywords:
        return {"split_layers": word}
    return {"keep_split": True} if word.upper() == "KEEP" else {"split": word}


def change_of(item: Any, phrases: Phrases, read: Read, other: Callable[[str], Any]) -> ModelChange:
    """MERGE, DROP or TAKE; ``other`` gives the JSON of another model's recipe by its name."""
    words = [read(word) for word in phrases.head.words]
    if isinstance(item, MergeIn):
        return ModelChange("merge", words[0], _weight(words[1:], item), item.span)
    if isinstance(item, Drop):
        layers = sorted({n for word in words for n in _layers(word, item)})
        return ModelChange("drop", "", layers, item.span)
    try:
        re.compile(words[0])
    except re.error as error:
        message = f"{words[0]:.60} is not a regular expression: {error}"
        raise ModelfileError([Problem(message, item.span, code="bad-regex")]) from None
    return ModelChange("take", words[0], [words[1], other(words[1])], item.span)


def _weight(words: list[str], item: Any) -> float:
    text = words[0] if words else "1"
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or abs(weight) > 1e6:
        hint = "a number such as 0.5; a negative one takes the adapter away"
        raise ModelfileError(
            [
                Problem(
                    f"WEIGHT {text:.40} is no weight", item.span, code="bad-weight", suggestion=hint
                )
            ]
        )
    return weight


def _layers(word: str, item: Any) -> range:
    match = _LAYERS.fullmatch(word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if first > last or last >= MAX_LAYERS:
        hint = "count from 0: DROP LAYER 30 31, or DROP LAYER 30-31"
        raise ModelfileError(
            [Problem(f"{word:.40} is no layer", item.span, code="bad-layer", suggestion=hint)]
        )
    return range(first, last + 1)


def unset_of(item: Any, phrases: Phrases, read: Read, stage: Stage) -> None:
    """UNSET: what a stage has so far is taken out, and what its base has is not inherited."""
    head = phrases.head
    words = [read(word) for word in head.words]
    if head.rule == "unset_key":
        wrong = next((word for word in words if not _KEY.fullmatch(word)), None)
        if wrong is not None:
            hint = f"a key of metadata, PARAMETER and a name, or {', '.join(UNSET_WORDS)}"
            raise ModelfileError(
                [
                    Problem(
                        f"UNSET cannot take {wrong:.60} back",
                        item.span,
                        code="bad-unset",
                        suggestion=hint,
                    )
                ]
            )
        stage.changes += [ModelChange("unset", word, None, item.span) for word in words]
        return
    if head.rule == "unset_word":
        word = head.keywords[0]
        stage.instructions[:] = [i for i in stage.instructions if i.word != word]
        stage.unset.append(word.lower())
        return
    for name in words:
        if name not in PARAMETERS:
            from mbuild.language.spellings import meant_parameter

            message = f"unknown parameter '{name:.60}'"
            raise ModelfileError(
                [
                    Problem(
                        message,
                        item.span,
                        code="unknown-parameter",
                        suggestion=meant_parameter(name[:60]),
                    )
                ]
            )
        stage.instructions[:] = [
            i for i in stage.instructions if not (isinstance(i, Parameter) and i.name == name)
        ]
        stage.unset.append(f"parameter {name}")


UNSET_WORDS = tuple(word for word in TYPES if word not in ("FROM", "PARAMETER"))
"""The instructions that UNSET takes back as a whole."""


def check_of(item: Any, phrases: Phrases, read: Read) -> Expectation:
    """A CHECK; raises :class:`ModelfileError` for one that cannot be made here or that is none."""
    head = phrases.head
    measure = head.keywords[0].lower()
    if measure in _RUN:
        message = f"CHECK {measure} runs the model, which a build cannot do yet"
        raise ModelfileError(
            [
                Problem(
                    message,
                    item.span,
                    code="absent",
                    suggestion="remove the line: nan, size and template can",
                )
            ]
        )
    compare = next((each for each in head.keywords if each[0] in "<>"), "")
    words = [read(word) for word in head.words]
    if measure == "size":
        try:
            parse_size(words[0])
        except ValueError as error:
            raise ModelfileError([Problem(str(error), item.span, code="bad-size")]) from None
        return Expectation(measure, compare, words[0], "", item.span)
    return Expectation(measure, span=item.span)
