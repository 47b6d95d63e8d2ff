"""Writes files as ``torch.save`` does, without torch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def text(value: str) -> bytes:
    """A text in a pickle."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def numbers(values: Iterable[int]) -> bytes:
    """A tuple of whole numbers."""
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"


def write_torch_zip(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> None:
    """A zip with a state dict: names, types, shapes and bytes."""
    items, storages = b"", {}
    for key, (name, dtype, shape, data) in enumerate(tensors):
        storages[str(key)] = data
        strides, step = [], 1
        for dim in reversed(shape):
            strides.insert(0, step)
            step *= dim
        inner = text("storage") + f"ctorch\n{STORAGES[dtype]}\n".encode() + text(str(key))
        inner += text("cpu") + b"\x8a\x08" + struct.pack("<q", len(data) // SIZES[dtype])
        made = b"ctorch._utils\n_rebuild_tensor_v2\n((" + inner + b"tQK\0" + numbers(shape)
        items += text(name) + made + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}(" + items + b"u.")
        for key, data in storages.items():
            archive.writestr(f"m/data/{key}", data)
