"""One stage while a file is evaluated: what it has said so far, its base's included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.language.instructions import Instruction, Modelfile, Problem
from mbuild.language.recipe import ModelChange, Recipe
from mbuild.language.stages.values import ALL, Expectation, QuantizeLine, StageRecipe

if TYPE_CHECKING:
    from mbuild.language.span import Span
    from mbuild.language.stages.scope import Scope

_NAME = regex(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass
class Stage:
    """A stage as it grows.

    ``instructions`` and ``changes`` begin with those of its base, as if it had been written
    by hand without one; QUANTIZE and CHECK are its own alone.
    """

    name: str
    span: Span | None
    scope: Scope
    base: Stage | None = None
    instructions: list[Instruction] = field(default_factory=list)
    changes: list[ModelChange] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    quantize: list[QuantizeLine] = field(default_factory=list)
    checks: list[Expectation] = field(default_factory=list)

    @property
    def modelfile(self) -> Modelfile:
        """What it says in Ollama's language."""
        return Modelfile(tuple(self.instructions))

    def recipe(self) -> StageRecipe:
        """What it comes to; raises :class:`ModelfileError` for values that cannot be."""
        recipe = Recipe.of(self.modelfile)._replace(
            changes=tuple(self.changes), unset=tuple(dict.fromkeys(self.unset))
        )
        return StageRecipe(self.name, recipe, tuple(self.quantize), tuple(self.checks))


def stage_name(name: str, span: Span | None, stages: Sequence[Stage]) -> str:
    """A stage's name; raises :class:`ModelfileError` for one that cannot be, or that is taken."""
    if not _NAME.fullmatch(name) or name.lower() == ALL:
        message = f"{name:.60} cannot be the name of a stage"
        hint = "a name begins with a letter and has letters, digits and -_. in it"
        hint = f"{ALL} means every stage" if name.lower() == ALL else hint
        hint = "a comment needs a line of its own" if " #" in name else hint
        raise ModelfileError([Problem(message, span, code="bad-stage", suggestion=hint)])
    same = next((stage for stage in stages if stage.name.lower() == name.lower()), None)
    if same is not None:
        line = f" on line {same.span.line}" if same.span else ""
        message = f"a stage is called {same.name} already{line}"
        hint = "give this one another name: names are read in either case"
        raise ModelfileError([Problem(message, span, code="bad-stage", suggestion=hint)])
    return name
