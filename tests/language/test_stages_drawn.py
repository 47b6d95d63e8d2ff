"""Files of the language that nobody thought of: written, read again, taken apart into stages."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mbuild.language.formatter import format
from mbuild.language.instructions import (
    Adapter,
    License,
    Message,
    Parameter,
    System,
    Template,
)
from mbuild.language.parser import parse, parse_stages
from mbuild.language.recipe import Recipe
from mbuild.language.stages.evaluate import Brought, evaluate
from mbuild.language.stages.words import (
    Arg,
    CheckThat,
    Drop,
    Include,
    MergeIn,
    Opening,
    QuantizeTo,
    SetKey,
    StagedFile,
    Take,
    Unset,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).filter(
    lambda text: '"""' not in text.replace("\n", "") and '"' not in text
)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,6}", fullmatch=True)
KEYWORDS = frozenset(
    ["WEIGHT", "FROM", "LAYER", "LAYERS", "PARAMETER", "SYSTEM", "TEMPLATE", "NAN", "SIZE"]
)
WORD = st.from_regex(r"[a-z0-9./_-]{1,8}", fullmatch=True).filter(
    lambda word: word.upper() not in KEYWORDS and not word.startswith("//")
)
QUOTED = WORD | WORD.map(lambda word: f'"{word} b"') | WORD.map(lambda word: f"${{{word[:1]}A:-b}}")


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The parts with a blank between."""
    return st.tuples(*parts).map(" ".join)


CLAUSES = st.one_of(
    joined(NAME.map(lambda n: n.replace(".", "_").replace("-", "_")), st.just("B=1")).map(Arg),
    joined(WORD, NAME.map(lambda n: f"{n}=1")).map(Include),
    joined(WORD, st.just("IMATRIX"), QUOTED, st.just("TENSOR a=q8_0 PURE")).map(QuantizeTo),
    joined(QUOTED, st.just("WEIGHT 0.5")).map(MergeIn),
    st.sampled_from(["PARAMETER stop", "SYSTEM", "general.name a.b"]).map(Unset),
    st.just("LAYER 3 5-6").map(Drop),
    joined(QUOTED, st.just("FROM"), WORD).map(Take),
    st.sampled_from(["nan", "size < 5GB", "template renders"]).map(CheckThat),
    st.builds(SetKey, NAME, TEXT),
    st.builds(System, TEXT),
    st.builds(Template, TEXT),
    st.builds(Parameter, st.just("stop"), TEXT),
    st.builds(Message, st.just("user"), TEXT),
)
OPENINGS = st.builds(Opening, WORD, NAME | st.just(""))


@given(st.lists(st.tuples(OPENINGS, st.lists(CLAUSES, max_size=4)), min_size=1, max_size=3))
def test_what_is_written_reads_back(stages: list[tuple[Opening, list[object]]]) -> None:
    """Every instruction comes back equal, and the canonical form is its own."""
    items = [item for opening, inside in stages for item in (opening, *inside)]
    text = format(StagedFile(tuple(items)))  # type: ignore[arg-type]
    again = parse_stages(text.encode())
    assert list(again.instructions) == items
    assert format(again) == text


PLAIN = st.one_of(
    st.builds(System, NAME),
    st.builds(Template, NAME),
    st.builds(License, NAME),
    st.builds(Adapter, NAME),
    st.builds(Parameter, st.just("stop"), NAME),
    st.builds(Parameter, st.just("num_ctx"), st.sampled_from(["1", "2"])),
    st.builds(Message, st.sampled_from(["user", "assistant"]), NAME),
)


@given(st.lists(PLAIN, max_size=8), st.lists(st.integers(0, 8), max_size=3))
def test_stages_are_their_lines_one_after_another(items: list[object], cuts: list[int]) -> None:
    """However a Modelfile is cut into stages, the last one is the whole."""
    places = [0, *sorted(cuts), len(items)]
    lines = [format(StagedFile((item,))).split("\n", 1)[1] for item in items]  # type: ignore[arg-type]
    text = "# syntax=mbuild/1\n"
    for number, (start, stop) in enumerate(itertools.pairwise(places)):
        base = f"s{number - 1}" if number else "x"
        text += f"FROM {base} AS s{number}\n{''.join(lines[start:stop])}"
    last = evaluate(text.encode(), "M", {}, lambda includer, path: Brought("", b"")).stages[-1]
    by_hand = Recipe.of(parse(f"FROM x\n{''.join(lines)}".encode()))
    assert _without_places(last.recipe().recipe) == _without_places(by_hand)


def _without_places(recipe: Recipe) -> Recipe:
    places = {
        name: tuple(each._replace(span=None) for each in getattr(recipe, name))
        for name in ("models", "adapters", "drafts")
    }
    return recipe._replace(**places)
