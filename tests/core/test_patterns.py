"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mbuild.core.patterns import regex

EVERY = """
import pkgutil, re, sys
import mbuild
from mbuild.core import patterns

made = []
usual = patterns._Pattern.__init__

def noted(self, text, flags):
    re.compile(text, flags)
    made.append(text)
    usual(self, text, flags)

patterns._Pattern.__init__ = noted
for module in pkgutil.walk_packages(mbuild.__path__, "mbuild."):
    if not module.name.endswith("__main__"):
        try:
            __import__(module.name)
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] == "mbuild":
                raise
print(len(made))
"""


def test_it_is_a_pattern() -> None:
    """Its methods and attributes are those of the compiled one, of texts and of bytes."""
    word = regex(r"(?P<first>\w)\w*")
    assert word.fullmatch("abc") and not word.fullmatch("-")
    assert [found["first"] for found in word.finditer("ab cd")] == ["a", "c"]
    assert (word.pattern, word.groups, word.sub("x", "a b")) == (r"(?P<first>\w)\w*", 1, "x x")
    assert regex(rb"A+", 2).findall(b"aA b") == [b"aA"]
    assert repr(regex("a")) == "regex('a')"


def test_a_fault_is_told_at_the_first_use() -> None:
    """Not where it is declared; what no pattern has is an AttributeError."""
    wrong = regex("(")
    with pytest.raises(Exception, match="missing \\)"):
        wrong.search("x")
    for name in ("no_such_thing", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(regex("a"), name)


def test_all_that_modules_declare_compile() -> None:
    """Those of every module, compiled at once."""
    done = subprocess.run([sys.executable, "-c", EVERY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 250
