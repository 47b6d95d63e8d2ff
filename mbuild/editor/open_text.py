"""A Modelfile while it is written: what of it can be read, and what the place of a character means.

Here a line may be broken, and the others count nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from mbuild.core.errors import MbuildError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import Comment, From
from mbuild.language.parser import decode, whole_lines
from mbuild.language.stages.clauses import Word, read_clause
from mbuild.language.stages.opening import opens_stages
from mbuild.language.stages.words import Arg, Clause, Opening, StagedFile

_ARGUMENT = regex(r"(?<!\\)\$\{([A-Za-z_][A-Za-z0-9_]*)")


class Declared(NamedTuple):
    """An argument where it is declared: the offsets of its name, and its default."""

    name: str
    start: int
    end: int
    default: str | None


class OpenText:
    """One state of a text.

    ``included`` says that it is brought in by another file, whose language it then has.
    """

    def __init__(self, text: str, *, included: bool = False) -> None:
        self.data = text.encode("utf-8", "replace")
        self.text = decode(self.data)
        self.included = included

    @cached_property
    def staged(self) -> bool:
        """Whether the text is in the language of stages."""
        try:
            return self.included or opens_stages(self.data)
        except MbuildError:
            return True

    @cached_property
    def _file(self) -> StagedFile:
        try:
            return whole_lines(self.data, staged=self.staged)
        except MbuildError:  # too large to be read
            return StagedFile(())

    @property
    def instructions(self) -> tuple[Any, ...]:
        """All that are whole, in order."""
        return self._file.instructions

    @property
    def comments(self) -> tuple[Comment, ...]:
        """The lines that are comments."""
        return self._file.comments

    def at(self, offset: int) -> Any | None:
        """The instruction that a character belongs to, or the one that ends right before it."""
        return next((i for i in self.instructions if i.span.start <= offset <= i.span.end), None)

    # Stages.

    @cached_property
    def openings(self) -> tuple[Any, ...]:
        """Every FROM."""
        return tuple(item for item in self.instructions if isinstance(item, (Opening, From)))

    def stage(self, name: str, before: int) -> Opening | None:
        """The stage of a name, of those that are opened before a character."""
        named = (i for i in self.openings if isinstance(i, Opening) and i.span.start < before)  # type: ignore[union-attr]
        return next((i for i in named if i.name and i.name.lower() == name.lower()), None)

    def stage_of(self, offset: int) -> Any | None:
        """The FROM whose stage a character is in."""
        before = [item for item in self.openings if item.span.start <= offset]
        return before[-1] if before else None

    def inside(self, opening: Any) -> list[Any]:
        """The instructions of a stage, its FROM left out."""
        later = [i.span.start for i in self.openings if i.span.start > opening.span.start]
        end = min(later, default=len(self.text) + 1)
        return [i for i in self.instructions if opening.span.start < i.span.start < end]

    # Arguments.

    def arguments(self, offset: int) -> dict[str, Declared]:
        """The arguments that count at a character: of the file, of the stage, of its bases."""
        first = self.openings[0].span.start if self.openings else len(self.text)
        found = {d.name: d for d in self._declared(self.instructions) if d.start < first}
        stage = self.stage_of(offset)
        chain: list[Any] = []
        while isinstance(stage, Opening) and stage not in chain:
            chain.append(stage)
            stage = self.stage(stage.value, stage.span.start)  # type: ignore[union-attr]
        for each in reversed(chain):
            found |= {d.name: d for d in self._declared(self.inside(each)) if d.start < offset}
        return found

    def _declared(self, items: Any) -> Iterator[Declared]:
        for item in items:
            if isinstance(item, Arg):
                for word in words_of(item):
                    name, equals, default = word.text.partition("=")
                    start = value_start(item) + word.start
                    yield Declared(name, start, start + len(name), default if equals else None)

    def argument_at(self, offset: int) -> tuple[str, int, int] | None:
        """The argument whose ``${NAME}`` a character is in: its name and where that stands."""
        if not self.staged:
            return None
        line = self.text.rfind("\n", 0, offset) + 1
        for match in _ARGUMENT.finditer(self.text, line):
            if match.start() > offset:
                return None
            if offset <= match.end():
                return match[1], match.start(1), match.end(1)
        return None


def value_start(item: Any) -> int:
    """The offset of an instruction's value."""
    start: int = item.span.value
    return start


def words_of(item: Clause) -> tuple[Word, ...]:
    """The words of a clause, those of its options included; none where it is broken."""
    try:
        phrases = read_clause(item)
    except MbuildError:
        return ()
    return (*phrases.head.words, *(word for each in phrases.options for word in each.words))
