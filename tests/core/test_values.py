"""Values that cost nothing to declare: what Python's own named tuples and dataclasses do."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from mbuild.core.values import Frozen, NamedTuple, aside

ValueT = TypeVar("ValueT")


class Point(NamedTuple):
    """A place."""

    x: int
    y: int = 2
    name: str = "here"

    def moved(self) -> Point:
        """One further."""
        return self._replace(x=self.x + 1)


class Usual(typing.NamedTuple):
    """The same, as Python declares it."""

    x: int
    y: int = 2
    name: str = "here"


class Holder(NamedTuple, Generic[ValueT]):
    """Something of some type."""

    value: ValueT


class Shape(Frozen):
    """A value with two fields, of which one labels it."""

    sides: int
    label: str = aside(default="shape")

    kind: ClassVar[str] = "shape"


class Square(Shape):
    """A shape with a field more."""

    size: int = 1

    kind: ClassVar[str] = "square"


SAME: dict[str, Callable[[Any], object]] = {
    "fields": lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__),
    "places": lambda kind: (tuple(kind(1)), tuple(kind(1, 3)), tuple(kind(1, name="n", y=0))),
    "names": lambda kind: (kind(7).x, kind(7).y, kind(7).name, kind(7)[2], kind(7)[:2]),
    "replaced": lambda kind: tuple(kind(1)._replace(y=9, name="")),
    "dictionary": lambda kind: kind(1)._asdict(),
    "made": lambda kind: tuple(kind._make([4, 5, "six"])),
    "text": lambda kind: repr(kind(1)).partition("(")[2],
    "equal": lambda kind: (kind(1) == (1, 2, "here"), kind(1) < kind(2), hash(kind(1))),
    "hints": typing.get_type_hints,
    "copied": lambda kind: tuple(copy.copy(kind(1))) + tuple(copy.deepcopy(kind(1))),
    "slots": lambda kind: hasattr(kind(1), "__dict__"),
}


@pytest.mark.parametrize("what", SAME)
def test_a_named_tuple_is_like_pythons(what: str) -> None:
    """Whatever is asked of one has the answer that ``typing.NamedTuple`` gives."""
    assert SAME[what](Point) == SAME[what](Usual)


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, "n", 4), {}), ((1,), {"z": 1})])
def test_wrong_arguments_are_told_as_python_tells_them(
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
) -> None:
    """Too few, too many, unknown: a TypeError that names the class."""
    said = []
    for kind in (Point, Usual):
        with pytest.raises(TypeError) as failed:
            kind(*arguments[0], **arguments[1])
        said.append(str(failed.value).replace(kind.__name__, "Kind"))
    assert said[0] == said[1] and said[0].startswith("Kind.__new__()")


def test_named_tuples_have_methods_are_pickled_and_generic() -> None:
    """What a body has beside fields stays; a value comes back as one of its class."""
    assert Point(1).moved() == Point(2) and Point.__doc__ == "A place."
    assert type(pickle.loads(pickle.dumps(Point(3)))) is Point
    assert Holder[int](5).value == 5 and repr(Holder("a")) == "Holder(value='a')"
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]


def test_a_frozen_value_takes_its_fields_by_place_and_by_name() -> None:
    """Those of the class below come first; defaults count, also of a field that is aside."""
    square = Square(4, size=3)
    assert (square.sides, square.label, square.size) == (4, "shape", 3)
    assert repr(square) == "Square(sides=4, label='shape', size=3)"
    assert (Square._fields, Square._compared) == (("sides", "label", "size"), ("sides", "size"))
    assert square.kind == "square" and Shape(3).kind == "shape"
    with pytest.raises(TypeError, match="sides"):
        Square(size=1)  # type: ignore[call-arg]


def test_a_frozen_value_cannot_be_changed_but_replaced() -> None:
    """Neither set nor deleted; a changed one is another value of the class."""
    square = Square(4)
    for change in (lambda: setattr(square, "size", 2), lambda: delattr(square, "size")):
        with pytest.raises(AttributeError, match="size"):
            change()
    other = square.changed(size=5)
    assert (type(other), other.sides, other.size, square.size) == (Square, 4, 5, 1)


def test_fields_with_defaults_come_last() -> None:
    """As in Python: what has none after one that has is a fault where it is declared."""
    with pytest.raises(TypeError, match="without a default"):

        class Wrong(Square):
            """A field that has to be given after one that need not be."""

            after: int  # type: ignore[misc]
