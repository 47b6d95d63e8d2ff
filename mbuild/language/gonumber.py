"""Numbers and truth values as Go's ``strconv`` reads them from text.

``ollama create`` hands a parameter's value to ``ParseInt(s, 10, 64)``,
``ParseFloat(s, 32)`` or ``ParseBool``; what they take and refuse is part of the
language. Each function here raises ``ValueError`` for what Go refuses.
"""

from __future__ import annotations

import math
import re

from mbuild.core.patterns import regex

_INT = regex(r"[+-]?[0-9]+")
_DECIMAL = regex(r"[+-]?(?=\.?[0-9_])[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9][0-9_]*)?")
_HEX = regex(
    r"(?P<sign>[+-]?)0[xX](?P<whole>[0-9a-fA-F_]*)(?:\.(?P<part>[0-9a-fA-F_]*))?"
    r"[pP](?P<exp>[+-]?[0-9][0-9_]*)"
)
_INFINITY = regex(r"[+-]?inf(?:inity)?", re.IGNORECASE | re.ASCII)
_NAN = regex(r"nan", re.IGNORECASE | re.ASCII)

# An underscore stands between two digits; the prefix 0x counts as a digit.
_STRAY_UNDERSCORE = regex(r"(?<![0-9a-fA-FxX])_|_(?![0-9a-fA-F])")
_STRAY_UNDERSCORE_DECIMAL = regex(r"(?<![0-9])_|_(?![0-9])")

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_INT64 = range(-(2**63), 2**63)
_MANTISSA = 24  # bits of a float32's significand
_LOWEST = -149  # exponent of the smallest float32 above zero
_TOO_LARGE = 2.0**128  # the first power of two above the largest float32


def parse_int(text: str) -> int:
    """A decimal integer of 64 bits; signs and leading zeros are fine, underscores are not."""
    if not _INT.fullmatch(text):
        raise ValueError("not an integer")
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > 19:
        raise ValueError("out of range")
    value = int(digits or "0") * (-1 if text[0] == "-" else 1)
    if value not in _INT64:
        raise ValueError("out of range")
    return value


def parse_bool(text: str) -> bool:
    """One of Go's twelve spellings of true and false."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("not a truth value")


def parse_float32(text: str) -> float:
    """The float32 nearest to a Go floating-point literal, ties to even.

    Decimal or hexadecimal (with a ``p`` exponent), underscores between digits,
    ``inf`` and ``nan`` in any case. What is too large is refused, what is too
    small becomes a zero.
    """
    if _INFINITY.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    if _NAN.fullmatch(text):
        return math.nan
    if match := _HEX.fullmatch(text):
        value = _hexadecimal(text, match)
    elif _DECIMAL.fullmatch(text):
        value = _decimal(text)
    else:
        raise ValueError("not a number")
    if abs(value) >= _TOO_LARGE:
        raise ValueError("out of range")
    return value


def _decimal(text: str) -> float:
    if _STRAY_UNDERSCORE_DECIMAL.search(text):
        raise ValueError("misplaced underscore")
    mantissa, _, exponent = text.replace("_", "").lower().partition("e")
    if not any("0" <= char <= "9" for char in mantissa):
        raise ValueError("no digits")
    digits = f"{mantissa}e{_exponent(exponent or '0')}"
    return _nearest(float(digits), digits)


def _exponent(text: str) -> int:
    """A signed exponent; Go stops reading its digits once the number has five."""
    size = int(text.lstrip("+-").lstrip("0")[:5] or "0")
    return -size if text[0] == "-" else size


def _nearest(double: float, digits: str) -> float:
    """The float32 nearest to a decimal text whose nearest double is given.

    Rounding twice goes wrong only where the double lies exactly between two
    float32 and the text does not; there the text itself decides.
    """
    if not math.isfinite(double):
        return double
    low, high = _neighbours(abs(double))
    middle = (low + high) / 2
    magnitude = abs(double)
    if magnitude == middle and low != high:
        from decimal import Decimal

        # Decimal compares exactly; its arithmetic (abs) would round to 28 digits.
        exact, half = Decimal(digits).copy_abs(), Decimal(middle)
        magnitude = high if exact > half else low if exact < half else _even(low, high)
    else:
        magnitude = high if magnitude > middle else low
    return math.copysign(magnitude, double)


def _neighbours(value: float) -> tuple[float, float]:
    """The float32 at or below a finite value that is not negative, and the next one.

    Above the largest float32 stands 2**128, as if the exponents went on.
    """
    _, exponent = math.frexp(value)
    quantum = math.ldexp(1.0, max(exponent - _MANTISSA, _LOWEST))
    low = math.floor(value / quantum) * quantum
    return low, low + quantum


def _even(low: float, high: float) -> float:
    _, exponent = math.frexp(low)
    quantum = math.ldexp(1.0, max(exponent - _MANTISSA, _LOWEST))
    return low if (low / quantum) % 2 == 0 else high


def _hexadecimal(text: str, match: re.Match[str]) -> float:
    if _STRAY_UNDERSCORE.search(text):
        raise ValueError("misplaced underscore")
    whole = match["whole"].replace("_", "")
    part = (match["part"] or "").replace("_", "")
    if not whole + part:
        raise ValueError("no digits")
    exponent = _exponent(match["exp"].replace("_", ""))
    value = _binary32(int(whole + part, 16), exponent - 4 * len(part))
    return -value if match["sign"] == "-" else value


def _binary32(mantissa: int, exponent: int) -> float:
    """The float32 nearest to ``mantissa * 2**exponent``; 2**128 stands for all above."""
    top = mantissa.bit_length() + exponent
    if mantissa == 0 or top < _LOWEST - 1:
        return 0.0
    if top > 129:
        return _TOO_LARGE
    quantum = max(top - _MANTISSA, _LOWEST)
    shift = quantum - exponent
    if shift <= 0:
        units = mantissa << -shift
    else:
        units, rest = mantissa >> shift, mantissa & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        units += rest > half or (rest == half and units & 1)
    return math.ldexp(float(units), quantum)


def shortest_float32(value: float) -> float:
    """The double that a finite float32 becomes when Go prints it and reads it again.

    Go's JSON encoder prints a float32 with the fewest decimal digits that give
    the same float32 back; the reader makes a double of those digits.
    """
    if value == 0 or value != value or math.isinf(value):
        return value
    for precision in range(9):
        text = f"{value:.{precision}e}"
        mantissa, _, exponent = text.partition("e")
        step = 10.0 ** (-precision)
        near = [text]
        for delta in (-step, step):  # beside a power of two the nearest digits may miss
            near.append(f"{float(mantissa) + delta:.{precision}f}e{exponent}")
        for candidate in near:
            double = float(candidate)
            if _nearest(double, candidate) == value:
                return double
    return value
