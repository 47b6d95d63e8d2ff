"""Values that cost nothing to declare: what Python's own named tuples and dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, ClassVar, Generic, TypeVar

import pytest

import mbuild
from mbuild.core.values import Frozen, FrozenValue, NamedTuple, aside, replace

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


class Mark(FrozenValue):
    """A value that is compared by one of its fields."""

    text: str
    place: int = aside(default=0)


class Other(Mark):
    """Another kind with the same fields."""


def test_a_value_equals_those_of_its_class_with_equal_fields() -> None:
    """Whatever the fields that are aside say; it is a key of a dict."""
    assert Mark("a", 1) == Mark("a", 2) != Mark("b", 1)
    assert Mark("a") != Other("a") and Mark("a") != "a"
    assert {Mark("a", 1): 1}[Mark("a", 2)] == 1
    assert pickle.loads(pickle.dumps(Mark("a", 3))).place == 3


@dataclasses.dataclass(frozen=True)
class Usual2:
    """A dataclass."""

    x: int
    y: int = 0


def test_a_field_is_replaced_in_a_value_of_any_kind() -> None:
    """Named tuples, frozen values, dataclasses; another one of the same class comes back."""
    for value in (Point(1), Square(1), Usual2(1)):
        changed = replace(value, **{"x" if hasattr(value, "x") else "sides": 5})
        assert type(changed) is type(value)
        assert (changed.sides if isinstance(changed, Square) else changed.x) == 5


def test_fields_with_defaults_come_last() -> None:
    """As in Python: what has none after one that has is a fault where it is declared."""
    with pytest.raises(TypeError, match="without a default"):

        class Wrong(Square):
            """A field that has to be given after one that need not be."""

            after: int  # type: ignore[misc]


def test_no_default_can_be_changed() -> None:
    """Every instance has the same one: none is a list, a set, or a dataclass's field."""
    for module in walk_packages(mbuild.__path__, "mbuild."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # what an extra brings
                import_module(module.name)
    waiting: list[Any] = [Frozen]
    every = set()
    while waiting:
        kind = waiting.pop()
        every.add(kind)
        waiting += kind.__subclasses__()
    tuples = [kind for kind in tuple.__subclasses__() if hasattr(kind, "_fields")]
    tuples += [kind for base in tuple.__subclasses__() for kind in base.__subclasses__()]
    defaults = {kind: kind._defaults for kind in every}
    defaults |= {kind: getattr(kind, "_field_defaults", {}) for kind in tuples}
    assert len(every) > 40 and len(tuples) > 200
    wrong = (list, set, bytearray, dataclasses.Field)
    found = {
        f"{kind.__qualname__}.{name}"
        for kind, given in defaults.items()
        if kind.__module__.startswith("mbuild")
        for name, value in given.items()
        if isinstance(value, wrong)
    }
    assert not found
