"""QUANTIZE, MERGE, UNSET, DROP, TAKE and CHECK: from their words to values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import ModelfileError, UsageError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean
from mbuild.core.units import parse_number, parse_size
from mbuild.language.instructions import TYPES, Parameter, Problem
from mbuild.language.parameters import PARAMETERS
from mbuild.language.recipe import ModelChange
from mbuild.language.stages.clauses import read_clause
from mbuild.language.stages.values import Expectation, QuantizeLine
from mbuild.language.stages.words import CheckThat, Drop, MergeIn

if TYPE_CHECKING:
    from mbuild.language.span import Span
    from mbuild.language.stages.clauses import Phrase, Phrases, Word
    from mbuild.language.stages.stage import Stage

Read = Callable[["Word"], str]
"""A word with its arguments put in, without its quotes."""

_KEY = regex(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
_LAYERS = regex(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
MAX_LAYERS = 10_000
"""More layers than any model has."""

OPTION_OF: dict[str, str] = {
    "imatrix": "imatrix",
    "imatrix_from": "imatrix_from",
    "chunks": "imatrix_chunks",
    "output": "output_tensor_type",
    "embedding": "token_embedding_type",
    "rules": "recipe",
    "prune": "prune_layers",
}
"""The flags' names of the options that have one value, by their rule in the grammar."""

LISTS: dict[str, str] = {
    "tensor": "tensor_type",
    "included": "include_weights",
    "excluded": "exclude_weights",
}
"""Those of the options that have several values, and may be given several times."""

_FLAGS = {"pure": "pure", "requantize": "allow_requantize"}
_BUDGETS = ("size", "bpw")
"""What says only how large the model may be: it stands for a type, spelled 4.2GB or 4.6bpw."""


def quantize_of(item: Any, phrases: Phrases, read: Read) -> QuantizeLine:
    """A QUANTIZE line; types are as written, for whoever knows them.

    Raises :class:`ModelfileError` for an option given twice, and for a line without a type.
    """
    options: dict[str, Any] = {}
    budgets: list[str] = []
    outtype: str | None = None
    splitting: dict[str, Any] | None = None
    seen: set[str] = set()
    for phrase in phrases.options:
        rule, keyword = phrase.rule, " ".join(phrase.keywords)
        if rule in seen and rule not in LISTS:
            raise ModelfileError(
                [Problem(f"QUANTIZE has {keyword} twice", item.span, code="twice")]
            )
        seen.add(rule)
        words = [read(word) for word in phrase.words]
        if rule in LISTS:
            options[LISTS[rule]] = [*options.get(LISTS[rule], ()), *words]
        elif rule in _BUDGETS:
            budgets.append(_budget(rule, words[0], item))
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
    types = (*(read(word) for word in phrases.head.words), *budgets)
    if not types:
        hint = "name one or several: QUANTIZE q4_K_M q8_0"
        raise ModelfileError(
            [Problem("QUANTIZE names no type", item.span, code="missing-type", suggestion=hint)]
        )
    return QuantizeLine(types, options, outtype, splitting, item.span)


def _budget(rule: str, word: str, item: Any) -> str:
    """The type that a size or a number of bits stands for."""
    try:
        if rule == "size":
            if not (size := parse_size(word)):
                raise ValueError(word)
            return f"{size}B" if word[-1:].isdigit() else word
        if parse_number(word) > 0:
            return f"{word.removeprefix('+')}bpw"
        raise ValueError(word)
    except ValueError:
        message = f"{rule.upper()} {word:.40} is not a {'size' if rule == 'size' else 'number'}"
        hint = "write for example SIZE 4.2GB"
        if rule != "size":
            hint = _number_meant(word) or "write for example BPW 4.6"
        problem = Problem(message, item.span, code="bad-size", suggestion=hint)
        raise ModelfileError([problem]) from None


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
        raise ModelfileError([_bad_regex(words[0], error, item.span)]) from None
    return ModelChange("take", words[0], [words[1], other(words[1])], item.span)


def _bad_regex(text: str, error: re.error, span: Span | None) -> Problem:
    message = f"{text:.60} is not a regular expression: {error}"
    hint = "characters that are meant literally, such as ( and *, need a backslash before them"
    return Problem(message, span, code="bad-regex", suggestion=hint)


def _weight(words: list[str], item: Any) -> float:
    text = words[0] if words else "1"
    try:
        weight = parse_number(text)
    except ValueError:
        weight = math.nan
    if math.isnan(weight) or abs(weight) > 1e6:
        hint = _number_meant(text) or "a number such as 0.5; a negative one subtracts the adapter"
        raise ModelfileError(
            [
                Problem(
                    f"WEIGHT {text:.40} is not a weight",
                    item.span,
                    code="bad-weight",
                    suggestion=hint,
                )
            ]
        )
    return weight


def _number_meant(text: str) -> str:
    """What to ask of a text that is nearly a number."""
    from mbuild.language.spellings import meant_number

    meant = meant_number(text)
    return did_you_mean([meant] if meant else [])


def _layers(word: str, item: Any) -> range:
    match = _LAYERS.fullmatch(word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if first > last or last >= MAX_LAYERS:
        hint = "count from 0: DROP LAYER 30 31, or DROP LAYER 30-31"
        if re.fullmatch(r"[0-9,-]+", word) and "," in word:
            hint = f"blanks stand between layers: DROP LAYER {' '.join(word.split(','))}"
        raise ModelfileError(
            [Problem(f"{word:.40} is not a layer", item.span, code="bad-layer", suggestion=hint)]
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
            if wrong in PARAMETERS:
                hint = f"write UNSET PARAMETER {wrong}"
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
    """A CHECK; raises :class:`ModelfileError` for a value that cannot be one."""
    head = phrases.head
    measure = head.keywords[0].lower()
    compare = next((each for each in head.keywords if each[0] in "<>"), "")
    if measure == "answers":
        _keep_quotes(head.words, item.span)
    words = [read(word) for word in head.words]
    value, text, chunks = _READ.get(measure, _nothing)(words, item.span)
    return Expectation(measure, compare, value, text, item.span, chunks)


_Demand = tuple[str, str, int]
"""Value, text and number of chunks of a CHECK."""


def _nothing(words: list[str], span: Span | None) -> _Demand:
    return "", "", 0


def _size(words: list[str], span: Span | None) -> _Demand:
    try:
        parse_size(words[0])
    except ValueError as error:
        raise ModelfileError([Problem(str(error), span, code="bad-size")]) from None
    return words[0], "", 0


def _bound(words: list[str], span: Span | None) -> _Demand:
    try:
        parse_number(words[0])
    except ValueError:
        hint = _number_meant(words[0]) or "write a bound such as 0.05"
        message = f"{words[0]:.40} is not a number"
        problem = Problem(message, span, code="bad-check", suggestion=hint)
        raise ModelfileError([problem]) from None
    return words[0], "", 0


def _over_text(words: list[str], span: Span | None) -> _Demand:
    value, _, _ = _bound(words, span)
    chunks = words[2] if len(words) > 2 else ""
    if chunks and not (chunks.isascii() and chunks.isdecimal() and 0 < int(chunks) < 1 << 31):
        message = f"CHUNKS {chunks:.40} is not a number of chunks"
        problem = Problem(message, span, code="bad-check", suggestion="write a whole number")
        raise ModelfileError([problem])
    return value, words[1], int(chunks or 0)


def _keep_quotes(words: Sequence[Word], span: Span | None) -> None:
    """Refuse quotes inside a prompt or an expression: words lose theirs, and would mean less."""
    for word in words:
        inner = word.text[1:-1] if word.text[0] == word.text[-1] == '"' else word.text
        if '"' in inner and "${" not in inner:
            message = f"the quotes inside {word.text:.60} would be lost"
            hint = "quotes go around the whole; \\x22 stands for one in the expression"
            raise ModelfileError([Problem(message, span, code="bad-check", suggestion=hint)])


def _answers(words: list[str], span: Span | None) -> _Demand:
    prompt, written = words
    if len(written) < 3 or written[0] != "/" or written[-1] != "/":
        hint = 'write it between slashes, in quotes where it has blanks: WITH "/four|4/"'
        message = f"{written:.60} is not an expression"
        raise ModelfileError([Problem(message, span, code="bad-check", suggestion=hint)])
    try:
        re.compile(written[1:-1])
    except re.error as error:
        raise ModelfileError([_bad_regex(written, error, span)]) from None
    return written[1:-1], prompt, 0


_READ: dict[str, Callable[[list[str], Any], _Demand]] = {
    "size": _size,
    "error": _bound,
    "kld": _over_text,
    "kld99": _over_text,
    "same_top": _over_text,
    "perplexity": _over_text,
    "answers": _answers,
}
"""What stands behind each CHECK that has something behind it."""


def checks_said(texts: Sequence[str]) -> tuple[Expectation, ...]:
    """What ``--check`` says, in the words of CHECK; raises :class:`UsageError`."""
    found = []
    for text in texts:
        item = CheckThat(text)
        try:
            phrases = read_clause(item)
            found.append(check_of(item, phrases, _unquoted)._replace(beside=False))
        except ModelfileError as error:
            problem = error.problems[0]
            raise UsageError(
                f"--check {text!r:.80}: {problem.message}", hint=problem.suggestion
            ) from None
    return tuple(found)


def _unquoted(word: Word) -> str:
    """A word of the command line, where there are no arguments."""
    return word.text.replace('"', "")
