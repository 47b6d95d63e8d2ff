"""Go's ``fmt.Sprintf`` for the values of templates (https://pkg.go.dev/fmt)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.core.patterns import regex
from mbuild.templates.failure import RenderError
from mbuild.templates.govalues import Struct, Value, byte_order, float_text, plain, show, type_name
from mbuild.templates.literals import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_WIDTH = 10_000
"""The widest field; Go stops at a million and prints ``%!(BADWIDTH)``."""

_DIRECTIVE = regex(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+|\*)?(?P<point>\.(?P<precision>\d+|\*)?)?(?P<verb>.)?", re.S
)


class _Arguments:
    """The values, taken one by one."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values
        self.used = 0

    def take(self) -> Value:
        self.used += 1
        return self.values[self.used - 1]

    @property
    def left(self) -> bool:
        return self.used < len(self.values)


def printf(form: str, values: Sequence[Value]) -> str:
    """The formatted text; a wrong verb or a missing value shows in it, as in Go."""
    arguments = _Arguments(values)
    parts = []
    end = 0
    for match in _DIRECTIVE.finditer(form):
        parts += [form[end : match.start()], _directive(match, arguments)]
        end = match.end()
    parts.append(form[end:])
    if arguments.left:
        extra = ", ".join(f"{type_name(v)}={show(v)}" for v in values[arguments.used :])
        parts.append(f"%!(EXTRA {extra})")
    return "".join(parts)


def _number(text: str | None, arguments: _Arguments) -> int | None:
    if text is None:
        return None
    if text == "*":
        value = arguments.take() if arguments.left else None
        number = value if type(value) is int else 0
    else:
        number = int(text[:9])
    if abs(number) > MAX_WIDTH:
        raise RenderError(f"a field of {number:,} characters is wider than {MAX_WIDTH:,}")
    return number


def _directive(match: re.Match[str], arguments: _Arguments) -> str:
    verb, flags = match["verb"], match["flags"]
    if verb is None:
        return "%!(NOVERB)"
    width = _number(match["width"], arguments)
    precision = _number(match["precision"], arguments)
    if match["point"] and precision is None:
        precision = 0
    if verb == "%":
        return "%"
    if not arguments.left:
        return f"%!{verb}(MISSING)"
    value = arguments.take()
    text = _format(verb, value, flags, precision)
    if width is not None and len(text) < abs(width):
        if "-" in flags or width < 0:
            return text.ljust(abs(width))
        if "0" in flags and verb in "dxXobeEfFgGv" and isinstance(plain(value), int | float):
            sign = text[0] if text[:1] in ("-", "+") else ""
            return sign + text[len(sign) :].rjust(width - len(sign), "0")
        return text.rjust(width)
    return text


def _format(verb: str, value: Value, flags: str, precision: int | None) -> str:
    if verb == "T":
        return type_name(value)
    items = plain(value)
    if verb not in "v" and value is items and isinstance(items, list | dict):
        return _collection(verb, items, flags, precision)
    writer = _VERBS.get(verb)
    text = writer(value, flags, precision) if writer else None
    if text is not None:
        return text
    return f"%!{verb}(" + ("<nil>" if value is None else f"{type_name(value)}={show(value)}") + ")"


def _collection(
    verb: str, items: list[Value] | dict[str, Value], flags: str, precision: int | None
) -> str:
    def one(item: Value) -> str:
        return _format(verb, item, flags, precision)

    if isinstance(items, list):
        return "[" + " ".join(map(one, items)) + "]"
    pairs = (f"{one(key)}:{one(items[key])}" for key in sorted(items, key=byte_order))
    return "map[" + " ".join(pairs) + "]"


def _any(value: Value, flags: str, precision: int | None) -> str | None:
    if "#" in flags:
        raise RenderError("printf: the verb %#v, which writes Go source, is not supported")
    if type(value) in (int, float) and "+" in flags and value >= 0:
        return "+" + show(value)
    if "+" in flags and isinstance(value, Struct):
        return "{" + " ".join(f"{k}:{show(v)}" for k, v in value.fields.items()) + "}"
    return show(value)


def _string(value: Value, flags: str, precision: int | None) -> str | None:
    if isinstance(plain(value), bool | int | float | complex | None):
        return None
    return show(value)[:precision]


def _quoted(value: Value, flags: str, precision: int | None) -> str | None:
    if type(value) is int and 0 <= value < 0x110000:
        text = quote(chr(value))[1:-1].replace('\\"', '"').replace("'", "\\'")
        return f"'{text}'"
    if isinstance(plain(value), bool | int | float | complex | None):
        return None
    text = show(value)[:precision]
    if "#" in flags and "`" not in text and all(c == "\t" or c.isprintable() for c in text):
        return f"`{text}`"
    if "+" in flags:
        return "".join(_ascii(char) for char in quote(text))
    return quote(text)


def _ascii(char: str) -> str:
    if char.isascii():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _based(spec: str, prefix: str) -> Callable[[Value, str, int | None], str | None]:
    def write(value: Value, flags: str, precision: int | None) -> str | None:
        if type(value) is not int:
            if isinstance(value, str) and spec in "xX":
                return byte_order(value).hex() if spec == "x" else byte_order(value).hex().upper()
            return None
        digits = format(abs(value), spec)
        if precision is not None:
            digits = digits.rjust(precision, "0") if value or precision else ""
        sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
        return sign + (prefix if "#" in flags else "") + digits

    return write


def _float(spec: str) -> Callable[[Value, str, int | None], str | None]:
    def write(value: Value, flags: str, precision: int | None) -> str | None:
        if type(value) is not float:
            return None
        if spec in "gG" and precision is None:
            text = float_text(value)
        else:
            text = format(value, f".{6 if precision is None else precision}{spec}")
        return "+" + text if "+" in flags and value >= 0 else text

    return write


def _char(value: Value, flags: str, precision: int | None) -> str | None:
    return chr(value) if type(value) is int and 0 <= value < 0x110000 else None


def _codepoint(value: Value, flags: str, precision: int | None) -> str | None:
    return f"U+{value:04X}" if type(value) is int and value >= 0 else None


def _bool(value: Value, flags: str, precision: int | None) -> str | None:
    return show(value) if isinstance(value, bool) else None


_VERBS: dict[str, Callable[[Value, str, int | None], str | None]] = {
    "v": _any,
    "s": _string,
    "q": _quoted,
    "t": _bool,
    "d": _based("d", ""),
    "b": _based("b", "0b"),
    "o": _based("o", "0"),
    "O": _based("o", "0o"),
    "x": _based("x", "0x"),
    "X": _based("X", "0X"),
    "c": _char,
    "U": _codepoint,
    "e": _float("e"),
    "E": _float("E"),
    "f": _float("f"),
    "F": _float("f"),
    "g": _float("g"),
    "G": _float("G"),
}
"""What writes each verb; it returns None for a value that the verb does not fit."""
