"""Sizes and times as people read them."""

from __future__ import annotations

import pytest

from mbuild.core.units import human_duration, human_size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "<1 ms"),
        (0.0042, "4 ms"),
        (0.0999, "0.10 s"),
        (0.996, "1.0 s"),
        (3.14, "3.1 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (11_100, "3 h 5 min"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    """A span has two or three digits, and is never rounded up into a unit that it does not show."""
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (15_000_000, "15 MB")]
)
def test_sizes(size: int, text: str) -> None:
    """Bytes are in powers of 1000, as Ollama prints them."""
    assert human_size(size) == text
