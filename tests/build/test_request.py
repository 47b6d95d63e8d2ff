"""A build request is a value: what is written down is read back, and nothing else passes for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.build.request import FORMAT, BuildRequest, Posted, Script, Target
from mbuild.build.splitting import Splitting
from mbuild.core.digest import Digest
from mbuild.core.errors import FormatError
from mbuild.core.names import ModelName
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose import options
from mbuild.quant.choose.options import (
    COUNT,
    ENTRIES,
    FILE,
    FLAG,
    OPTIONS,
    RULES,
    TYPE,
    Option,
    Quantization,
)
from mbuild.quant.choose.types import FILE_TYPES, file_type

TEXT = st.text(max_size=20)
ENTRY = st.sampled_from(
    [
        ("a.count", "int", "-3"),
        ("a.scale", "float", "0.5"),
        ("a.flag", "bool", "true"),
        ("general.name", "str", "x y"),
    ]
)
DIGESTS = st.binary(max_size=4).map(Digest.of)
TYPES = st.sampled_from(GGMLType)
PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,9}", fullmatch=True)
NAMES = st.builds(ModelName, PART | st.just("registry.ollama.ai"), PART, PART, PART)
RULE = st.tuples(st.sampled_from(["attn_v", r"blk\.(1|2)\.ffn_.*", "^output$"]), TYPES)


def values(option: Option) -> st.SearchStrategy[Any]:
    """What an option can be, its default included."""
    kinds = {
        FLAG: st.booleans(),
        FILE: st.none() | TEXT,
        COUNT: st.none() | st.integers(1, 10**6),
        TYPE: st.none() | TYPES,
        RULES: st.lists(RULE, max_size=3).map(tuple),
        ENTRIES: st.lists(ENTRY, max_size=3, unique_by=lambda entry: entry[0]).map(tuple),
        options.NAMES: st.lists(st.text(min_size=1, max_size=9), max_size=3).map(tuple),
        options.LAYERS: st.sets(st.integers(0, 999), max_size=4).map(sorted).map(tuple),
    }
    return st.sampled_from(option.choices) if option.choices else kinds[option.kind]


def fitting(drawn: Quantization) -> Quantization:
    """Options of which none contradicts another."""
    if drawn.imatrix is not None:
        drawn = drawn._replace(imatrix_from=None)
    if drawn.imatrix_from is None:
        drawn = drawn._replace(imatrix_chunks=None)
    if drawn.include_weights or not drawn.importances:
        drawn = drawn._replace(exclude_weights=())
    return drawn if drawn.importances else drawn._replace(include_weights=())


QUANTIZATIONS = st.builds(
    Quantization,
    st.sampled_from(FILE_TYPES),
    **{field: values(option) for field, option in OPTIONS.items()},
).map(fitting)
FILES = st.dictionaries(TEXT, DIGESTS, max_size=3)
SPLITTINGS = st.builds(Splitting, st.integers(1, 10**12), st.none(), st.just(False)) | st.just(
    Splitting(keep=True)
)
TARGETS = st.builds(
    Target,
    st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    st.none() | QUANTIZATIONS,
    TEXT,
    st.none() | TEXT,
    st.none() | SPLITTINGS,
    st.booleans(),
)
SOURCES = (
    st.none()
    | st.builds(Script, TEXT, DIGESTS, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2), FILES)
    | st.builds(Posted, DIGESTS, TEXT, FILES, FILES, FILES, FILES)
)
REQUESTS = st.builds(
    BuildRequest,
    st.lists(TARGETS, min_size=1, max_size=3).map(tuple),
    SOURCES,
    st.sampled_from(["auto", "f16", "q8_0"]),
    st.none() | TEXT,
    st.none() | st.sampled_from(FILE_TYPES),
    st.booleans(),
    st.booleans(),
)


@given(REQUESTS)
def test_what_is_written_is_read(request_: BuildRequest) -> None:
    """Every request comes back equal from its JSON, types as types and digests as digests."""
    text = json.dumps(request_.to_json())
    again = BuildRequest.from_json(json.loads(text))
    assert again == request_
    assert json.dumps(again.to_json()) == text


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


@given(REQUESTS, st.data())
def test_what_is_no_request_is_refused_as_one(request_: BuildRequest, data: st.DataObject) -> None:
    """Whatever stands at one place instead, reading gives a request or a FormatError."""
    value = request_.to_json()
    *path, last = data.draw(st.sampled_from(list(places(value))))
    at: Any = value
    for key in path:
        at = at[key]
    at[last] = data.draw(
        st.sampled_from([None, True, 0, 2.5, "x", "sha256:", [], ["x"], [[]], {}, {"x": "y"}, "("])
    )
    try:
        found = BuildRequest.from_json(value)
    except FormatError as error:
        assert error.message
    else:
        assert BuildRequest.from_json(found.to_json()) == found


WHOLE = BuildRequest(
    (
        Target(
            (ModelName.parse("a"),),
            Quantization(file_type("q4_K_M"), pure=True, tensor_types=(("v", GGMLType.Q8_0),)),
        ),
    ),
    Script("Modelfile", Digest.of(b"FROM x"), "/here", "/there"),
    "f16",
)
POSTED = WHOLE._replace(source=Posted(Digest.of(b"{}"), "a", {"m.gguf": Digest.of(b"m")}))


@pytest.mark.parametrize("path", [(), ("modelfile",), ("targets", 0), ("targets", 0, "quantize")])
def test_an_unknown_field_is_an_error_that_names_it(path: tuple[Any, ...]) -> None:
    """At every level: what a newer mbuild asks for is not passed over."""
    value = copy.deepcopy(WHOLE.to_json())
    at: Any = value
    for key in path:
        at = at[key]
    at["merge"] = True
    with pytest.raises(FormatError, match="'merge'"):
        BuildRequest.from_json(value)
    posted = POSTED.to_json()
    posted["posted"]["merge"] = True
    with pytest.raises(FormatError, match="a posted request has no field 'merge'"):
        BuildRequest.from_json(posted)


def test_a_later_format_is_told() -> None:
    """The number of the format counts up, and an older mbuild says what to do."""
    said = f"format {FORMAT + 1}; this mbuild reads format {FORMAT}"
    with pytest.raises(FormatError, match=said) as no:
        BuildRequest.from_json({**WHOLE.to_json(), "request": FORMAT + 1})
    assert no.value.hint == "use a newer mbuild"
    for number in (0, "1", None):
        with pytest.raises(FormatError, match="its format is"):
            BuildRequest.from_json({**WHOLE.to_json(), "request": number})


def test_what_says_nothing_is_not_written() -> None:
    """A plain request is short, so that a line of the log is."""
    plain = BuildRequest((Target((ModelName.parse("mario"),)),), Script("M", Digest.of(b""), "/x"))
    assert plain.to_json() == {
        "request": 1,
        "modelfile": {"name": "M", "text": str(Digest.of(b"")), "folder": "/x"},
        "targets": [{"names": ["mario:latest"]}],
    }
    assert WHOLE.to_json()["targets"] == [
        {
            "names": ["a:latest"],
            "quantize": {"type": "Q4_K_M", "pure": True, "tensor_type": ["v=Q8_0"]},
        }
    ]


def test_a_request_as_flags() -> None:
    """What says something stands as on a command line; what several targets share stands once."""
    (target,) = WHOLE.targets
    other = target._replace(quantization=target.quantization._replace(file_type=file_type("q8_0")))  # type: ignore[union-attr]
    both = WHOLE._replace(targets=(target, other), draft_quantize=file_type("q8_0"), link=True)
    shared = [("--pure", ""), ("--tensor-type", "v=q8_0")]
    assert both.flags() == [
        ("--quantize", "q4_K_M"),
        *shared,
        ("--quantize", "q8_0"),
        ("--outtype", "f16"),
        ("--draft-quantize", "q8_0"),
        ("--link", ""),
    ]
    assert both.flags(other) == [("--quantize", "q8_0"), *shared, ("--outtype", "f16")]


def test_names_by_the_steps_that_give_them() -> None:
    """Each target has a step; targets of one step share it; a build that failed early has none."""
    names = [ModelName.parse(text) for text in "abc"]
    request = BuildRequest((Target((names[0], names[1])), Target((names[2],))))
    assert request.names_by_place((7, 3)) == {7: ("a:latest", "b:latest"), 3: ("c:latest",)}
    assert request.names_by_place((4, 4)) == {4: ("a:latest", "b:latest", "c:latest")}
    assert request.names_by_place(()) == {}


def test_the_blobs_that_a_posted_request_names() -> None:
    """All parts count, each blob with the name that the client gave it."""
    one, two, three = (Digest.of(text) for text in (b"1", b"2", b"3"))
    posted = Posted(Digest.of(b""), "m", {"a": one}, {"b": two}, {}, {"i": three})
    assert posted.blobs == {one: "a", two: "b", three: "i"}
