"""Every class of llama.cpp's converter has a row, or a reason why not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mbuild.convert.families import REFUSED, by_name, find
from mbuild.core.errors import UnsupportedError

ROOT = Path(__file__).parents[2]
CLASSES = (ROOT / "tests" / "data" / "text_classes.txt").read_text().split()
"""The names in ``TEXT_MODEL_MAP`` of llama.cpp's converter of 1 October 2026."""

MORE = {"DeepseekOCR2ForCausalLM"}
"""Classes that its converter finds in another way."""


def test_every_class_of_llama_cpp_is_known() -> None:
    """Each name is converted or refused with its reason, none is both, and none is made up."""
    taken = set(by_name())
    assert sorted(set(CLASSES) - taken - REFUSED.keys()) == []
    assert sorted(taken & REFUSED.keys()) == []
    assert sorted((taken | REFUSED.keys()) - set(CLASSES) - MORE) == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_class_without_a_row_is_refused_with_its_reason(name: str) -> None:
    """The message says why, and the hint what to do instead."""
    with pytest.raises(UnsupportedError, match=re.escape(name)) as caught:
        find(name)
    assert REFUSED[name][0] in caught.value.message
    assert caught.value.hint


def test_the_documentation_has_the_counts() -> None:
    """docs/convert.md says how many of llama.cpp's classes are converted."""
    text = (ROOT / "docs" / "convert.md").read_text()
    taken = len(set(CLASSES) & by_name().keys())
    assert f"{taken} of the {len(CLASSES)} classes" in " ".join(text.split())


@pytest.mark.skipif("LLAMA_CPP_CONVERSION" not in os.environ, reason="names no converter")
def test_the_list_is_the_converter_s() -> None:
    """The recorded names are those of the converter that ``LLAMA_CPP_CONVERSION`` names."""
    source = (Path(os.environ["LLAMA_CPP_CONVERSION"]) / "__init__.py").read_text()
    table = source[source.index("TEXT_MODEL_MAP") : source.index("MMPROJ_MODEL_MAP")]
    assert sorted(set(re.findall(r'"([^"]+)": "', table))) == CLASSES
