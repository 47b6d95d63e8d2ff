"""Writes small checkpoints whose weights are a fixed function of their names.

A specification (``tests/data/convert/*.json``) has the small files and, for
each shard, names with types and shapes (``BF16 80 64``). The bytes are the same
on every machine, so that what llama.cpp's converter made of them (October
2026, with transformers 5.23 or 4.57.6) can be kept as digests.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llama_runs import write_vocabulary

DATA = Path(__file__).parent / "data" / "convert"


_AROUND_ONE = ("norm.weight", "_scale_inv", "act_fn.beta", "act_fn.eps", "running_var")


def weights(name: str, dtype: str, shape: list[int]) -> bytes:
    """Little-endian values in (-0.125, 0.125), about 1 for norms, small positive for scales."""
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in ("I8", "I16", "I32"):
        return hashlib.shake_256(name.encode()).digest(count * int(dtype[1:]) // 8)
    if dtype == "BOOL":
        return bytes(byte & 1 for byte in hashlib.shake_256(name.encode()).digest(count))
    if dtype == "F8_E8M0":  # powers of two from 1/128 to 1/16
        raw = hashlib.shake_256(name.encode()).digest(count)
        return bytes(120 + byte % 4 for byte in raw)
    if dtype in ("U8", "F8_E4M3"):
        raw = hashlib.shake_256(name.encode()).digest(count)
        # 0x7F and 0xFF are NaN in F8_E4M3, and no scale of published weights.
        return bytes(byte & 0xFE if byte & 0x7F == 0x7F else byte for byte in raw)
    if dtype == "I64":
        return np.arange(count, dtype="<i8").tobytes()
    numbers = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * count), dtype="<i4")
    values = (numbers.astype(np.float64) / 2**34).astype("<f4")
    if name.endswith(_AROUND_ONE):
        values += np.float32(1)
    if name.endswith(".slopes"):
        values = np.abs(values)
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


LAYER, EXPERT = r"\.(?:layers|h)\.(\d+)\.", r"\.experts\.(\d+)\."
COUNTS = {
    LAYER: ("num_hidden_layers", "n_layer"),
    EXPERT: ("num_local_experts", "num_experts"),
}
"""Where a tensor's name has its layer or expert, and what a config calls their count."""


def resized(
    spec: Mapping[str, Any], sizes: Mapping[int, int], layers: int = 0, experts: int = 0
) -> dict[str, Any]:
    """A specification of a larger or smaller model of the same family, without results.

    ``sizes`` replaces numbers wherever they are a tensor's dimension or a number of the config
    (the generated models' numbers tell what they are: 64 is the hidden size, 96 that of the
    feed-forward layers). The layers and experts there are stand, in turn, for the wanted number.
    """
    config = {
        key: sizes.get(value, value) if type(value) is int else value
        for key, value in spec["files"]["config.json"].items()
    }
    tensors = {name: type_ for shard in spec["tensors"].values() for name, type_ in shard.items()}
    for pattern, count in ((LAYER, layers), (EXPERT, experts)):
        if count:
            tensors = _repeated(tensors, pattern, count)
            (key,) = [key for key in COUNTS[pattern] if key in config]
            lists = [k for k, v in config.items() if isinstance(v, list) and len(v) == config[key]]
            config |= {k: list(itertools.islice(itertools.cycle(config[k]), count)) for k in lists}
            config[key] = count
    for name, described in tensors.items():
        dtype, *dims = described.split()
        tensors[name] = " ".join([dtype, *(str(sizes.get(int(d), int(d))) for d in dims)])
    files = {**spec["files"], "config.json": config}
    return {"files": files, "tensors": {"model.safetensors": tensors}}


def _repeated(tensors: Mapping[str, str], pattern: str, count: int) -> dict[str, str]:
    """The tensors, those of layer (or expert) 0, 1 and so on again until there are ``count``."""
    found = {name: re.search(pattern, name) for name in tensors}
    numbers = {int(match[1]) for match in found.values() if match}
    made = {name: tensors[name] for name, match in found.items() if not match}
    for number in range(count):
        for name, match in found.items():
            if match and int(match[1]) == number % len(numbers):
                made[f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"] = tensors[name]
    return made


class Family(NamedTuple):
    """A generated family in other sizes (:func:`resized`)."""

    name: str
    sizes: Mapping[int, int]
    layers: int = 0
    experts: int = 0


FAMILIES = {
    # Four heads share their keys and values; a sixteenth of 16 layers is one.
    "grouped": Family("llama", {4: 8, 16: 32, 64: 256, 32: 64, 96: 256}, 16),
    # Rows of 64 and 96, which K types do not divide.
    "narrow": Family("llama", {}, 9),
    # Rows of 84, which nothing divides.
    "odd": Family("llama", {96: 84}, 3),
    "8 experts": Family("mixtral", {3: 8, 4: 8, 64: 256, 32: 64, 96: 256}, 2, 8),
    "3 experts": Family("mixtral", {64: 256, 32: 128, 96: 256}, 3),
    "tied": Family("qwen2", {64: 256, 32: 128, 96: 256}, 9),
    # Queries, keys and values in one tensor, four heads to each key; Falcon has rules of its own.
    "falcon": Family("falcon_40b", {64: 256, 96: 384, 256: 1024}, 16),
    "fused": Family("phi3", {64: 256, 128: 512, 96: 256, 192: 512}, 8),
}
"""Sizes that the rules of quantization tell apart."""


def write_family(directory: Path, family: Family) -> dict[str, Path]:
    """The checkpoint with a vocabulary; its files as :func:`write_checkpoint` gives them."""
    spec = json.loads((DATA / f"{family.name}.json").read_text())
    write_checkpoint(directory, resized(spec, family.sizes, family.layers, family.experts))
    write_vocabulary(directory, family.name, spec["files"]["config.json"].get("vocab_size", 80))
    return files_of(directory)
