"""The options of a build from Python: those of the command line, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mbuild.build.request import OUTTYPE, OUTTYPES
from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION
from mbuild.core.errors import UsageError
from mbuild.quant.choose.options import OPTIONS, Option

TABLES: tuple[Mapping[str, Option], ...] = (OPTIONS, SPLITTING, CONVERSION, HALVES)
"""The tables that hold them; ``tests/api/test_keywords.py`` holds that none is missing below."""


class BuildOptions(TypedDict, total=False):
    """What ``docs/cli.md`` describes under the same names, with ``-`` in the place of ``_``.

    ``metadata`` is a mapping and not a file, ``as`` is written ``**{"as": "llama"}``.
    """

    recipe: str
    imatrix: str | None
    imatrix_from: str | None
    imatrix_chunks: int | str | None
    pure: bool
    leave_output_tensor: bool
    output_tensor_type: str | None
    token_embedding_type: str | None
    tensor_type: Sequence[str]
    allow_requantize: bool
    override_kv: Sequence[str]
    include_weights: Sequence[str]
    exclude_weights: Sequence[str]
    prune_layers: str | None
    split: str | None
    split_layers: str | int | None
    keep_split: bool
    keep_quantized: bool
    dequantize: bool
    fp8_as_q8: bool
    fuse_gate_up_exps: bool
    fuse_qkv: bool
    no_mtp: bool
    mtp: bool
    sentence_transformers_dense_modules: bool
    model_name: str | None
    metadata: Mapping[str, Any] | None
    text_only: bool
    mmproj: bool
    mmproj_outtype: str | None
    outtype: str
    pre: str | None
    draft_quantize: str | None
    pull: str | None
    link: bool
    size: str | Sequence[str]
    bpw: str | Sequence[str]
    check: str | Sequence[str]


OWN: Mapping[str, Any] = {
    "outtype": OUTTYPE,
    "pre": None,
    "draft_quantize": None,
    "pull": None,
    "link": False,
    "size": (),
    "bpw": (),
    "check": (),
}
"""Those that stand in no table, with what they are where nobody gives them."""


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
