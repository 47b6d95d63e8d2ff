"""Parameters: the table, values as Go reads them, merging, and what validate says."""

from __future__ import annotations

import math
import re
import struct
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core import gojson
from mbuild.core.errors import ModelfileError
from mbuild.language.gonumber import parse_bool, parse_float32, parse_int, shortest_float32
from mbuild.language.instructions import Modelfile, Parameter, Requires, Severity
from mbuild.language.meaning import coerce, merge, validate, version_of
from mbuild.language.parameters import DEPRECATED, PARAMETERS, ParameterType
from mbuild.language.parser import parse
from mbuild.language.span import Span

SAMPLES = {
    ParameterType.INT: "7",
    ParameterType.FLOAT: "0.5",
    ParameterType.BOOL: "true",
    ParameterType.TEXTS: "x",
}
WRONG = {ParameterType.INT: "1.5", ParameterType.FLOAT: "hot", ParameterType.BOOL: "yes"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_taken_stored_and_checked(name: str) -> None:
    """Each row of the table takes a value of its type and refuses one of another."""
    kind = PARAMETERS[name]
    value = coerce(name, SAMPLES[kind])
    assert (
        type(value)
        is {
            ParameterType.INT: int,
            ParameterType.FLOAT: float,
            ParameterType.BOOL: bool,
            ParameterType.TEXTS: str,
        }[kind]
    )
    stored = merge({}, [Parameter(name, SAMPLES[kind])])
    assert stored == {name: [value] if kind is ParameterType.TEXTS else value}
    assert name not in DEPRECATED
    if kind is not ParameterType.TEXTS:
        with pytest.raises(ModelfileError, match=f"invalid {kind.value} value"):
            coerce(name, WRONG[kind])


@pytest.mark.parametrize("name", sorted(DEPRECATED))
def test_deprecated_parameters_warn_and_are_not_stored(name: str) -> None:
    """A deprecated name is taken with any value, warned about, and left out of the layer."""
    (problem,) = validate(Modelfile((Parameter(name, "any thing"),)))
    assert problem.severity is Severity.WARNING
    assert problem.message == f"parameter {name} is deprecated"
    assert merge({}, [Parameter(name, "any thing")]) == {}


@pytest.mark.parametrize("name", ["", "Temperature", "tfs_z", "numa", "system", "from", "model"])
def test_other_names_are_unknown(name: str) -> None:
    """Names are case-sensitive, and an instruction's word is not a parameter."""
    with pytest.raises(ModelfileError, match=f"unknown parameter '{name}'"):
        coerce(name, "1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-1", -1),
        ("+5", 5),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("1" * 100_000, None),
        ("0" * 100_000 + "1", 1),
        *(
            (text, None)
            for text in ("", "+", "-", "--1", "1.0", "1e3", "0x10", "1_000", "１", " 1")
        ),
    ],
)
def test_integers(text: str, value: int | None) -> None:
    """Decimal, 64 bits, no underscores and no blanks; None: refused."""
    if value is None:
        with pytest.raises(ValueError, match=r"integer|range"):
            parse_int(text)
    else:
        assert parse_int(text) == value


# What Go 1.27's strconv.ParseFloat(s, 32) and encoding/json make of a text:
# the JSON of the value after one round trip, or None where ParseFloat fails.
FLOATS = {
    "0": "0",
    "-0": "-0",
    "+1": "1",
    ".5": "0.5",
    "5.": "5",
    "0.1": "0.1",
    "1e-3": "0.001",
    "1E2": "100",
    "16777217": "16777216",
    "16777219": "16777220",
    "123456789": "123456790",
    "33554433": "33554432",
    "0.30000001": "0.3",
    "0.000244140625": "0.00024414062",
    "1_23.50_0_0e+1_2": "123500000000000",
    "1e-46": "0",
    "-1e-46": "-0",
    "7.0064923216240853546186479164495806564013097093825788587853e-46": "0",
    "7.0064923216240853546186479164495806564013097093825788587854e-46": "1e-45",
    "3.4028235e38": "3.4028235e+38",
    "340282356779733661637539395458142568447": "3.4028235e+38",
    "340282356779733661637539395458142568448": None,
    "1e39": None,
    "1e99999999999": None,
    "0e99999999999": "0",
    "1e-99999999999": "0",
    "0." + "0" * 5000 + "1e5000": "0.1",
    "1" + "0" * 5000 + "e-5000": "1",
    "0x1p-149": "1e-45",
    "0x1p-150": "0",
    "0x1.8p-150": "1e-45",
    "0x1.00000000000001p-150": "1e-45",
    "0x1.fffffep127": "3.4028235e+38",
    "0x1.ffffffp127": None,
    "0x1p128": None,
    "0X1P3": "8",
    "0x_1_2.3_4_5p+1_2": "74565",
    "0x1": None,
    "0x1.8": None,
    "0xp1": None,
    "0x.p1": None,
    "0x1p_1": None,
    "0x1_p1": None,
    **dict.fromkeys(["", "+", ".", "e1", "1e", "1__0", "_1", "1_", "1_.5", "1._5", "1e_5"]),
    **dict.fromkeys(["0.1f", "1/2", "0b1", "+nan", "infi", "1 ", " 1", "１", "--1", "hot"]),
}


@pytest.mark.parametrize("text", FLOATS, ids=lambda text: text[:30])
def test_floats(text: str) -> None:
    """Go's literals, rounded once to float32, print as after a round trip over the API."""
    expected = FLOATS[text]
    if expected is None:
        with pytest.raises(ModelfileError, match="invalid float value"):
            merge({}, [Parameter("top_p", text)])
    else:
        stored = merge({}, [Parameter("top_p", text)])
        assert gojson.dumps(stored) == f'{{"top_p":{expected}}}\n'.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *((text, "+Inf") for text in ("inf", "+Inf", "INFINITY", "i\u200bnf")),
        ("-inf", "-Inf"),
        ("nan", "NaN"),
        ("NaN", "NaN"),
    ],
)
def test_infinities_only_fail_where_they_count(text: str, shown: str) -> None:
    """NaN and infinities are floats for Go, but have no JSON form, so a later value saves them."""
    values = (Parameter("top_p", text), Parameter("min_p", "1"))
    for check in (lambda v: merge({}, v), lambda v: _raise(validate(Modelfile(v)))):
        with pytest.raises(ModelfileError, match=re.escape(f"json: unsupported value: {shown}")):
            check(values)
    assert merge({}, (*values, Parameter("top_p", "0.5")))["top_p"] == 0.5
    assert validate(Modelfile((*values, Parameter("top_p", "0.5")))) == []


def _raise(problems: list) -> None:
    if problems:
        raise ModelfileError(problems)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_is_read_back_from_its_shortest_form(value: float) -> None:
    """The double that is stored rounds to the same float32 and needs at most nine digits."""
    double = shortest_float32(value)
    assert struct.pack("<f", double) == struct.pack("<f", value)
    assert parse_float32(repr(double)) == value
    digits = f"{double!r}".partition("e")[0].replace(".", "").strip("-0")
    assert len(digits) <= 9


@given(st.integers(0, 0x7F7FFFFE), st.sampled_from([-1, 0, 1]))
def test_halfway_texts_round_once(bits: int, side: int) -> None:
    """Texts at and next to the middle of two float32 go to the right one: not rounded twice."""
    low, high = (struct.unpack("<f", struct.pack("<I", bits + d))[0] for d in (0, 1))
    with localcontext() as context:
        context.prec = 300
        text = str(Decimal((low + high) / 2) * (1 + side * Decimal("1e-40")))
    expected = {-1: low, 0: high if bits % 2 else low, 1: high}[side]
    assert parse_float32(text) == expected


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_truth_values(text: str) -> None:
    """Go's six spellings each of true and false, nothing else."""
    no = {"1": "0", "t": "f", "T": "F", "TRUE": "FALSE", "true": "false", "True": "False"}[text]
    assert parse_bool(text) is True
    assert parse_bool(no) is False
    for other in (f" {text}", f"{text}x", "yes", "on", "tRUE", ""):
        with pytest.raises(ValueError, match="truth"):
            parse_bool(other)


def test_hidden_characters_do_not_count_in_numbers() -> None:
    """Numbers are understood without hidden characters; stop keeps them."""
    assert coerce("top_k", "1\u200b2") == 12
    assert coerce("use_mmap", "tr\u00adue") is True
    assert coerce("stop", "a\u200bb") == "a\u200bb"


def test_the_layer_is_what_ollama_writes() -> None:
    """Sorted keys, doubles, a list for stop, HTML characters escaped, one newline."""
    items = [
        Parameter("stop", "<|a|>"),
        Parameter("seed", "9223372036854775807"),
        Parameter("num_ctx", "4096"),
        Parameter("top_p", "0.33333333333"),
        Parameter("num_ctx", "512"),
        Parameter("stop", "\u2028&"),
        Parameter("use_mmap", "T"),
    ]
    assert gojson.dumps(merge({}, items), sort_keys=True) == (
        b'{"num_ctx":512,"seed":9223372036854776000,"stop":["\\u003c|a|\\u003e","\\u2028\\u0026"],'
        b'"top_p":0.33333334,"use_mmap":true}\n'
    )


def test_merging_overrides_per_name() -> None:
    """A base's values stay unless named again; its stop list is replaced, not extended."""
    base = {"stop": ["a"], "top_k": 2**63, "temperature": 0.5, "use_mmap": True}
    merged = merge(base, [Parameter("stop", "b"), Parameter("temperature", "1")])
    assert merged == {"stop": ["b"], "top_k": 2.0**63, "temperature": 1.0, "use_mmap": True}
    assert isinstance(merged["top_k"], float) and merged["use_mmap"] is True
    assert merge(base, []) == base
    assert base["stop"] == ["a"]


VERSIONS = {
    "0.14.0": "0.14.0",
    "v0.14.0": "0.14.0",
    "1": "1",
    "1.2": "1.2",
    "1.2.3-rc.1": "1.2.3-rc.1",
    "1.2.3+b.01": "1.2.3+b.01",
    "1.2.3-0a+b": "1.2.3-0a+b",
    "1.2.3--": "1.2.3--",
    "0.1\u200b4.0": "0.14.0",
    **dict.fromkeys(["", "v", "vv1", "V1", "01", "1.02", "1.2.03", "1.2.3-", "1.2.3+", "1.2-rc"]),
    **dict.fromkeys(
        ["1.2.3-01", "1.2.3-a..b", "1.2.3.4", "1.", "1.2.", "x", "1.2.3 ", ">=1", "１"]
    ),
}


@pytest.mark.parametrize("text", VERSIONS)
def test_versions(text: str) -> None:
    """REQUIRES takes golang.org/x/mod/semver's versions, with or without v, stored without."""
    assert version_of(Requires(text)) == VERSIONS[text]
    assert bool(validate(Modelfile((Requires(text),)))) == (VERSIONS[text] is None)


def test_problems_point_at_what_is_wrong() -> None:
    """A name's problem has the name's span, a value's problem the value's."""
    found = parse(b'FROM x\nPARAMETER topk 1\n  PARAMETER\ttop_k  "x"\nREQUIRES  y\n')
    spans = [problem.span for problem in validate(found)]
    assert spans[0] == Span(2, 11, 17, 21, 17, 2)
    assert [(s.line, s.column) for s in spans if s] == [(2, 11), (3, 20), (4, 11)]
    assert next(p.suggestion for p in validate(found)) == "did you mean top_k?"


def test_values_in_messages_are_short_and_safe() -> None:
    """A message quotes a value on one line, clipped, without control characters."""
    with pytest.raises(ModelfileError) as caught:
        coerce("top_k", "a\nb\x1b" + "c" * 1_000_000)
    message = caught.value.problems[0].message
    assert message.startswith("invalid int value [a\\nbccc") and len(message) < 100
    assert math.isinf(coerce("top_p", "inf"))  # type: ignore[arg-type]
