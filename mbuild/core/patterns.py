"""Regular expressions that are compiled when they are first used.

A table or a module declares many; of those that a first quantization loads three in five are never
used, and to compile them would take as long as to import twenty modules.
"""

from __future__ import annotations

import re
from typing import Any, AnyStr


class _Pattern:
    """What :func:`regex` returns: each attribute is the compiled pattern's, from the first use."""

    def __init__(self, text: Any, flags: int) -> None:
        self._declared, self.pattern = (text, flags), text

    def __getattr__(self, name: str) -> Any:
        # Python asks here for what is not in the value yet, so each name once.
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(re.compile(*self._declared), name)
        self.__dict__[name] = found
        return found

    def __repr__(self) -> str:
        return f"regex({self._declared[0]!r})"


def regex(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """The pattern of ``re.compile(text, flags)``, not compiled yet.

    It has the methods and attributes of one, but is none to ``isinstance``. A fault in the text
    is found by a test, which compiles all that modules declare.
    """
    lazy: Any = _Pattern(text, flags)
    declared: re.Pattern[AnyStr] = lazy
    return declared
