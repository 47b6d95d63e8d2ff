"""The words behind ARG, QUANTIZE, MERGE and the like, through ``grammar/clauses.lark``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken

from mbuild.core import grammars
from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Problem
from mbuild.language.printable import shape
from mbuild.language.stages.quotes import OTHER_QUOTES, QUOTED_HINT
from mbuild.language.stages.words import Clause

USAGE: dict[str, str] = {
    "ARG": "ARG NAME[=DEFAULT] ...",
    "INCLUDE": "INCLUDE FILE [NAME=VALUE ...]",
    "QUANTIZE": "QUANTIZE TYPE ... [IMATRIX FILE | IMATRIX FROM TEXT [CHUNKS N]]"
    " [INCLUDE NAME ... | EXCLUDE NAME ...] [PRUNE LAYERS]"
    " [SIZE BYTES | BPW BITS] [TENSOR REGEX=TYPE ...] [OUTPUT TYPE]"
    " [EMBEDDING TYPE] [PURE] [REQUANTIZE] [RECIPE NAME] [OUTTYPE TYPE]"
    " [SPLIT SIZE | SPLIT N LAYERS | SPLIT KEEP]",
    "MERGE": "MERGE ADAPTER [WEIGHT NUMBER]",
    "UNSET": "UNSET PARAMETER NAME ..., UNSET SYSTEM (or another instruction), UNSET KEY ...",
    "DROP": "DROP LAYER NUMBER ...",
    "TAKE": "TAKE REGEX FROM STAGE",
    "CHECK": "CHECK nan, CHECK template renders, CHECK size < 5GB, CHECK error < 0.08,"
    " CHECK kld < 0.05 TEXT FILE [CHUNKS N] (or kld99, same_top, perplexity),"
    ' CHECK answers "PROMPT" WITH /REGEX/',
}
"""How each instruction is written, for messages and the documentation."""


class Word(NamedTuple):
    """A word as written, quotes and arguments in it; ``start`` counts characters of the value."""

    text: str
    start: int


class Phrase(NamedTuple):
    """A part of a clause: its rule in the grammar, and its words without the keywords."""

    rule: str
    words: tuple[Word, ...]
    keywords: tuple[str, ...]


class Phrases(NamedTuple):
    """A clause: what it begins with, and the options behind that."""

    head: Phrase
    options: tuple[Phrase, ...]


class _Parts(Transformer[Token, Any]):
    """Each rule of the tree as a :class:`Phrase`, the outermost with its options."""

    def __default__(self, data: Any, children: list[Any], meta: Any) -> Phrases:
        own = [child for child in children if isinstance(child, Token)]
        words = tuple(Word(str(t), cast("int", t.start_pos)) for t in own if t.type == "WORD")
        keywords = tuple(t.upper() for t in own if t.type != "WORD")
        options = tuple(child.head for child in children if isinstance(child, Phrases))
        return Phrases(Phrase(str(data), words, keywords), options)


@cache
def _lark() -> Lark:
    return grammars.parser(
        "clauses.lark",
        lexer="contextual",
        start=[word.lower() for word in USAGE],
        g_regex_flags=re.ASCII,
    )


def read_clause(item: Clause) -> Phrases:
    """The words of a clause; raises :class:`ModelfileError` where it is written in another way."""
    try:
        tree = _lark().parse(shape(item.value), start=item.word.lower())
    except UnexpectedInput as error:
        raise ModelfileError([_problem(item, error)]) from None
    phrases = cast("Phrases", _Parts().transform(tree))
    for phrase in (phrases.head, *phrases.options):
        for word in phrase.words:
            if word.text.startswith(("#", "//")):
                raise ModelfileError([_comment(item, word)])
    return phrases


def _comment(item: Clause, word: Word) -> Problem:
    where = item.span
    if where is not None and "\n" not in item.value[: word.start]:
        where = where.part(min(where.value + word.start, where.end), where.end)
    message = f"{item.word} cannot go on with {word.text:.60}"
    hint = "a comment needs a line of its own; a word that begins so stands in double quotes"
    return Problem(message, where, code="comment-in-value", suggestion=hint)


class Following(NamedTuple):
    """The words of a clause that is not finished, each with its terminal, and what may follow."""

    tokens: tuple[tuple[str, Word], ...]
    accepted: frozenset[str]


def following(word: str, before: str) -> Following | None:
    """What can stand behind the beginning of a clause, of which whole words are given.

    None where the grammar cannot have gone so far.
    """
    parser = _lark().parse_interactive(shape(before), start=word.lower())
    try:
        tokens = parser.exhaust_lexer()
    except UnexpectedInput:
        return None
    words = (Word(before[cast("int", t.start_pos) :][: len(t)], t.start_pos or 0) for t in tokens)
    types = (token.type for token in tokens)
    accepted: Iterable[str] = parser.accepts()  # type: ignore[no-untyped-call]
    return Following(tuple(zip(types, words, strict=True)), frozenset(accepted))


MEASURES = (
    *("NAN", "TEMPLATE", "RENDERS", "SIZE", "ERROR", "ANSWERS"),
    *("KLD", "KLD99", "SAME_TOP", "PERPLEXITY"),
)
"""The words of CHECK, which are written in lower case."""


def spelled_keyword(instruction: str, terminal: str) -> str:
    """A keyword as ``fmt`` writes it."""
    lower = instruction == "CHECK" and terminal in MEASURES
    return terminal.lower() if lower else terminal


def written_clause(item: Clause) -> str:
    """The value in its canonical form: one blank between words, keywords in upper case."""
    tokens = _lark().parse_interactive(shape(item.value), start=item.word.lower()).exhaust_lexer()
    words = []
    for token in tokens:
        if token.type == "WORD":
            start = cast("int", token.start_pos)
            words.append(item.value[start : start + len(token)])
        elif item.word == "CHECK" and token.type in MEASURES:
            words.append(token.lower())
        else:
            words.append(token.upper())
    return " ".join(words)


def _problem(item: Clause, error: UnexpectedInput) -> Problem:
    at = error.pos_in_stream
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        at = len(item.value)
    rest = "" if at is None else item.value[at:].split(maxsplit=1)[:1]
    found = f"{rest[0]:.60}" if rest else "the end of the line"
    where = item.span
    if where is not None and at is not None and "\n" not in item.value[:at]:
        start = min(where.value + at, where.end)
        where = where.part(start, start + (len(found) if rest else 1))
    message = f"{item.word} cannot go on with {found}"
    hint = f"write {USAGE[item.word]}"
    if at is not None and (before := _AMOUNT.search(item.value[:at])) and _UNIT.fullmatch(found):
        hint = f"write {before[0].strip()}{found} without a blank"
    elif at is not None and _IN_QUOTES.search(item.value[:at]):
        hint = QUOTED_HINT
    elif rest and (meant := _meant(item.word, rest[0], error)):
        hint = f"{hint}; {meant}"
    return Problem(message, where, code="bad-clause", suggestion=hint)


_AMOUNT = regex(r"[0-9.]+[ \t]+$")
_UNIT = regex(r"(?i:[KMGT]?i?B)")
_IN_QUOTES = regex(rf"(?:^|[ \t])[{OTHER_QUOTES}/][^ \t]*[ \t]+$")
"""What a unit, or the end of a word in quotes or between slashes, may stand behind."""

_COMPARED = {
    **dict.fromkeys(("\u2264", "=<", "\u2a7d", "=", "=="), "<="),
    **dict.fromkeys(("\u2265", "=>", "\u2a7e"), ">="),
}
"""Signs of other languages for a comparison."""

_MEANT: dict[str, str] = {
    **dict.fromkeys(("SCALE", "ALPHA", "STRENGTH", "FACTOR"), "WEIGHT"),
    **dict.fromkeys(("BLOCK", "BLOCKS"), "LAYER"),
    **dict.fromkeys(("OF", "OUT"), "FROM"),
}
"""Words of other programs for a keyword."""


def _meant(instruction: str, word: str, error: UnexpectedInput) -> str:
    """The keyword that a word was probably meant to be, or that it cannot stand in a clause."""
    if word.startswith(("#", "//")):
        return "a comment needs a line of its own"
    accepted: set[str] = set()
    if isinstance(error, UnexpectedToken):
        accepted = set(error.accepts or error.expected) - {"$END"}
    if "COMPARE" in accepted and word in _COMPARED:
        return did_you_mean([_COMPARED[word]])
    name, equals, _ = word.upper().partition("=")
    known = name if name in accepted else _MEANT.get(name, "")
    found = [known] if known in accepted else near(name, sorted(accepted))
    if not found:
        return ""
    keyword = spelled_keyword(instruction, found[0])
    return did_you_mean([f"{keyword} {word[len(name) + 1 :]}" if equals else keyword])
