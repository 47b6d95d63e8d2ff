"""Writes small checkpoints whose weights are a fixed function of their names.

A specification (``tests/data/convert/*.json``) has the small files and, for
each shard, names with types and shapes (``BF16 80 64``). The bytes are the same
on every machine, so that what llama.cpp's converter made of them (October
2026, with transformers 5.23) can be kept as digests.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def weights(name: str, dtype: str, shape: list[int]) -> bytes:
    """Little-endian values in (-0.125, 0.125), about 1 for norms, small positive for scales."""
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in ("U8", "F8_E4M3"):
        raw = hashlib.shake_256(name.encode()).digest(count)
        # 0x7F and 0xFF are NaN in F8_E4M3, and no scale of published weights.
        return bytes(byte & 0xFE if byte & 0x7F == 0x7F else byte for byte in raw)
    if dtype == "I64":
        return np.arange(count, dtype="<i8").tobytes()
    numbers = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * count), dtype="<i4")
    values = (numbers.astype(np.float64) / 2**34).astype("<f4")
    if name.endswith(("norm.weight", "_scale_inv", "act_fn.beta", "act_fn.eps")):
        values += np.float32(1)
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def write_shard(path: Path, tensors: Mapping[str, str]) -> None:
    """One safetensors file of the given types and shapes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, described in tensors.items():
        dtype, *dims = described.split()
        shape = [int(dim) for dim in dims]
        start = len(data)
        data += weights(name, dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
    write_raw(path, header, bytes(data))


def write_raw(path: Path, header: Mapping[str, Any], data: bytes = b"") -> Path:
    """A safetensors file of exactly this header and data."""
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def write_checkpoint(directory: Path, spec: Mapping[str, Any]) -> dict[str, Path]:
    """All files of a specification; gives relative names and paths, as a conversion wants them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in spec["files"].items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content))
    for name, tensors in spec["tensors"].items():
        write_shard(directory / name, tensors)
    return files_of(directory)


def files_of(directory: Path) -> dict[str, Path]:
    """Relative names and paths of everything in a folder."""
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
