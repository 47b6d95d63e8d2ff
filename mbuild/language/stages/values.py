"""What a file of the language comes to: light, because a build with nothing to do reads it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.language.recipe import Recipe
from mbuild.language.span import Span

ALL = "all"
"""What ``--target`` says for every stage; no stage is called so."""


class QuantizeLine(NamedTuple):
    """One QUANTIZE: its types as written, and its options by the names of the flags.

    ``outtype`` and ``splitting`` are those that the line names, None for none.
    """

    types: tuple[str, ...]
    options: Mapping[str, Any]
    outtype: str | None = None
    splitting: Mapping[str, Any] | None = None
    span: Span | None = None


class Expectation(NamedTuple):
    """One CHECK: what is measured, how it compares, and with which value or text.

    ``text`` is the file of a text, of which ``chunks`` are used (0: all); of ``answers`` it is
    the prompt, and ``value`` the expression. ``beside``: the Modelfile says it, and its file
    lies where the Modelfile's other paths start.
    """

    measure: str
    compare: str = ""
    value: str = ""
    text: str = ""
    span: Span | None = None
    chunks: int = 0
    beside: bool = True

    @property
    def said(self) -> str:
        """The condition as it is written behind CHECK."""
        if self.measure == "answers":
            return f'answers "{self.text}" WITH /{self.value}/'
        words = [self.measure, self.compare, self.value]
        words += ["TEXT", self.text] if self.text else []
        words += ["CHUNKS", str(self.chunks)] if self.chunks else []
        return " ".join(word for word in words if word)


class StageRecipe(NamedTuple):
    """A stage: what it comes to as a recipe of its own, and what its targets are.

    ``name`` is its number, counted from 0, where it has no name of its own.
    """

    name: str
    recipe: Recipe
    quantize: tuple[QuantizeLine, ...] = ()
    checks: tuple[Expectation, ...] = ()

    @property
    def is_named(self) -> bool:
        """Whether the Modelfile gives it a name."""
        return not self.name.isdecimal()

    def to_json(self) -> list[Any]:
        """For :meth:`from_json`."""
        return [self.name, self.recipe.to_json(), self.quantize, self.checks]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> StageRecipe:
        """Read :meth:`to_json`'s value; raises ValueError or TypeError for anything else."""
        name, recipe, lines, checks = value
        return cls(
            name,
            Recipe.from_json(recipe),
            tuple(_line(QuantizeLine(*line)) for line in lines),
            tuple(_placed(Expectation(*check)) for check in checks),
        )


def _line(line: QuantizeLine) -> QuantizeLine:
    return line._replace(types=tuple(line.types), span=line.span and Span(*line.span))


def _placed(check: Expectation) -> Expectation:
    return check._replace(span=check.span and Span(*check.span))
