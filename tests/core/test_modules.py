"""Which modules a folder has."""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules

import pytest

from mbuild.convert import families, projectors
from mbuild.core.modules import names_in
from mbuild.quant import types


@pytest.mark.parametrize("package", [families, projectors, types])
def test_they_are_those_that_python_finds(package: object) -> None:
    """In the same order, of each folder that is a table."""
    place = list(getattr(package, "__path__"))  # noqa: B009
    assert names_in(place[0]) == sorted(module.name for module in iter_modules(place))


def test_other_files_are_none(tmp_path: Path) -> None:
    """Neither the package's own nor what is no Python."""
    for name in ("__init__.py", "b.py", "a.py", "a.txt", "_c.py"):
        (tmp_path / name).touch()
    assert names_in(str(tmp_path)) == ["_c", "a", "b"]
