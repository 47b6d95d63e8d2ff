"""The instructions that ``# syntax=mbuild/1`` adds, parsed but not yet evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from mbuild.core.patterns import regex
from mbuild.core.values import FrozenValue, aside
from mbuild.language.instructions import TYPES, Comment, From, Instruction, _Item, _Plain
from mbuild.language.span import Span

_NAMED = regex(r"(?s)((?:\$\{[^{}]*\}|(?!\$\{).)*?)[ \t]+[Aa][Ss][ \t]+(.+)")


class Opening(_Item):
    """``FROM VALUE [AS NAME]``: a stage begins; the name is empty where there is none."""

    value: str
    name: str = ""
    span: Span | None = aside(default=None)
    word: ClassVar[str] = From.word

    @classmethod
    def of_bare(cls, said: str, span: Span | None) -> Opening:
        """What stands behind FROM: AS gives the stage a name, also behind a model in quotes."""
        match = _NAMED.fullmatch(said)
        if match is None:
            return cls(said, "", span)
        model = match[1]
        in_quotes = len(model) > 1 and model[0] == model[-1] == '"'
        return cls(model[1:-1] if in_quotes else model, match[2], span)


class Arg(_Plain):
    """``ARG NAME[=DEFAULT] ...``: arguments that the file takes."""

    word: ClassVar[str] = "ARG"


class Include(_Plain):
    """``INCLUDE FILE [NAME=VALUE ...]``: the instructions of another file."""

    word: ClassVar[str] = "INCLUDE"


class QuantizeTo(_Plain):
    """``QUANTIZE TYPE ... [OPTION ...]``: how the models of a target are quantized."""

    word: ClassVar[str] = "QUANTIZE"


class MergeIn(_Plain):
    """``MERGE ADAPTER [WEIGHT NUMBER]``: an adapter is folded into the weights."""

    word: ClassVar[str] = "MERGE"


class Unset(_Plain):
    """``UNSET WORD [NAME ...]``: what a stage would inherit is left out."""

    word: ClassVar[str] = "UNSET"


class Drop(_Plain):
    """``DROP LAYER NUMBER ...``: layers are taken out of the model."""

    word: ClassVar[str] = "DROP"


class Take(_Plain):
    """``TAKE REGEX FROM STAGE``: tensors of another model."""

    word: ClassVar[str] = "TAKE"


class CheckThat(_Plain):
    """``CHECK WHAT``: what has to hold before the model gets its name."""

    word: ClassVar[str] = "CHECK"


class SetKey(_Item):
    """``SET KEY VALUE``: a value of the model's metadata."""

    name: str
    value: str
    span: Span | None = aside(default=None)
    word: ClassVar[str] = "SET"


Clause = Arg | Include | QuantizeTo | MergeIn | Unset | Drop | Take | CheckThat
"""Instructions whose value has words of its own (``grammar/clauses.lark``)."""

CLAUSES = (Arg, Include, QuantizeTo, MergeIn, Unset, Drop, Take, CheckThat)

StagedInstruction = Instruction | Opening | Clause | SetKey
"""Everything that a file of this language can say; closed. Its FROM is an :class:`Opening`."""

STAGED_TYPES: dict[str, type[StagedInstruction]] = {
    **TYPES,
    **{kind.word: kind for kind in (Opening, *CLAUSES, SetKey)},
}
"""Each instruction's type by its word, upper case."""


class StagedFile(FrozenValue):
    """A parsed file of the language, its instructions in the order written.

    Equality compares instructions only: comments and layout build nothing.
    """

    instructions: tuple[StagedInstruction, ...]
    comments: tuple[Comment, ...] = aside(default=())


def comments_within(items: Iterable[StagedInstruction]) -> Iterator[Comment]:
    """The comments between the lines of clauses that go on; each stands where its clause begins."""
    for item in items:
        if isinstance(item, CLAUSES) and "#" in item.value:
            for line in re.split(r"[\r\n]+", item.value)[1:]:
                if line.lstrip(" \t").startswith("#"):
                    yield Comment(line.lstrip(" \t")[1:].rstrip(" \t"), item.span)
