"""ModelPack: the CNCF's form of a model's manifest (model-spec v1), a layer for each file.

Its config knows a family, a format, sizes; what Ollama says beyond that comes along as files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mbuild.core.errors import RegistryError
from mbuild.core.patterns import regex
from mbuild.registry.dialects.files import NamedLayer, PlainModel
from mbuild.registry.dialects.roles import LEFT_OUT, PACKED, role_of_file
from mbuild.store.media import GGUF, LICENSE, MEDIA_TYPES, MODEL

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"

_PREFIX = "application/vnd.cncf.model."
_WEIGHT = _PREFIX + "weight.v1.raw"
_SETTINGS = _PREFIX + "weight.config.v1.raw"
_DOC = _PREFIX + "doc.v1.raw"
_TYPE = regex(re.escape(_PREFIX) + r"([a-z.]+)\.v\d+\.([a-z+]+)")
_HEAVY = frozenset({"tensor", "embed"})
_KINDS = frozenset({"weight", "weight.config", "doc"})


def layer_type(named: NamedLayer) -> str:
    """What ModelPack calls a file."""
    row = MEDIA_TYPES.get(named.layer.media_type)
    if named.layer.media_type in GGUF or (row and row.name in _HEAVY):
        return _WEIGHT
    return _SETTINGS if row and row.text != LICENSE else _DOC


def config(model: PlainModel, digests: Sequence[str]) -> Mapping[str, Any]:
    """The config, without dates, so that equal models have equal ones."""
    said = model.config
    about = {
        "architecture": said.get("model_family"),
        "format": said.get("model_format") or "gguf",
        "paramSize": str(said.get("model_type") or "").lower(),
        "quantization": said.get("file_type"),
    }
    family = said.get("model_family")
    return {
        "descriptor": {"family": family} if family else {},
        "modelfs": {"type": "layers", "diffIds": list(digests)},
        "config": {key: value for key, value in about.items() if value},
    }


def role(media_type: str, path: str) -> str:
    """What a layer is to Ollama; raises :class:`RegistryError` for weights that it cannot be."""
    found = _TYPE.fullmatch(media_type)
    if found is None:
        return LEFT_OUT
    kind, packing = found[1], found[2]
    if kind in _KINDS and packing in ("tar", "tar+gzip"):
        return PACKED
    if kind != "weight":
        return role_of_file(path) if kind in _KINDS and packing == "raw" else LEFT_OUT
    if packing == "gguf" or (packing == "raw" and (not path or role_of_file(path) == MODEL)):
        return MODEL
    raise RegistryError(
        f"its weights {path or media_type!r} are not a GGUF file",
        hint="fetch the files with a tool for ModelPack, and build FROM their folder",
    )


def context(said: Mapping[str, Any]) -> int:
    """ModelPack says nothing of the context."""
    return 0
