"""What a checkpoint says of its encoders: parts of config.json and the processors' files, typed.

Every number is hostile until one of these has read it: they refuse other types, NaN, infinity and
what is out of bounds, and say in which file and where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import U32_MAX, missing
from mbuild.core.errors import FormatError, LackingError
from mbuild.core.values import EMPTY, FrozenValue

if TYPE_CHECKING:
    from mbuild.convert.read.dtypes import OutType
    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.read.lazy import Lazy

BLOCKS = (
    *("n_layers", "num_hidden_layers", "n_layer", "num_layers", "depth", "layers"),
    *("encoder_layers", "vt_num_hidden_layers"),
)
WIDTH = ("hidden_size", "width", "vt_hidden_size")
FEED_FORWARD = ("intermediate_size", "vt_intermediate_size")
HEADS = ("num_attention_heads", "num_heads", "heads", "vt_num_attention_heads")


@dataclass(frozen=True, slots=True)
class Section:
    """An object of a JSON file; ``place`` says where it stands, for messages."""

    values: Mapping[str, Any]
    place: str = "config.json"

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def value(self, *names: str) -> Any:
        """The raw value of the first of these names that is there, or None."""
        return next((self.values[name] for name in names if name in self.values), None)

    def section(self, name: str) -> Section:
        """A nested object, empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return Section({}, self._place(name))
        if not isinstance(value, dict):
            raise self._refusal(name, value, "an object")
        return Section(value, self._place(name))

    def integer(self, *names: str, low: int = 0, default: int | None = None) -> int:
        """A whole number; raises :class:`FormatError` if it is missing and has no default."""
        value = self._needed(names, default)
        if type(value) is not int or not low <= value <= U32_MAX:
            raise self._refusal(self._name(names), value, f"a whole number of at least {low}")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number; raises :class:`FormatError` if it is missing and has no default."""
        value = self._needed(names, default)
        if type(value) not in (int, float) or not abs(value) < 3.4e38:  # NaN compares false
            raise self._refusal(self._name(names), value, "a finite number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._refusal(name, value, "true or false")
        return value

    def text(self, *names: str, default: str | None = None) -> str:
        """A text; raises :class:`FormatError` if it is missing and has no default."""
        value = self._needed(names, default)
        if not isinstance(value, str):
            raise self._refusal(self._name(names), value, "a text")
        return value

    def integers(self, name: str, low: int = 0) -> list[int]:
        """A list of whole numbers, empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(each) is int for each in value):
            raise self._refusal(name, value, "a list of whole numbers")
        if not all(low <= each <= U32_MAX >> 1 for each in value):
            raise self._refusal(name, value, f"a list of whole numbers of at least {low}")
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of finite numbers; raises :class:`FormatError` where there is none."""
        value = self._needed((name,), None)
        kinds = isinstance(value, list) and {type(each) for each in value} <= {int, float}
        if not kinds or not all(abs(each) < 3.4e38 for each in value):
            raise self._refusal(name, value, "a list of numbers")
        return [float(each) for each in value]

    def _needed(self, names: tuple[str, ...], default: Any) -> Any:
        value = self.value(*names)
        value = default if value is None else value
        if value is None:
            raise LackingError(
                f"{self.place} has no {names[0]}, which the projector needs",
                hint="take the file from the base model, or build the text half alone with"
                " --text-only",
            )
        return value

    def _name(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self.values), names[0])

    def _place(self, name: str) -> str:
        return f"{self.place}: {name}"

    def _refusal(self, name: str, value: Any, wanted: str) -> FormatError:
        text = repr(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        return FormatError(f"{self.place}: {name} is {shown}; {wanted} is needed")


class Towers(FrozenValue):
    """What decides a projector file.

    Attributes:
        root: the whole of config.json, completed.
        text: the text model's part of it, empty where it has none of its own.
        processor: preprocessor_config.json with processor_config.json laid over it.
        width: the embedding length of the text model.
        outtype: what matrices become, never ``auto``.
        files: the checkpoint's other files.
        tensors: the tensors of the encoders under the names that the rules know.
        vision: the vision encoder's part of config.json, as its row has it; None for none.
        audio: the same of the encoder of sound.
        order: the places of the tensors.
    """

    root: Section
    text: Section
    processor: Section
    width: int
    outtype: OutType
    files: CheckpointFiles
    tensors: Mapping[str, Lazy] = EMPTY
    vision: Section | None = None
    audio: Section | None = None
    order: Mapping[str, int] = EMPTY

    def last(self, names: Iterable[str]) -> str:
        """Which of these tensors comes last in the checkpoint; empty where none is there."""
        there = [name for name in names if name in self.order]
        return max(there, key=self.order.__getitem__, default="")

    @property
    def sight(self) -> Section:
        """The vision encoder's, where there must be one."""
        return self._there(self.vision, "vision_config")

    @property
    def hearing(self) -> Section:
        """The audio encoder's, where there must be one."""
        return self._there(self.audio, "audio_config")

    @property
    def first(self) -> Section:
        """The one encoder's of a file with one; of two the vision encoder's."""
        return self.vision or self.hearing

    @property
    def heads(self) -> int:
        """The number of attention heads of :attr:`first`."""
        return self.first.integer(*HEADS, low=1)

    def _there(self, section: Section | None, name: str) -> Section:
        if section is None:
            raise missing(name)
        return section


Find = Callable[[Towers], Mapping[str, Any] | None]
"""Finds the part of config.json that describes an encoder; None for none."""


def part(name: str, defaults: Mapping[str, Any] = {}, *, fixed: Mapping[str, Any] = {}) -> Find:
    """That object of config.json, with values for what it leaves out, and others instead."""

    def find(towers: Towers) -> Mapping[str, Any] | None:
        found = towers.root.section(name).values
        return {**defaults, **found, **fixed} if found else None

    return find
