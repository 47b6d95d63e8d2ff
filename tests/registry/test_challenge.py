"""WWW-Authenticate in all its forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.registry.auth.challenge import challenges


def read(text: str) -> list[tuple[str, dict[str, str]]]:
    return [(found.scheme, dict(found.parameters)) for found in challenges(text)]


FORMS = [
    ('Basic realm="x"', [("basic", {"realm": "x"})]),
    (
        'Bearer realm="https://a.io/t",service="s",scope="repository:a/b:pull,push"',
        [
            (
                "bearer",
                {"realm": "https://a.io/t", "service": "s", "scope": "repository:a/b:pull,push"},
            )
        ],
    ),
    (
        "Bearer realm=https://a.io/t,service=s",
        [("bearer", {"realm": "https://a.io/t", "service": "s"})],
    ),
    (
        'Negotiate YIIC==, Basic realm="a, b", Bearer Realm="r"',
        [("negotiate", {}), ("basic", {"realm": "a, b"}), ("bearer", {"realm": "r"})],
    ),
    ('bearer realm="a\\"b"', [("bearer", {"realm": 'a"b'})]),
    ("Bearer realm=", [("bearer", {})]),
    ("Bearer", [("bearer", {})]),
    ("", []),
    ('realm="x"', [("realm", {})]),
    ('Bearer realm="unfinished', [("bearer", {"realm": ""})]),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_a_challenge_is_read(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Several in one header, unquoted values, malformed ones."""
    assert read(text) == expected


def test_scopes_are_divided_by_blanks() -> None:
    """Each of them is a scope."""
    (found,) = challenges('Bearer realm="r",scope="repository:a:pull repository:b:pull"')
    assert found.scopes == ("repository:a:pull", "repository:b:pull")


@given(st.text())
def test_no_header_is_too_strange(text: str) -> None:
    """Reading ends, and raises nothing."""
    challenges(text)
