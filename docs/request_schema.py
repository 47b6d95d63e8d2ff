"""The JSON Schema of a build's request, as the history and statements have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbuild.build.request import FORMAT, OUTTYPES
from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION
from mbuild.quant.choose.options import COUNT, FLAG, OPTIONS, Option

TEXT = {"type": "string"}
DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
DIGESTS = {"type": "object", "additionalProperties": DIGEST}
OUTTYPE = {"enum": list(OUTTYPES)}


def schema() -> dict[str, Any]:
    """The schema of ``BuildRequest.to_json()``."""
    target = {
        "names": {"type": "array", "items": TEXT},
        "quantize": _object({"type": TEXT, **_options(OPTIONS)}, ["type"]),
        "stage": TEXT,
        "outtype": OUTTYPE,
        "splitting": _object(_options(SPLITTING)),
        "beside": {"type": "boolean"},
    }
    fields = {
        "request": {"const": FORMAT},
        "modelfile": _modelfile(),
        "posted": _posted(),
        "targets": {"type": "array", "items": _object(target)},
        "outtype": OUTTYPE,
        "pre": TEXT,
        "draft_quantize": TEXT,
        "link": {"type": "boolean"},
        "named": {"type": "boolean"},
        "splitting": _object(_options(SPLITTING)),
        "conversion": _object(_options(CONVERSION)),
        "converter": DIGEST,
        "halves": _object(_options(HALVES)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a build of mbuild is asked",
        **_object(fields, ["request", "targets"]),
    }


def _modelfile() -> dict[str, Any]:
    """A Modelfile; a statement has no folders, and of some arguments only the names."""
    values = {"type": "object", "additionalProperties": TEXT}
    fields = {
        "name": TEXT,
        "text": DIGEST,
        "folder": TEXT,
        "directory": TEXT,
        "arguments": values,
        "withheld": {"type": "array", "items": TEXT},
        "brought": DIGESTS,
    }
    return _object(fields, ["text"])


def _posted() -> dict[str, Any]:
    files = dict.fromkeys(("files", "adapters", "drafts", "imatrices"), DIGESTS)
    return _object({"recipe": DIGEST, "folder": TEXT, **files}, ["recipe", "folder"])


def _object(fields: Mapping[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """An object without other fields: an unknown one would ask for something else."""
    found = {"type": "object", "properties": dict(fields), "additionalProperties": False}
    return {**found, "required": required} if required else found


def _options(table: Mapping[str, Option]) -> dict[str, Any]:
    """The options of a table by their names, with what ``--help`` says of each."""
    return {
        row.name: {"description": row.help.replace("  [", " ["), **_kind(row)}
        for row in table.values()
    }


def _kind(option: Option) -> dict[str, Any]:
    if option.kind is FLAG:
        return {"type": "boolean"}
    if option.kind is COUNT:
        return {"type": "integer", "minimum": 1}
    if option.kind.repeats:
        return {"type": "array", "items": TEXT}
    return {"enum": list(option.choices)} if option.choices else dict(TEXT)
