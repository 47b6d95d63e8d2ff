"""The log's lines as versions of mbuild before build requests wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mbuild.build.request import FORMAT
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import OPTIONS, Quantization
from mbuild.quant.choose.types import file_type

_RULES = "tensor_type_file"
_MOST = 1 << 20
"""Bytes of a file of rules; a longer one is none."""


def record_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Such a line's JSON in today's form.

    It had the names of all models in one list, variant by variant, each with as many, and
    the command line's options as click had them. What was asked over HTTP was not kept.
    Raises what :meth:`BuildRecord.from_json` raises.
    """
    script = value["script"]
    options: dict[str, Any] = dict(script["options"]) if script else {}
    steps = value["steps"]
    request = {
        "request": FORMAT,
        "targets": list(_targets(value["names"], options, script or {})),
        **{name: options[name] for name in ("outtype", "pre", "link") if options.get(name)},
    }
    if script:
        kept = ("name", "text", "folder", "directory")
        request["modelfile"] = {key: script[key] for key in kept if script.get(key)}
    if options.get("draft_quantize"):
        request["draft_quantize"] = options["draft_quantize"]
    rest = {key: item for key, item in value.items() if key not in ("script", "names")}
    manifests = [place for place, step in enumerate(steps) if step["kind"] == "manifest"]
    return {**rest, "request": request, "manifests": manifests}


def _targets(
    names: list[str], options: Mapping[str, Any], script: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    given = {row.name: options[row.name] for row in OPTIONS.values() if options.get(row.name)}
    if options.get(_RULES):
        rules = _rules(os.path.join(script.get("directory", ""), options[_RULES]))
        given["tensor_type"] = [*given.get("tensor_type", ()), *rules]
    types = list(dict.fromkeys(file_type(text).name for text in options.get("quantize", ())))
    each = len(names) // max(1, len(types))
    for number, type_ in enumerate(types or [""]):
        mine = [str(ModelName.parse(name)) for name in names[number * each : (number + 1) * each]]
        quantize = Quantization.parse(type_, given).to_json() if type_ else None
        yield {"names": mine, "quantize": quantize}


def _rules(path: str) -> list[str]:
    """The rules in a file that only its path was kept of; none if it cannot be read."""
    from mbuild.store.files import open_regular

    with suppress(OSError, ValueError):
        fd, _ = open_regular(path)
        with open(fd, "rb") as file:
            return file.read(_MOST).decode().split()
    return []
