"""The options of a build from Python: those of the command line, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbuild.api.given import TableOptions
from mbuild.build.request import OUTTYPE, OUTTYPES
from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION
from mbuild.core.errors import UsageError
from mbuild.quant.choose.options import OPTIONS, Option

TABLES: tuple[Mapping[str, Option], ...] = (OPTIONS, SPLITTING, CONVERSION, HALVES)
"""The tables that hold them; ``api/given.py`` has what each takes, for type checkers."""


class BuildOptions(TableOptions, total=False):
    """What ``docs/cli.md`` describes under the same names, with ``-`` in the place of ``_``.

    ``metadata`` is a mapping and not a file, ``as`` is written ``**{"as": "llama"}``.
    """

    metadata: Mapping[str, Any] | None
    outtype: str
    pre: str | None
    draft_quantize: str | None
    pull: str | None
    link: bool
    size: str | Sequence[str]
    bpw: str | Sequence[str]
    check: str | Sequence[str]


OWN: Mapping[str, Any] = {
    "metadata": None,
    "outtype": OUTTYPE,
    "pre": None,
    "draft_quantize": None,
    "pull": None,
    "link": False,
    "size": (),
    "bpw": (),
    "check": (),
}
"""Those that stand in no table, or are something else here, with what they are where nobody gives
them."""


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option with what was given or its default; raises :class:`UsageError` for others."""
    defaults = {row.name: row.default for table in TABLES for row in table.values()} | dict(OWN)
    for name in given:
        if name not in defaults:
            raise UsageError(
                f"mbuild has no option {name!r:.64}", hint=f"one of {', '.join(sorted(defaults))}"
            )
    outtype = str(given.get("outtype", OUTTYPE)).lower()
    if outtype not in OUTTYPES:
        raise UsageError(f"unknown outtype {outtype!r:.64}", hint=" or ".join(OUTTYPES))
    found = {**defaults, **given, "outtype": outtype}
    return found | {name: several(found[name]) for name in ("size", "bpw", "check")}


def several(value: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several as several."""
    return (value,) if isinstance(value, str) else tuple(value)
