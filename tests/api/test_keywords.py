"""The options of the Python API are those of the command line, all of them."""

from __future__ import annotations

import pytest

from mbuild.api.given import TableOptions
from mbuild.api.keywords import OWN, TABLES, BuildOptions, with_defaults
from mbuild.cli.build import build_command
from mbuild.core.errors import UsageError

ELSEWHERE = {
    "file": "the first argument",
    "folder": "an argument",
    "names": "name",
    "target": "an argument",
    "build_arg": "arguments",
    "store": "an argument",
    "quantize": "an argument",
    "tensor_type_file": "a file of rules: tensor_type takes the rules",
    "no_cache": "use_cache",
    "no_keep_source": "of the command line's own caches",
    "threads": "an argument",
    "dry_run": "mbuild plan",
    "locked": "needs a lock beside a file",
    "progress": "events",
    "quiet": "nothing is printed",
    "verbose": "nothing is printed",
    "on": "executor",
    "cache_from": "an argument",
    "cache_to": "an argument",
    "cache_verify": "an argument",
    "part": "for array jobs, which are started by a command line",
    "converter": "runs another program, which only a command line may name",
    "converter_python": "the same",
}
"""Options of the command line that are something else here, or nothing."""


def test_every_row_of_the_tables_is_annotated() -> None:
    """A type checker knows each option, and none that is not there."""
    rows = {row.name for table in TABLES for row in table.values()} - {"as"}
    assert set(BuildOptions.__annotations__) == rows | OWN.keys()
    assert set(TableOptions.__annotations__) == rows - OWN.keys()


def test_every_option_of_the_command_line_has_its_place() -> None:
    """What ``mbuild build`` takes is an option here, an argument, or listed with a reason."""
    there = {param.name for param in build_command.params}
    here = {row.name for table in TABLES for row in table.values()} | OWN.keys()
    assert there - here - ELSEWHERE.keys() == set()
    assert ELSEWHERE.keys() <= there


def test_defaults_fill_what_is_not_given() -> None:
    """And what nobody knows is refused with what there is."""
    assert with_defaults({"pure": True})["pure"] is True
    assert with_defaults({})["outtype"] == "auto"
    with pytest.raises(UsageError, match="no option 'puer'"):
        with_defaults({"puer": True})
