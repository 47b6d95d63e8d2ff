"""Go's literals: what ``strconv`` makes of strings, characters and numbers in a template.

Sources: https://pkg.go.dev/strconv (Unquote, UnquoteChar, ParseInt, ParseFloat)
and https://go.dev/ref/spec#Lexical_elements.
"""

from __future__ import annotations

import re
from itertools import pairwise

from mbuild.core.patterns import regex

_ESCAPE = regex(
    r"\\(?:(?P<simple>[abfnrtv\\'\"])|x(?P<byte>[0-9a-fA-F]{2})|(?P<octal>[0-7]{3})"
    r"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<bad>))"
)
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_QUOTED = {chr(code): "\\" + name for name, code in _SIMPLE.items() if name != "'"}

_INTEGER = regex(
    r"[+-]?(?:0[xX]_?(?P<hex>[0-9a-fA-F_]+)|0[bB]_?(?P<binary>[01_]+)"
    r"|0[oO]_?(?P<octal>[0-7_]+)|0_?(?P<old>[0-7_]+)|(?P<decimal>0|[1-9][0-9_]*))"
)
_BASES = {"hex": 16, "binary": 2, "octal": 8, "old": 8, "decimal": 10}
_DECIMAL = regex(r"[+-]?(?=[0-9_.]*[0-9])[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9][0-9_]*)?")
_HEX_FLOAT = regex(
    r"[+-]?0[xX](?=[0-9a-fA-F_.]*[0-9a-fA-F])[0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?"
    r"[pP][+-]?[0-9][0-9_]*"
)
_COMPLEX = regex(r"(?P<real>[+-]?[^+-]*(?:(?<=[eEpP])[+-][^+-]*)?)(?P<imaginary>[+-].*)i", re.S)


def unquote(text: str) -> str:
    """The string that a quoted or raw string literal stands for.

    Escapes name bytes as well as characters: bytes that are not UTF-8 come back
    as surrogate escapes. Raises ``ValueError`` with Go's words.
    """
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")
    if "\\" not in text:
        return text[1:-1]
    parts = bytearray()
    end = 1
    for match in _ESCAPE.finditer(text, 1, len(text) - 1):
        parts += text[end : match.start()].encode("utf-8", "surrogateescape")
        code, is_byte = _escaped(match, '"')
        parts += bytes([code]) if is_byte else chr(code).encode()
        end = match.end()
    parts += text[end:-1].encode("utf-8", "surrogateescape")
    return parts.decode("utf-8", "surrogateescape")


def _escaped(match: re.Match[str], quote: str) -> tuple[int, bool]:
    """What an escape stands for, and whether that is a byte rather than a character."""
    kind, digits = match.lastgroup, match[match.lastgroup or 0]
    match kind:
        case "simple" if digits not in "'\"" or digits == quote:
            return _SIMPLE[digits], True
        case "byte":
            return int(digits, 16), True
        case "octal" if int(digits, 8) < 256:
            return int(digits, 8), True
        case "short" | "long":
            code = int(digits, 16)
            if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
                return code, False
    raise ValueError("invalid syntax")


def character(text: str) -> int:
    """The code point that a character constant, quotes included, stands for.

    Raises ``ValueError`` with Go's words.
    """
    if text[1] == "\\":
        match = _ESCAPE.match(text, 1)
        assert match is not None, "the pattern takes any backslash"
        code, end = _escaped(match, "'")[0], match.end()
    elif text[1] == "'":
        raise ValueError("invalid syntax")
    else:
        code, end = ord(text[1]), 2
    if text[end:] != "'":
        raise ValueError(f"malformed character constant: {text}")
    return code


def number(text: str) -> int | float | complex:
    """The number that a numeric literal of a template stands for.

    A float that is a whole number stays a float here. Raises ``ValueError`` with
    Go's words.
    """
    if text.endswith("i"):
        try:
            return complex(0, _float(text[:-1]))
        except ValueError:
            raise ValueError(f"illegal number syntax: {quote(text)}") from None
    value = _integer(text)
    # An explicit sign makes it a signed number for Go.
    if value is not None and -(2**63) <= value < 2 ** (63 if text[0] == "+" else 64):
        return value
    try:
        result = _float(text)
    except ValueError:
        raise ValueError(f"illegal number syntax: {quote(text)}") from None
    if not any(sign in text for sign in ".eEpP"):
        raise ValueError(f"integer overflow: {quote(text)}")
    return result


def complex_number(text: str) -> complex:
    """The number that ``1+2i`` stands for; raises ``ValueError``."""
    match = _COMPLEX.fullmatch(text)
    if match is None:
        raise ValueError("syntax error scanning complex number")
    parts = []
    for name in ("real", "imaginary"):
        try:
            parts.append(_float(match[name]))
        except ValueError as error:
            parsed = f"strconv.ParseFloat: parsing {quote(match[name])}: {error}"
            raise ValueError(parsed) from None
    return complex(*parts)


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text)
    if match is None or not match.lastgroup or not _underscores_fit(text):
        return None
    digits = match[match.lastgroup].replace("_", "")
    if len(digits) > 100:
        # Far beyond 64 bits unless it is mostly zeros; int() of a long decimal is slow.
        digits = digits.lstrip("0") or "0"
        if len(digits) > 100:
            return 2**64 if text[0] != "-" else -(2**64)
    value = int(digits, _BASES[match.lastgroup])
    return -value if text[0] == "-" else value


def _float(text: str) -> float:
    if not _underscores_fit(text):
        raise ValueError("invalid syntax")
    plain = text.replace("_", "")
    if _DECIMAL.fullmatch(text):
        value = float(plain)
    elif _HEX_FLOAT.fullmatch(text):
        try:
            value = float.fromhex(plain)
        except OverflowError:
            value = float("inf")
    else:
        raise ValueError("invalid syntax")
    if value in (float("inf"), float("-inf")):
        raise ValueError("value out of range")
    return value


def _underscores_fit(text: str) -> bool:
    """Whether each underscore separates digits; a base's prefix counts as a digit."""
    if "_" not in text:
        return True
    body = text.lstrip("+-")
    prefixed = body[:2].lower() in ("0b", "0o", "0x")
    digits = "0123456789abcdefABCDEF" if prefixed else "0123456789"
    shape = ["0"] if prefixed else ["!"]
    for char in body[2:] if prefixed else body:
        shape.append("0" if char in digits else "_" if char == "_" else "!")
    return all(
        "_" not in pair or pair in (("0", "_"), ("_", "0")) for pair in pairwise([*shape, "!"])
    )


def is_print(char: str) -> bool:
    """What Go's ``strconv.IsPrint`` says of one character."""
    from mbuild.language import printable

    return (char.isascii() and char.isprintable()) or printable.is_print(char)


def quote(text: str) -> str:
    """The text as Go's ``%q`` writes it."""
    return '"' + "".join(_quote_char(char) for char in text) + '"'


def _quote_char(char: str) -> str:
    code = ord(char)
    if char in _QUOTED:
        return _QUOTED[char]
    if is_print(char):
        return char
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unicode_name(char: str) -> str:
    """A character as Go's ``%#U`` writes it: ``U+0022 '"'``."""
    number = f"U+{ord(char):04X}"
    return f"{number} '{char}'" if is_print(char) else number
