"""Pickles read as data: tensors' descriptions come out, and nothing of the pickle is ever run.

A pickle is a program for a small machine with a stack. Python's own machine imports what it names
and calls it, which is why a pickle from a stranger can do anything. This one knows the few
instructions that ``torch.save`` writes (https://github.com/python/cpython/blob/3.12/Lib/pickletools.py
describes them all), and a table of names that stand for tensors, storages and dictionaries. It
imports nothing and calls nothing: another name or another instruction is an error. Work and memory
are bounded by limits on bytes and instructions, whatever the pickle says.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import FrozenValue, NamedTuple

MAX_PICKLE = 32 << 20
"""Bytes of a pickle without the tensors' data; that of 1,000 tensors has about 200 kB."""
MAX_STEPS = 600_000
"""Instructions of a pickle; a tensor takes about 40."""
_MOST_DIMS = 16

STORAGES: dict[str, DType] = {
    "DoubleStorage": DType.F64,
    "FloatStorage": DType.F32,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "UntypedStorage": DType.U8,
}
"""Classes of storages in ``torch`` (and ``torch.storage``) and their elements."""

DTYPES: dict[str, DType] = {
    **{"float64": DType.F64, "float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16},
    **{"int64": DType.I64, "int32": DType.I32, "int16": DType.I16, "int8": DType.I8},
    **{"uint64": DType.U64, "uint32": DType.U32, "uint16": DType.U16, "uint8": DType.U8},
    **{"float8_e4m3fn": DType.F8_E4M3, "float8_e5m2": DType.F8_E5M2, "bool": DType.BOOL},
    "float8_e8m0fnu": DType.F8_E8M0,
}
"""Element types of ``torch`` by their names."""


class Storage(FrozenValue):
    """Data in the file: its key there, the type and the number of elements."""

    key: str
    dtype: DType
    count: int


class PickledTensor(NamedTuple):
    """A tensor's place in a storage: offset, shape and strides in elements.

    ``dtype`` may be another one than the storage's, which then counts bytes.
    """

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A class or function that the pickle names, as text."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_MARK = object()
_PLAIN = (str, int, float, bool, type(None))


def read_pickle(data: bytes | memoryview, where: str, start: int = 0) -> tuple[Any, int]:
    """The value of the pickle that begins at ``start``, and where it ends.

    What comes out is made of dicts (with plain keys), lists, tuples, texts, bytes, numbers,
    :class:`Storage` and :class:`PickledTensor`. Raises :class:`UnsupportedError` for a name that
    is no part of a tensor, :class:`FormatError` for everything else that cannot be; ``where``
    names the file.
    """
    machine = _Machine(memoryview(data), where, start)
    return machine.run(), machine.at


class _Machine:
    """The stack, the memo and the place in the pickle."""

    def __init__(self, data: memoryview, where: str, start: int) -> None:
        self.data, self.where, self.at = data, where, start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, actions = self.data, _ACTIONS
        for _ in range(MAX_STEPS):
            at = self.at
            if at >= len(data):
                raise self.wrong("it ends too early")
            code = data[at]
            self.at = at + 1
            action = actions.get(code)
            if action is None:
                if code == _STOP:
                    return self.pop()
                raise self.wrong(f"the instruction {bytes([code])!r} is not one for tensors")
            action(self)
        raise self.wrong(f"more than {MAX_STEPS} instructions")

    def wrong(self, what: str) -> FormatError:
        return FormatError(
            f"{self.where}: the pickle cannot be read at byte {self.at}: {what}",
            hint="the file is damaged, or holds more than a model's weights: save them as"
            " safetensors, with save_pretrained(FOLDER)",
        )

    def take(self, count: int) -> memoryview:
        found = self.data[self.at : self.at + count]
        if len(found) < count:
            raise self.wrong("it ends too early")
        self.at += count
        return found

    def skip(self, count: int) -> None:
        self.take(count)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        for end in range(self.at, min(self.at + 256, len(self.data))):
            if self.data[end] == 0x0A:
                text = bytes(self.data[self.at : end])
                self.at = end + 1
                return text.decode("utf-8", "replace")
        raise self.wrong("a name is too long")

    def text(self, length: int) -> str:
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise self.wrong("a text is not UTF-8") from None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self.wrong("the stack is empty")
        value = self.stack.pop()
        if value is _MARK:
            raise self.wrong("a mark has no end")
        return value

    def popped_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise self.wrong("there is no mark")

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.wrong(f"a {kind.__name__} is needed")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self.wrong("a key has no value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _PLAIN:
                raise self.wrong(f"a {type(key).__name__} is a key")
            target[key] = value

    def remember(self, place: int) -> None:
        if not self.stack:
            raise self.wrong("the stack is empty")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise self.wrong(f"nothing was kept as {place}")
        self.push(self.memo[place])

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.wrong("a name is not a text")
        self.push(_known(_Name(module, name), self.where))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise self.wrong("what is called is not a name")
        made = _MAKERS.get(str(function))
        if made is None:
            raise self.wrong(f"{function} makes nothing")
        self.push(made(self, arguments))

    def build(self) -> None:
        """Attributes of a dictionary, which torch writes for state dicts: nothing needs them."""
        self.pop()
        self.top(dict)

    def persistent(self) -> None:
        self.push(_storage(self, self.pop()))


def _known(name: _Name, where: str) -> Any:
    """A name that may stand in a pickle, or the element type that it is."""
    if name.module == "torch" and name.name in DTYPES:
        return DTYPES[name.name]
    if str(name) in _MAKERS or (name.module in _STORAGE_MODULES and name.name in STORAGES):
        return name
    raise UnsupportedError(
        f"{where}: the pickle wants {str(name)[:80]!r}, which is not part of a tensor; it could run"
        " any code",
        hint="if you trust the file, save its weights as safetensors, with save_pretrained(FOLDER)",
    )


_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")


def _storage(machine: _Machine, value: Any) -> Storage:
    """What ``('storage', class, key, device, elements[, view])`` means."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
        raise machine.wrong("what is outside the pickle is not a storage")
    _, kind, key, _, count = value[:5]
    if len(value) == 6 and value[5] is not None:
        raise machine.wrong("a storage is a view of another")
    if type(kind) is not _Name or kind.name not in STORAGES:
        raise machine.wrong("a storage has no type")
    if type(key) is not str or not 0 < len(key) < 256 or type(count) is not int or count < 0:
        raise machine.wrong("a storage has no key or no size")
    return Storage(key, STORAGES[kind.name], count)


def _tensor(machine: _Machine, arguments: tuple[Any, ...]) -> PickledTensor:
    """What ``_rebuild_tensor`` and its successors are called with; the third has an own type."""
    if not 4 <= len(arguments) <= 8 or type(arguments[0]) is not Storage:
        raise machine.wrong("a tensor has no storage")
    storage, offset, shape, strides = arguments[:4]
    sizes = [offset, *_numbers(machine, shape), *_numbers(machine, strides)]
    if len(shape) != len(strides) or any(size < 0 or size >= 1 << 62 for size in sizes):
        raise machine.wrong("a tensor has no shape")
    dtype = next((item for item in arguments[4:] if type(item) is DType), storage.dtype)
    return PickledTensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _numbers(machine: _Machine, value: Any) -> list[int]:
    if type(value) not in (tuple, list) or len(value) > _MOST_DIMS:
        raise machine.wrong("a shape is not a tuple")
    if not all(type(item) is int for item in value):
        raise machine.wrong("a shape has no numbers")
    return [*value]


def _parameter(machine: _Machine, arguments: tuple[Any, ...]) -> PickledTensor:
    if not arguments or type(arguments[0]) is not PickledTensor:
        raise machine.wrong("a parameter has no tensor")
    return arguments[0]


def _dictionary(machine: _Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise machine.wrong("a dictionary is made of something else")
    found: dict[Any, Any] = {}
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2 or type(pair[0]) not in _PLAIN:
            raise machine.wrong("a dictionary is made of something else")
        found[pair[0]] = pair[1]
    return found


def _size(machine: _Machine, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(_numbers(machine, arguments[0] if arguments else ()))


_MAKERS: dict[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
}
"""What may be called in name, and what it makes; only this table decides."""


def _tuple(count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return action


def _drop(machine: _Machine) -> None:
    machine.pop()


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _append_all(machine: _Machine) -> None:
    items = machine.popped_to_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


_STOP = ord(".")

_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: lambda m: m.skip(1),  # PROTO
    0x95: lambda m: m.skip(8),  # FRAME
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("q"): lambda m: m.remember(m.take(1)[0]),
    ord("r"): lambda m: m.remember(m.number("<I")),
    ord("h"): lambda m: m.recall(m.take(1)[0]),
    ord("j"): lambda m: m.recall(m.number("<I")),
    ord("("): lambda m: m.push(_MARK),
    ord("0"): _drop,
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.popped_to_mark())),
    0x85: lambda m: m.push((m.pop(),)),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("l"): lambda m: m.push(m.popped_to_mark()),
    ord("a"): _append,
    ord("e"): _append_all,
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.popped_to_mark()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.take(1)[0]),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.take(1)[0]), "little", signed=True)),
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("X"): lambda m: m.push(m.text(m.number("<I"))),
    0x8C: lambda m: m.push(m.text(m.take(1)[0])),
    ord("U"): lambda m: m.push(m.text(m.take(1)[0])),
    ord("T"): lambda m: m.push(m.text(m.number("<I"))),
    ord("C"): lambda m: m.push(bytes(m.take(m.take(1)[0]))),
    ord("B"): lambda m: m.push(bytes(m.take(m.number("<I")))),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _stack_global,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}
"""The instructions by their bytes."""


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie in the order of their indices."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
