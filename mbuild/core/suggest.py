"""What a word was meant to be: the known words that are like it, and the question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST = 64
"""Characters of a word that are compared: the time grows with their square."""

_PREFIX = 3  # letters that a model's name begins with to be near a longer one


def near(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to ``count`` known words like one, the likest first; upper and lower case are alike.

    ``cutoff``: from 0, anything, to 1, the word itself (:func:`difflib.get_close_matches`).
    """
    from difflib import get_close_matches

    by_lower: dict[str, str] = {}
    for name in known:  # of names that differ in case only the first counts
        by_lower.setdefault(name.lower(), name)
    found = get_close_matches(word[:_LONGEST].lower(), by_lower, count, cutoff)
    return [by_lower[lower] for lower in found]


def likeness(one: str, other: str) -> float:
    """How alike two words are: from 0, not at all, to 1, equal."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other).ratio()


def did_you_mean(names: Sequence[str], otherwise: str = "") -> str:
    """The question, or where there is nothing to ask ``otherwise``."""
    return "did you mean " + ", ".join(names) + "?" if names else otherwise


def near_models(value: str, names: Iterable[str]) -> list[str]:
    """Up to five names of models like a value, the likest first.

    Their models have to be alike: a tag, which may be ``latest``, says nothing.
    """
    model = value.partition(":")[0].lower()
    by_model: dict[str, list[str]] = {}
    for name in names:
        by_model.setdefault(name.rpartition(":")[0].lower(), []).append(name)
    models = near(model, by_model, 5)
    if len(model) >= _PREFIX:
        models += [other for other in sorted(by_model) if other.startswith(model)]
    found = [name for other in dict.fromkeys(models) for name in sorted(by_model[other])]
    found.sort(key=lambda name: -likeness(value, name))
    return found[:5]
