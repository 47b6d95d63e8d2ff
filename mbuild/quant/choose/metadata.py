"""What quantization changes in a model's metadata, as llama-quantize writes it."""

from __future__ import annotations

from collections.abc import Sequence

from mbuild.core.values import NamedTuple
from mbuild.gguf.model import KV, MetadataEntry
from mbuild.gguf.types import ValueType
from mbuild.quant.choose.types import FileType

QUANTIZATION_VERSION = 2
"""``GGML_QNT_VERSION``: the layout of quantized blocks."""

SPLIT_KEYS = frozenset({"split.no", "split.count", "split.tensors.count"})
LONGEST = 127
"""Bytes that llama-quantize keeps of a string it sets."""


class Importances(NamedTuple):
    """Where an importance matrix came from: file name as given, data set, its sizes."""

    file: str
    dataset: str | None
    entries: int
    chunks: int


def quantized(
    metadata: Sequence[MetadataEntry],
    file_type: FileType,
    importances: Importances | None = None,
    overrides: Sequence[tuple[str, str, str]] = (),
) -> tuple[MetadataEntry, ...]:
    """The metadata of the quantized model: keys that are set move to the end.

    ``overrides`` are keys, the names of their types (int, float, bool, str) and their values, as
    ``--override-kv`` has them.
    """
    new = [
        KV("general.quantization_version", ValueType.UINT32, QUANTIZATION_VERSION),
        KV("general.file_type", ValueType.UINT32, file_type.number),
    ]
    for kv in map(_override, overrides):
        new = [*(each for each in new if each.key != kv.key), kv]
    if importances is not None:
        new += _describe(importances)
    replaced = SPLIT_KEYS | {kv.key for kv in new}
    return (*(kv for kv in metadata if kv.key not in replaced), *new)


def count_last(metadata: Sequence[MetadataEntry | KV]) -> tuple[MetadataEntry | KV, ...]:
    """The metadata with the number of layers at its end, where pruning some leaves it."""
    (arch,) = (kv.value for kv in metadata if kv.key == "general.architecture")
    counts = [kv for kv in metadata if kv.key == f"{arch}.block_count"]
    return (*(kv for kv in metadata if kv not in counts), *counts)


def _override(entry: tuple[str, str, str]) -> KV:
    """An entry as llama-quantize sets it: whole numbers as UINT32, without their sign."""
    key, type_, value = entry
    if type_ == "int":
        return KV(key, ValueType.UINT32, abs(int(value)))
    if type_ == "float":
        return KV(key, ValueType.FLOAT32, float(value))
    if type_ == "bool":
        return KV(key, ValueType.BOOL, value == "true")
    return KV(key, ValueType.STRING, value)


def _describe(importances: Importances) -> list[KV]:
    def text(key: str, value: str) -> KV:
        cut = value.encode()[:LONGEST].decode(errors="ignore")
        return KV(f"quantize.imatrix.{key}", ValueType.STRING, cut)

    found = [text("file", importances.file)]
    if importances.dataset is not None:
        found.append(text("dataset", importances.dataset))
    counts = [("entries_count", importances.entries)]
    if importances.chunks > 0:
        counts.append(("chunks_count", importances.chunks))
    return found + [KV(f"quantize.imatrix.{k}", ValueType.UINT32, n) for k, n in counts]
