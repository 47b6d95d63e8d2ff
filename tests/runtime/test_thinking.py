"""Thoughts and answers apart, wherever a text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smollm import TOOLS

from mbuild.runtime.thinking import ThinkingSplitter, overlap
from mbuild.templates.abilities import tags_of
from mbuild.templates.gotemplate import parse

TAGS = ("<think>", "</think>")


def _split(text: str, cuts: list[int], *, inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter(TAGS, inside=inside)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [splitter.feed(text[a:b]) for a, b in itertools.pairwise(edges)]
    found.append(splitter.end())
    return "".join(t for t, _ in found), "".join(a for _, a in found)


TEXTS = [
    ("<think>why</think>because", False, ("why", "because")),
    ("  <think>\n why\n</think>\n\nbecause ", False, ("why\n", "because ")),
    ("plain <think>no</think>", False, ("", "plain <think>no</think>")),
    ("why</think> because", True, ("why", "because")),
    ("<think>never ends </thin", False, ("never ends </thin", "")),
    ("<thi", False, ("", "<thi")),
    ("", False, ("", "")),
]


@pytest.mark.parametrize(("text", "inside", "expected"), TEXTS)
def test_thoughts_stand_first(text: str, inside: bool, expected: tuple[str, str]) -> None:
    """A thought at the beginning is taken out with the blanks around its tags, no other is."""
    assert _split(text, [], inside=inside) == expected


@given(st.sampled_from(TEXTS), st.lists(st.integers(0, 40), max_size=6))
def test_it_does_not_matter_where_a_text_is_cut(
    row: tuple[str, bool, tuple[str, str]], cuts: list[int]
) -> None:
    """Tokens end anywhere, in a tag too."""
    text, inside, expected = row
    assert _split(text, cuts, inside=inside) == expected


def test_what_may_begin_a_tag_waits() -> None:
    """The longest end of a text that is a beginning of the tag, and not the whole tag."""
    assert overlap("abc </th", "</think>") == 4
    assert overlap("abc", "</think>") == 0
    assert overlap("<<", "<a") == 1


def test_the_tags_are_those_of_the_template() -> None:
    """First and last texts of the nodes around .Thinking; none where a template has no thoughts."""
    assert tags_of(parse(TOOLS)) == TAGS
    plain = "{{ range .Messages }}<a>{{ .Content }}</a>{{ end }}"
    assert tags_of(parse(plain)) is None
    outside = "{{ if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}"
    assert tags_of(parse(outside)) is None
