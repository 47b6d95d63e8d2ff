"""Sources that are nowhere, and what is asked of them, for tests of the planner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbuild.build.request import BuildRequest, Target
from mbuild.build.sources.values import (
    CheckpointSource,
    FileStamp,
    GGUFSource,
    SourceFile,
    StoredModel,
)
from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Layer, Manifest
from mbuild.store.manifest import CONFIG_TYPE

Q4, Q8 = Quantization(file_type("Q4_0")), Quantization(file_type("Q8_0"))


def asked_for(
    quantizations: Sequence[Quantization | None] = (None,), **values: Any
) -> BuildRequest:
    """A request for one target of each quantization."""
    targets = (Target((ModelName.parse("m"),), each) for each in quantizations)
    return BuildRequest(tuple(targets), **values)


def file(name: str, digest: str = "") -> SourceFile:
    """A file that is nowhere: a planner that opened one would fail."""
    stamp = FileStamp(1, len(name), 100, 5, 5)
    found = Digest.of(digest.encode()) if digest else None
    return SourceFile(name, Path("/nowhere") / name, stamp, found)


def gguf(*names: str) -> GGUFSource:
    """A GGUF source of these files."""
    return GGUFSource(tuple(file(name) for name in names))


def checkpoint(name: str) -> CheckpointSource:
    """A checkpoint, or a PEFT adapter."""
    return CheckpointSource(name, {"config.json": file(f"{name}/config.json")})


def layer(media_type: str, text: str) -> Layer:
    """A layer of a stored model."""
    return Layer(media_type, Digest.of(text.encode()), len(text))


def stored(*layers: Layer) -> StoredModel:
    """A model of the store."""
    manifest = Manifest(layer(CONFIG_TYPE, "{}"), layers)
    return StoredModel(ModelName.parse("base"), Digest.of(manifest.encode()), manifest)


def recipe(**values: Any) -> Recipe:
    """A recipe with nothing but these."""
    return Recipe((), **values)
