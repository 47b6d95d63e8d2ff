"""What is said of a step that runs: inputs that differ, each as one reads it.

Only words: what differs is for :mod:`mbuild.build.explain` to find.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.events import Cause, Note, Value
from mbuild.core.units import human_duration
from mbuild.core.values import NamedTuple

MISSING = object()

NOTES: Mapping[Cause, str] = {
    Cause.INPUT: "input changed",
    Cause.FIRST: "not built before",
    Cause.NEW_STEP: "new step",
    Cause.NOTHING_KEPT: "the last build kept nothing to compare with",
    Cause.NO_CACHE: "--no-cache",
    Cause.READ_AGAIN: "its inputs were read again, and are unchanged",
    Cause.RESULT_REMOVED: "its cached result was removed",
    Cause.LAYER_REMOVED: "its cached layer {layer} was removed",
    Cause.LAYER_DAMAGED: "its layer {layer} is damaged: {size} bytes long",
    Cause.NOT_HERE: "the store does not have it",
    Cause.MADE_SOONER: "the shared cache has it, but it would come in {fetching} and is made here"
    " in {making}, {by}",
    Cause.DEPENDS: "only if its input changes",
    Cause.REWRITTEN: "mbuild knows its inputs by other digests now",
}
"""What a note says; the other causes have a change each, which says what differs."""

ESTIMATES: Mapping[str, str] = {
    "here": "as such steps took on this machine",
    "elsewhere": "as it took where it was made",
    "guess": "as a core makes about 100 MB a second",
}
"""What a time is known by (:class:`mbuild.build.rates.Estimate`)."""

_SHOWN = 40
_FEW = 3  # digests that are named


class Change(NamedTuple):
    """One input that differs; ``old`` or ``new`` is :data:`MISSING` where there is none.

    ``name`` is for people; ``cause`` says whether it is an input of the user's, another kind
    of step, or another version of mbuild.
    """

    name: str
    old: Any
    new: Any
    cause: Cause = Cause.INPUT

    def __str__(self) -> str:
        """``name old -> new``, digests and texts cut to what tells them apart."""
        if self.cause is Cause.STEP:
            return _STEPS.get((self.old, self.new), f"{self.new} instead of {self.old}")
        if self.name.startswith("--") and (self.old is True or self.new is True):
            return f"{self.name} is {'new' if self.new is True else 'no longer given'}"
        if self.old is MISSING:
            if self.cause is Cause.VERSION:
                return f"{self.name} is {_shown(self.new)}"
            return f"{self.name} {_shown(self.new)} is new"
        if self.new is MISSING:
            return f"{self.name} {_shown(self.old)} is no longer an input"
        return f"{self.name} {_pair(self.old, self.new)}"

    def to_json(self) -> dict[str, Any]:
        """Both values whole; a side that has none is left out."""
        value = {"input": self.name, "old": self.old, "new": self.new, "cause": self.cause.value}
        return {key: item for key, item in value.items() if item is not MISSING}


_UNSPLIT = ("import", "merge", "convert", "keep-shards")
_UNQUANTIZED = (*_UNSPLIT, "split")
_STEPS = {
    **{(kind, "split"): "now split (--split)" for kind in _UNSPLIT},
    **{("split", kind): "no longer split (--split)" for kind in _UNSPLIT},
    ("merge", "keep-shards"): "its shards are kept now (--keep-split)",
    ("keep-shards", "merge"): "its shards are merged now (no --keep-split)",
    **{(kind, "quantize"): "now quantized (-q)" for kind in _UNQUANTIZED},
    **{("quantize", kind): "no longer quantized (-q)" for kind in _UNQUANTIZED},
    **{(kind, "header"): "now quantized (-q)" for kind in _UNQUANTIZED},
    **{("header", kind): "no longer quantized (-q)" for kind in _UNQUANTIZED},
    ("quantize", "header"): "read from the source of the quantized weights",
    ("import", "convert"): "a checkpoint instead of a GGUF file",
    ("convert", "import"): "a GGUF file instead of a checkpoint",
}


class Explanation(NamedTuple):
    """Why a step that runs runs: inputs that differ, or in ``note`` what else it is."""

    changes: tuple[Change, ...] = ()
    note: Note | None = None

    def texts(self) -> tuple[str, ...]:
        """Each reason in words; there is always one."""
        if self.note is None:
            return tuple(str(change) for change in self.changes)
        return (NOTES[self.note.cause].format(**in_words(self.note.values)),)

    def causes(self) -> tuple[Cause, ...]:
        """Each reason's code, in the order of :meth:`texts`."""
        if self.note is None:
            return tuple(change.cause for change in self.changes)
        return (self.note.cause,)


def in_words(values: Mapping[str, Value]) -> dict[str, object]:
    """What a sentence has of an event's values: seconds as people say them, and texts of lists."""
    return {name: _in_words(name, value) for name, value in values.items()}


def _in_words(name: str, value: Value) -> object:
    if name == "by":
        return ESTIMATES.get(str(value), "")
    if isinstance(value, float):
        return human_duration(value)
    return ", ".join(value) if isinstance(value, tuple) else value


def canonical(value: Any) -> str:
    """A value as compact JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _pair(old: Any, new: Any) -> str:
    """Two values; long texts from where they begin to differ, of many digests those that do."""
    if (was := alterations(old)) and (now := alterations(new)):
        apart = [[each for each in a if each not in b] for a, b in ((was, now), (now, was))]
        return " -> ".join(_cut("; ".join(each or ["none"])) for each in apart)
    before, after = digests(old), digests(new)
    if len(before) == len(after) > 1:
        differing = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        return " -> ".join(_listed(side) for side in zip(*differing, strict=True))
    if isinstance(old, str) and isinstance(new, str) and not digests(old) and not digests(new):
        start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), -1)
        start = min(len(old), len(new)) if start < 0 else start
        if max(len(old), len(new)) > _SHOWN and start > _SHOWN // 2:
            start -= _SHOWN // 4
            return f"{_shown('...' + old[start:])} -> {_shown('...' + new[start:])}"
    return f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    """A value as one reads it: short digests, quoted texts, JSON for the rest."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, str):
        if found := digests(value):
            return _listed(found)
        text = value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "..."
        return json.dumps(text, ensure_ascii=False) if _needs_quotes(text) else text
    if changes := alterations(value):
        return _cut("; ".join(changes))
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return " ".join(_shown(item) for item in value[:4]) + (" ..." if len(value) > 4 else "")
    text = canonical(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _SHOWN else text[: 2 * _SHOWN - 3] + "..."


def alterations(value: Any) -> list[str]:
    """Changes of the weights, as a step describes them, in the words of a Modelfile; or none."""
    if not isinstance(value, (list, tuple)):
        return []
    rows = [row for each in value for row in (each if isinstance(each, (list, tuple)) else [each])]
    said = [_alteration(row) if isinstance(row, Mapping) else "" for row in rows]
    return said if all(said) else []


def _alteration(row: Mapping[str, Any]) -> str:
    match row:
        case {"key": key, "text": None}:
            return f"UNSET {key}"
        case {"key": key, "text": str(text)}:
            return f"SET {key} {_shown(text)}"
        case {"drop": [*layers]}:
            return f"DROP LAYER {' '.join(map(str, layers))}"
        case {"take": pattern}:
            return f"TAKE {pattern}"
        case {"merge": Mapping() as files, "weight": weight}:
            parts = [Digest.parse_any(each).short for each in files.values() if each]
            return f"MERGE {', '.join(parts[:_FEW])} WEIGHT {weight:g}"
    return ""


def _listed(named: Sequence[Digest]) -> str:
    """Digests in short, the first of many."""
    first = ", ".join(digest.short for digest in named[:_FEW])
    return f"{first} and {len(named) - _FEW} more" if named[_FEW:] else first


def digests(value: Any) -> tuple[Digest, ...]:
    """The digests that a text consists of, with commas between them; none for any other value."""
    if not isinstance(value, str):
        return ()
    try:
        return tuple(Digest.parse_any(part) for part in value.split(", "))
    except DigestError:
        return ()


def _needs_quotes(text: str) -> bool:
    return not text or not all(char.isalnum() or char in "._-+/" for char in text)
