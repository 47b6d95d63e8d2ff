"""Suggestions: one rule for what is alike, and one form of words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mbuild.core.suggest import did_you_mean, near, near_models

PACKAGE = Path(__file__).parents[2] / "mbuild"


@pytest.mark.parametrize(
    ("word", "expected"),
    [("temprature", ["temperature"]), ("TOP_K", ["top_k"]), ("zzz", []), ("", [])],
)
def test_near_ignores_case_and_keeps_the_known_spelling(word: str, expected: list[str]) -> None:
    """A word finds the known one that is like it, spelled as it is known."""
    assert near(word, ["temperature", "top_k", "seed"]) == expected


def test_near_gives_the_likest_first_and_no_more_than_asked_for() -> None:
    """Several known words come by their likeness."""
    assert near("q4_k_x", ["Q4_0", "Q4_K_M", "Q4_K_S", "Q8_0"], 2) == ["Q4_K_S", "Q4_K_M"]
    assert near("q4_k_m", ["Q4_0", "Q4_K_M"], 5, cutoff=0.9) == ["Q4_K_M"]


def test_a_huge_word_costs_nothing() -> None:
    """Only the beginning of a word is compared, so a hostile one does not stop the program."""
    assert near("temperature" + " " * 10_000_000, ["temperature"], cutoff=0.1) == ["temperature"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a"], "did you mean a?"), (["a", "b"], "did you mean a, b?"), ([], "one of a, b")],
)
def test_the_question_has_one_form(names: list[str], expected: str) -> None:
    """Names are asked about in one form of words; without any the other text is said."""
    assert did_you_mean(names, "one of a, b") == expected


def test_near_models_compare_the_model_and_not_its_tag() -> None:
    """A tag says nothing, and a beginning of three letters is enough."""
    names = ["mario:latest", "mario:v2", "luigi:latest"]
    assert near_models("maro:latest", names) == ["mario:latest", "mario:v2"]
    assert near_models("mar", names) == ["mario:v2", "mario:latest"]
    assert near_models("zelda:latest", names) == []


def test_nobody_else_looks_for_likely_words() -> None:
    """Every suggestion of mbuild comes from here, and only tables of words ask by themselves."""
    texts = {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    assert [name for name, text in texts.items() if "difflib import" in text] == ["core/suggest.py"]
    asked = [name for name, text in texts.items() if re.search(r"did you mean [^.]*\{", text)]
    assert asked == []
