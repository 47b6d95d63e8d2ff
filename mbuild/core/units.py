"""Sizes and times as people read them."""

from __future__ import annotations

import math
import re

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_SIZE = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i)?B?\s*"


def human_size(size: float) -> str:
    """Bytes as Ollama prints them: powers of 1000, two or three digits."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            digits = 1 if unit != "B" and size < 10 else 0
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    raise AssertionError


def parse_size(text: str) -> int:
    """Bytes of ``50GB``, ``500M``, ``1.5TB``, ``1GiB`` or a plain number; raises ValueError."""
    match = re.fullmatch(_SIZE, text, re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size such as 50GB or 1.5TB")
    power = "_KMGT".index(match[2].upper() or "_")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_number(text: str) -> float:
    """A finite number in decimal digits, such as ``0.5`` or ``1e-3``; raises ValueError.

    Python's own float also takes ``1_000``, digits of other scripts, and blanks around them.
    """
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(number := float(text)):
        raise ValueError(f"{text!r} is not a number such as 0.5")
    return number


def exact_size(size: int) -> str:
    """Bytes in the largest unit of which they are a whole number: ``40GB``, ``1536KB``, ``7``."""
    for power, unit in enumerate(("TB", "GB", "MB", "KB")):
        if size and size % 1000 ** (4 - power) == 0:
            return f"{size // 1000 ** (4 - power)}{unit}"
    return str(size)


def human_duration(seconds: float) -> str:
    """A time span: ``<1 ms``, ``4 ms``, ``3.1 s``, ``48 s``, ``2 min 5 s``, ``3 h 5 min``."""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short_duration(seconds: float) -> str:
    """A time span in at most six characters, for columns: ``42 s``, ``1m05s``, ``2h10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def local_time(nanoseconds: int) -> str:
    """A time since 1970 as a date and a time of this machine's zone."""
    from datetime import datetime

    return datetime.fromtimestamp(nanoseconds / 1e9).strftime("%Y-%m-%d %H:%M:%S")
