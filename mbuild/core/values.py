"""Ways to declare a value that cost a starting program next to nothing.

:class:`NamedTuple` is to type checkers, and to whoever uses one, what ``typing.NamedTuple``
is; :class:`Frozen` is a frozen dataclass, and :class:`FrozenValue` one that is compared by
its fields. Python's own compile source text for each class (some 0.2 and 0.6 ms), which for
the eighty that a build with nothing to do declares is as long as all the rest of it, and for
the two hundred of a first quantization a fifth. Here one function for each number of fields
is compiled, and a class gets a copy with its own names. A module that uses them begins with
``from __future__ import annotations``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

EMPTY: Mapping[Any, Any] = MappingProxyType({})
"""What a field that maps something has where nothing is said."""


@cache
def _taking(count: int) -> FunctionType:
    """A function of a class and of so many fields, which makes that class's tuple of them."""
    names = "".join(f"_{number}, " for number in range(count))
    room: dict[str, Any] = {"new": tuple.__new__}
    exec(f"def made(_cls, {names}): return new(_cls, ({names}))", room)
    made: FunctionType = room["made"]
    return made


def _maker(owner: str, fields: tuple[str, ...], defaults: Mapping[str, Any]) -> FunctionType:
    """The function of these fields, by place or by name, as ``owner`` has it."""
    pattern = _taking(len(fields))
    code = pattern.__code__.replace(co_varnames=("_cls", *fields))
    last = [field for field in fields if field in defaults]
    if last and tuple(last) != fields[-len(last) :]:
        raise TypeError(f"{owner}: a field without a default follows one with a default")
    given = tuple(defaults[field] for field in last)
    made = FunctionType(code, pattern.__globals__, "__new__", given or None)
    made.__qualname__ = f"{owner}.__new__"
    return made


def _described(value: Any, fields: tuple[str, ...]) -> str:
    said = ", ".join(f"{field}={getattr(value, field)!r}" for field in fields)
    return f"{type(value).__name__}({said})"


def _own_fields(annotations: Mapping[str, Any]) -> Iterator[str]:
    """The names that are annotated and no variable of the class; annotations are texts."""
    return (name for name, kind in annotations.items() if not kind.startswith("ClassVar"))


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    class _Fields(tuple):
        """What named tuples have in common; the names are those of ``typing.NamedTuple``."""

        __slots__ = ()

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, /, **changes):
            return type(self)(**{**self._asdict(), **changes})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return _described(self, self._fields)

        def __getnewargs__(self):
            return tuple(self)

    class _Declared(type):
        """Makes a tuple's class of a body with annotations, for ``from __future__`` modules."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(_own_fields(body["__annotations__"]))
            defaults = {field: body[field] for field in fields if field in body}
            for place, field in enumerate(fields):
                body[field] = _tuplegetter(place, f"Field number {place}")
            body |= {"__slots__": (), "_fields": fields, "_field_defaults": defaults}
            body |= {"__match_args__": fields, "__new__": _maker(name, fields, defaults)}
            bases = tuple(_Fields if base is NamedTuple else base for base in bases)
            return type(name, bases, body)

    class NamedTuple(metaclass=_Declared):
        """A tuple whose places have names: ``typing.NamedTuple``."""


def aside(*, default: Any) -> Any:
    """A field of a :class:`Frozen` that counts in no comparison."""
    return _Aside(default)


class _Aside:
    def __init__(self, default: Any) -> None:
        self.default = default


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(aside,))
class Frozen:
    """A value with fields by name that cannot be set, declared as those of a dataclass are.

    Fields of the classes that it is made over come first. What is equal is for the class to
    say, by its ``_compared`` fields. ``__post_init__`` is called when the fields are there.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _compared: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, Any]] = {}
    _made: ClassVar[Callable[..., tuple[Any, ...]]]

    def __init_subclass__(cls, **more: Any) -> None:
        """Take the fields from the class's annotations."""
        super().__init_subclass__(**more)
        own = tuple(_own_fields(vars(cls).get("__annotations__", {})))
        given = {field: cls.__dict__[field] for field in own if field in cls.__dict__}
        asides = {field for field, value in given.items() if isinstance(value, _Aside)}
        for field in asides:
            given[field] = given[field].default
            setattr(cls, field, given[field])
        new = tuple(field for field in own if field not in cls._fields)
        cls._fields += new
        cls._compared += tuple(field for field in new if field not in asides)
        cls._defaults = {**cls._defaults, **given}
        cls._made = staticmethod(_maker(cls.__name__, cls._fields, cls._defaults))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the fields' values, by place or by name."""
        self.__dict__.update(zip(self._fields, self._made(tuple, *args, **kwargs), strict=True))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Nothing more to do."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse: it is frozen."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: the value is frozen")

    def __delattr__(self, name: str) -> None:
        """Refuse: it is frozen."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __repr__(self) -> str:
        """The class and its fields."""
        return _described(self, self._fields)

    def changed(self, **changes: Any) -> Self:
        """A value of the same class with other values of these fields."""
        every = {field: getattr(self, field) for field in self._fields}
        return type(self)(**{**every, **changes})


class FrozenValue(Frozen):
    """A :class:`Frozen` that equals those of its own class with equal fields."""

    def __eq__(self, other: object) -> bool:
        """Whether the class and all fields that count are equal."""
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self._compared)

    def __hash__(self) -> int:
        """That of the fields that count."""
        return hash(tuple(getattr(self, field) for field in self._compared))


T = TypeVar("T")


def replace(value: T, /, **changes: Any) -> T:
    """The value, of any kind that is declared here or a dataclass, with these fields changed."""
    known: Any = value
    if isinstance(value, tuple):
        changed: T = known._replace(**changes)
    elif isinstance(value, Frozen):
        changed = known.changed(**changes)
    else:
        from dataclasses import replace as of_dataclass

        changed = of_dataclass(known, **changes)
    return changed
