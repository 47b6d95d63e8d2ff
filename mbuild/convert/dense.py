"""The dense layers that sentence-transformers puts behind a model: ``2_Dense``, ``3_Dense``.

Without them EmbeddingGemma's vectors are not the model's. llama.cpp's converter adds them with
``--sentence-transformers-dense-modules``, and its runtime applies them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.convert.read.safetensors import read_header
from mbuild.convert.rows.pooling import dense_folders
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mbuild.convert.rows.hyper import Hyper

_ARCH = "gemma-embedding"
_WEIGHTS = "model.safetensors"


def dense_layers(hp: Hyper, files: Mapping[str, Path]) -> Iterator[tuple[str, Lazy]]:
    """GGUF's names and weights of the layers, in their order.

    Raises :class:`UnsupportedError` for another architecture and for biases,
    :class:`SourceError` for a layer whose file is missing.
    """
    if hp.arch != _ARCH:
        raise UnsupportedError(
            f"--sentence-transformers-dense-modules: llama.cpp has no place for them in {hp.arch}"
            " models",
            hint="leave the option out",
        )
    for folder in dense_folders(hp):
        name = f"{folder}/{_WEIGHTS}"
        if name not in files:
            raise SourceError(f"modules.json names {name}, which is missing")
        for tensor in read_header(files[name], name):
            if not tensor.name.endswith(".weight"):
                raise UnsupportedError(f"{name}: {tensor.name!r} has no place in GGUF")
            yield tensor.name.replace("linear", _prefix(folder)), lazy_of(tensor)


def dense_sizes(hp: Hyper) -> Iterator[KV]:
    """What goes into each layer and what comes out."""
    for folder in dense_folders(hp):
        settings = hp.files.json_object(f"{folder}/config.json")
        sizes = [(settings or {}).get(f"{way}_features") for way in ("in", "out")]
        for way, size in zip(("in", "out"), sizes, strict=True):
            if type(size) is not int or not 0 < size < 1 << 31:
                raise FormatError(f"{folder}/config.json: {way}_features is {str(size)[:40]}")
            yield KV(f"{hp.arch}.{_prefix(folder)}_feat_{way}", ValueType.UINT32, size)


def _prefix(folder: str) -> str:
    return "dense_2" if folder == "2_Dense" else "dense_3"
