"""Which line of a Modelfile, or option of a build, a difference between two models comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.history import History, modelfile_text
from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.request import Script
    from mbuild.language.instructions import Instruction, Modelfile
    from mbuild.models.compare.models import ModelDiff
    from mbuild.store import Store, StoredManifest

_WEIGHTS = ("model", "projector")


class DifferenceCause(NamedTuple):
    """What made one side what it is.

    ``difference`` names what differs (``parameter temperature``); ``side`` is
    ``A`` or ``B``; ``place`` is ``Modelfile:3`` or ``command line``.
    """

    difference: str
    side: str
    place: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {
            "difference": self.difference,
            "side": self.side,
            "place": self.place,
            "text": self.text,
        }


def causes(
    found: ModelDiff, sides: Sequence[StoredManifest | None], store: Store
) -> tuple[DifferenceCause, ...]:
    """For each difference the lines of both sides, for sides that were built here.

    What no line of its own says comes with FROM: from the base model, or found
    in the weights.
    """
    makers = [
        (side, maker)
        for side, stored in zip("AB", sides, strict=True)
        if stored is not None and (maker := _maker(stored, store)) is not None
    ]
    return tuple(
        DifferenceCause(difference, side, place, text)
        for difference in _differences(found)
        for side, maker in makers
        for place, text in maker.lines_of(difference)
    )


def _differences(found: ModelDiff) -> list[str]:
    """What differs, in the words of :meth:`_Maker.lines_of`: texts, parameters, config, weights."""
    names = [f"parameter {change.key}" for change in found.parameters]
    names += [change.key for change in found.config if change.key in _CONFIG]
    names += list(found.texts)
    names += [weights.kind for weights in found.weights if not weights.identical]
    return names


class _Maker(NamedTuple):
    """The Modelfile of a build, and the options that decide the model's weights."""

    script: Script
    text: str
    modelfile: Modelfile
    options: str

    def lines_of(self, difference: str) -> Iterator[tuple[str, str]]:
        """Where what ``difference`` names was written: place and text."""
        word, _, rest = difference.partition(" ")
        chosen = _LINES[word](self.modelfile, rest) if word in _LINES else []
        for instruction in chosen or _from(self.modelfile, ""):
            yield self._line(instruction)
        if word in _WEIGHTS and self.options:
            yield "command line", self.options

    def _line(self, instruction: Instruction) -> tuple[str, str]:
        span = instruction.span
        if span is None:
            return self.script.name, instruction.word
        first = self.text[span.start : span.end].splitlines()
        text = first[0] if len(first) == 1 else f"{first[0]} ..."
        return f"{self.script.name}:{span.line}", text


def _maker(stored: StoredManifest, store: Store) -> _Maker | None:
    """The Modelfile that a model was built from, if the log and the cache still know."""
    from mbuild.language.parser import decode, parse

    record = History(store).maker_of(str(stored.name), stored.id)
    script = record.request.script if record is not None else None
    data = modelfile_text(script.text, store) if script is not None else None
    if record is None or script is None or data is None:
        return None
    target = record.target_of(str(stored.name), stored.id)
    flags = record.request.flags(target) if target is not None else []
    options = " ".join(word for flag in flags for word in flag if word)
    try:
        return _Maker(script, decode(data), parse(data, script.name), options)
    except MbuildError:
        return None


def _from(modelfile: Modelfile, rest: str) -> Sequence[Instruction]:
    from mbuild.language.instructions import From

    return modelfile.every(From)


def _last(kind: str) -> Callable[[Modelfile, str], Sequence[Instruction]]:
    def find(modelfile: Modelfile, rest: str) -> Sequence[Instruction]:
        import mbuild.language.instructions as kinds

        found: Instruction | None = modelfile.last(getattr(kinds, kind))
        return [found] if found else []

    return find


def _every(kind: str) -> Callable[[Modelfile, str], Sequence[Instruction]]:
    def find(modelfile: Modelfile, rest: str) -> Sequence[Instruction]:
        import mbuild.language.instructions as kinds

        found: Sequence[Instruction] = modelfile.every(getattr(kinds, kind))
        number = int(rest) if rest.isdigit() else 0
        return found[number - 1 : number] if number else found

    return find


def _parameter(modelfile: Modelfile, rest: str) -> Sequence[Instruction]:
    """All lines of a parameter that is a list, the last of any other."""
    found = [item for item in modelfile.parameters if item.name.lower() == rest]
    return found if rest == "stop" else found[-1:]


_CONFIG = ("renderer", "parser", "requires")

_LINES: dict[str, Callable[[Modelfile, str], Sequence[Instruction]]] = {
    "parameter": _parameter,
    "template": _last("Template"),
    "system": _last("System"),
    "license": _every("License"),
    "messages": _every("Message"),
    "renderer": _last("Renderer"),
    "parser": _last("Parser"),
    "requires": _last("Requires"),
    "adapter": _every("Adapter"),
    "draft": _every("Draft"),
}
"""Which lines say what a difference is about; the rest comes with FROM."""
