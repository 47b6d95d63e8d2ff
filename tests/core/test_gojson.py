"""JSON as Go writes it."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core.gojson import JsonError, dumps

# What Go 1.27's json.NewEncoder writes.
EXAMPLES = [
    (None, "null"),
    (True, "true"),
    (False, "false"),
    (1, "1"),
    (2**64 - 1, "18446744073709551615"),
    (-(2**63), "-9223372036854775808"),
    (0.0, "0"),
    (-0.0, "-0"),
    (1.0, "1"),
    (0.1, "0.1"),
    (100.0, "100"),
    (123456789.0, "123456789"),
    (float(2**63 - 1), "9223372036854776000"),
    (1e20, "100000000000000000000"),
    (1e21, "1e+21"),
    (1.5e300, "1.5e+300"),
    (0.000001, "0.000001"),
    (9.99e-7, "9.99e-7"),
    (1e-7, "1e-7"),
    (1e-10, "1e-10"),
    (5e-324, "5e-324"),
    (3.4028235e38, "3.4028235e+38"),
    ("", '""'),
    ('a"\\/b', '"a\\"\\\\/b"'),
    ("<a>&", '"\\u003ca\\u003e\\u0026"'),
    ("\u2028\u2029", '"\\u2028\\u2029"'),
    ("\b\f\n\r\t", '"\\b\\f\\n\\r\\t"'),
    ("\x00\x1f\x7f\x80", '"\\u0000\\u001f\x7f\x80"'),
    ("é日\U0001f44b", '"é日\U0001f44b"'),
    ("\ud800x", '"\\ufffdx"'),
    ([], "[]"),
    ({}, "{}"),
    ([1, [2.0, "x"], {"k": None}], '[1,[2,"x"],{"k":null}]'),
    ((1, 2), "[1,2]"),
    ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    ({"<": 1}, '{"\\u003c":1}'),
]


@pytest.mark.parametrize(("value", "text"), EXAMPLES, ids=[text for _, text in EXAMPLES])
def test_examples(value: object, text: str) -> None:
    """Escapes, number forms and a final newline, byte for byte."""
    assert dumps(value) == text.encode() + b"\n"


def test_keys_sort_as_their_bytes() -> None:
    """Sorted keys are in the order of their UTF-8, at every level."""
    value = {"b": {"z": 1, "a": 2}, "\U00010000": 1, "\uffff": 2, "B": 3}
    assert dumps(value, sort_keys=True).decode() == (
        '{"B":3,"b":{"a":2,"z":1},"\uffff":2,"\U00010000":1}\n'
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(JSON)
def test_it_reads_back(value: object) -> None:
    """Any JSON value without floats reads back as itself, and no HTML character stands bare."""
    data = dumps(value, sort_keys=True)
    assert json.loads(data) == value
    assert not set(b"<>&") & set(data)
    assert data.endswith(b"\n") and data.count(b"\n") == 1


@given(st.integers(0, 2**64 - 1))
def test_every_double_reads_back(bits: int) -> None:
    """Each finite double's text gives the same bits, in the exponent form only where Go has it."""
    (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    if not math.isfinite(value):
        return
    text = dumps(value).decode().strip()
    assert struct.pack("<d", float(text)) == struct.pack("<d", value)
    assert ("e" in text) == (value != 0 and not 1e-6 <= abs(value) < 1e21)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "json: unsupported value: NaN"),
        ([math.inf], "json: unsupported value: [+]Inf"),
        ({"a": -math.inf}, "json: unsupported value: -Inf"),
        (b"x", "json: unsupported type: bytes"),
        (2**64, "json: unsupported type: int"),
        ({1: 2}, "json: unsupported type: object key 1"),
    ],
)
def test_what_has_no_json_form_is_refused(value: object, message: str) -> None:
    """NaN, infinities and other types raise JsonError in Go's words."""
    with pytest.raises(JsonError, match=message):
        dumps(value)


def test_huge_integers_are_refused() -> None:
    """An integer too long for Python to print is refused like any over 64 bits."""
    with pytest.raises(JsonError, match="json: unsupported type: int"):
        dumps([10**5000])


def test_nesting_is_limited() -> None:
    """A value nested without end is refused, not a crash."""
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(JsonError, match="nested"):
        dumps(value)
