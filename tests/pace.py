"""Limits of time in tests, in seconds of a usual machine rather than of this one at this moment.

A test that guards against work that grows with the square of its input needs some limit. In
Pyodide, whose clock also counts the time that other processes take, two seconds of a usual
machine may be six.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TIMES = 20
"""How often the fixed work is done: long enough that other processes come between there, too."""

_UNIT = 0.015 * _TIMES
"""Seconds of processor time that :func:`_work` takes at most on a usual machine's CPython."""

_TOKEN = re.compile(r"\s*(?:(\d+)|([a-z]+)|(.))")
_TEXT = "word 12 {{ .Field }} other 3456 words " * 1_000


def _work() -> float:
    """Do what reading a Modelfile does, always the same amount: the seconds that it took."""
    started = time.process_time()
    for _ in range(_TIMES):
        counts: dict[str | None, int] = {}
        for token in _TOKEN.finditer(_TEXT):
            counts[token.lastgroup] = counts.get(token.lastgroup, 0) + len(token[0])
    return time.process_time() - started


@contextmanager
def at_most(seconds: float, what: str = "this") -> Iterator[None]:
    """Fail if the body takes more processor time than these seconds of a usual machine.

    Where they do not suffice, fixed work is measured: where it takes longer than on a usual
    machine, the limit is longer in proportion. It is never shorter.
    """
    started = time.process_time()
    yield
    took = time.process_time() - started
    if took < seconds:
        return
    allowed = seconds * max(1.0, *(_work() / _UNIT for _ in range(3)))
    assert took < allowed, f"{what} took {took:.2f} s, and {allowed:.2f} s were allowed"
