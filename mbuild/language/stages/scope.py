"""Arguments and stages by their names: what is declared, what was given, what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.language.instructions import Problem
from mbuild.language.stages.expand import ExpansionError, expand
from mbuild.language.stages.quotes import OTHER_QUOTES, QUOTED_HINT

if TYPE_CHECKING:
    from mbuild.language.stages.clauses import Word

_ARGUMENT = regex(r"[A-Za-z_][A-Za-z0-9_]*")


class Scope:
    """The arguments that are visible at a place of a file.

    ``given`` are values from outside: those of ``--build-arg``, or behind INCLUDE. A stage's
    scope has what was declared before the first FROM, and what its base declares.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._values: dict[str, str | None] = {}
        self.declared: set[str] = set()

    def declare(self, name: str, default: str | None) -> None:
        """ARG: what was given counts, then the default, then what it was worth before."""
        self.declared.add(name)
        before = self._values.get(name) if default is None else default
        self._values[name] = self._given.get(name, before)

    def knows(self, name: str) -> bool:
        """Whether an argument is declared here."""
        return name in self._values

    def value(self, name: str) -> str | None:
        """What an argument is worth; raises :class:`ExpansionError` for one not declared."""
        if name not in self._values:
            hint = did_you_mean(near(name, self._values), f"declare it above: ARG {name}")
            raise ExpansionError(f"${{{name}}}: there is no ARG {name} before this line", hint)
        return self._values[name]

    def inner(self, base: Scope | None) -> Scope:
        """The scope of a stage: this one's arguments, and over them its base's."""
        scope = Scope(self._given)
        scope._values = {**self._values, **(base._values if base else {})}
        scope.declared = self.declared  # one set: what any stage declares can be given
        return scope

    def unknown(self) -> list[str]:
        """Names that were given and that nobody declared."""
        return sorted(self._given.keys() - self.declared)


def assignment(
    item: Any, word: Word, value: Callable[[str], str | None], *, needed: bool = False
) -> tuple[str, str | None]:
    """``NAME=VALUE`` or ``NAME``: the name, and the value or None.

    Raises :class:`ModelfileError` for a name that cannot be one, and where a value is
    ``needed`` and there is none.
    """
    name, equals, text = word.text.partition("=")
    name = name.replace('"', "")  # a word in quotes is one as a whole, too: "NAME=a value"
    if not name and equals:
        message = f"{item.word} needs NAME=VALUE without blanks"
        hint = f"write {item.word} NAME=VALUE; a value with blanks stands in double quotes"
        raise ModelfileError([Problem(message, item.span, code="bad-argument", suggestion=hint)])
    if not _ARGUMENT.fullmatch(name) or (needed and not equals):
        message = f"{word.text:.60} is not an argument of {item.word}"
        hint = "a name is made of letters, digits and underscores: NAME=VALUE"
        if needed and _ARGUMENT.fullmatch(name):
            hint = f"write {name}=VALUE without blanks"
        if any(sign in item.value for sign in OTHER_QUOTES):
            hint = QUOTED_HINT
        raise ModelfileError([Problem(message, item.span, code="bad-argument", suggestion=hint)])
    return name, expand(text, value, unquote=True) if equals else None
