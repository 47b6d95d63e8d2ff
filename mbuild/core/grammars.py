"""The Lark grammars: where they lie, and parsers made of them, whose tables are kept.

To make the tables of a grammar takes 20 to 60 ms, to read them 1 ms. So the wheel for Linux
carries those of its own Lark and Python (``release/tables.py``), and each user's machine keeps
others (:mod:`mbuild.core.kept_table`), under a name that tells the grammar, the options, and the
versions of Lark and Python.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mbuild.core.kept_table import KeptTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from lark import Lark

_SHIFT = 0
"""How Lark's tables call the action that goes on to another state."""

_LOCK = Lock()
"""Held while Lark reads a grammar: it evaluates literals, and in CPython 3.11 two threads that do
so at once can fail with "AST constructor recursion depth mismatch" (gh-106905)."""

_OBJECTS = ("transformer", "postlex")
"""Options that are objects: no part of the tables, they are given again to tables that are read."""

_AGAIN = (*_OBJECTS, "g_regex_flags", "propagate_positions")
"""Options that Lark wants again for tables that it reads."""


def grammar_text(name: str) -> str:
    """The text of ``grammar/<name>``.

    A wheel carries the folder inside the package; hatchling's force-include
    leaves it out of editable installs, where it lies beside the package.
    """
    package = Path(__file__).parents[1]
    inside = package / "grammar" / name
    path = inside if inside.is_file() else package.parent / "grammar" / name
    return path.read_text(encoding="utf-8")


def parser(*names: str, **options: Any) -> Lark:
    """The LALR parser of one grammar in one or more files; ``options`` are Lark's."""
    from lark import Lark

    options = {"parser": "lalr", "maybe_placeholders": False, **options}
    text = "\n".join(map(grammar_text, names))
    kept = KeptTable("grammars", _key(text, options))
    with suppress(Exception):  # a Lark that reads tables in another way makes them again
        tables = kept.read()
        if tables is not None:
            again = {name: options[name] for name in _AGAIN if name in options}
            # What Lark's own generator of parsers calls: its public load() takes no transformer.
            load: Callable[..., Lark] = Lark._load_from_dict
            return load(*tables, **again)
    with _LOCK:
        made = Lark(text, **options)
    with suppress(LookupError, TypeError):  # of a Lark whose tables have another form
        kept.keep(_tables(made))
    return made


def _key(text: str, options: dict[str, Any]) -> bytes:
    """A digest of a grammar's text and options, and of what makes tables of them."""
    import lark

    plain = sorted((k, repr(v)) for k, v in options.items() if k not in _OBJECTS)
    accepted = tuple(getattr(options.get("postlex"), "always_accept", ()))
    made_by = (lark.__version__, sys.implementation.cache_tag)
    return hashlib.sha256(repr((text, plain, accepted, made_by)).encode()).digest()


def _tables(made: Lark) -> tuple[Any, Any]:
    """The tables of a parser, as plain values."""
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = made.memo_serialize([TerminalDef, Rule])
    for name in _AGAIN:
        data["options"].pop(name, None)
    data["parser"]["lexer_conf"]["g_regex_flags"] = 0  # an object; Lark is given it again
    _put_in_order(data["parser"]["parser"])
    return data, memo


def _put_in_order(table: dict[str, Any]) -> None:
    """Number a parser's tokens by their names, and its states as they are reached.

    Lark numbers them in the order of its sets, another one each time, and the tables that a wheel
    carries are to be the same whenever it is made.
    """
    names, states = table["tokens"], table["states"]
    tokens = {old: new for new, old in enumerate(sorted(names, key=names.__getitem__))}
    waiting = [state for _, state in sorted(table["start_states"].items())]
    reached: dict[int, int] = {}
    rows: dict[int, dict[int, tuple[int, Any]]] = {}
    for state in waiting:
        if state in reached:
            continue
        reached[state] = len(reached)
        actions = sorted(states[state].items(), key=lambda action: tokens[action[0]])
        rows[state] = {tokens[token]: action for token, action in actions}
        waiting += [target for kind, target in rows[state].values() if kind == _SHIFT]
    table["tokens"] = {new: names[old] for old, new in sorted(tokens.items(), key=lambda i: i[1])}
    table["states"] = {
        reached[state]: {
            token: (kind, reached[target] if kind == _SHIFT else target)
            for token, (kind, target) in row.items()
        }
        for state, row in rows.items()
    }
    for name in ("start_states", "end_states"):
        table[name] = {start: reached[state] for start, state in sorted(table[name].items())}
