"""Small multimodal checkpoints: what llama.cpp's converter made of their encoders, as digests.

``data/projectors/*.json`` have the small files and the tensors of the encoders, with ``{4}`` in a
name for the numbers 0 to 3. Weights are those of ``checkpoints.py``; the digests are the first 24
digits of the SHA-256 of whole files, made by llama.cpp of October 2026 with transformers 4.57.6
in a folder called ``tiny``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints import files_of, weights, write_raw

from mbuild.convert.projector import TowerCheckpoint, convert_projector, open_towers
from mbuild.convert.read.dtypes import OutType
from mbuild.gguf.model import Model
from mbuild.gguf.writer import write

DATA = Path(__file__).parent / "data" / "projectors"
CASES = sorted(path.stem for path in DATA.glob("*.json"))
DIGITS = 24

_SEVERAL = re.compile(r"\{(\d+)\}")


def spec(name: str) -> dict[str, Any]:
    """One case, each tensor by its whole name."""
    case: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return {**case, "tensors": dict(expanded(case["tensors"]))}


def expanded(tensors: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names with a count of layers as one name for each layer."""
    for name, described in tensors.items():
        match = _SEVERAL.search(name)
        for layer in range(int(match[1])) if match else (0,):
            yield _SEVERAL.sub(str(layer), name), described


def write_tensors(path: Path, tensors: Mapping[str, str]) -> None:
    """One shard of tensors with types and shapes, such as ``BF16 80 64``."""
    header, data = dict[str, Any](), bytearray()
    for name, described in tensors.items():
        dtype, *dims = described.split()
        shape, start = [int(dim) for dim in dims], len(data)
        data += weights(name, dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, len(data)]}
    write_raw(path, header, bytes(data))


def write_case(folder: Path, case: Mapping[str, Any]) -> dict[str, Path]:
    """All files of a case in ``folder``; their relative names and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in case["files"].items():
        (folder / name).write_text(json.dumps(content))
    write_tensors(folder / "model.safetensors", case["tensors"])
    return files_of(folder)


def opened(folder: Path, case: Mapping[str, Any]) -> TowerCheckpoint:
    """The encoders of a case, written in ``folder``."""
    towers = open_towers("tiny", write_case(folder / "tiny", case))
    assert towers is not None
    return towers


def convert(towers: TowerCheckpoint, outtype: str) -> Model:
    """The projector of encoders."""
    return convert_projector(towers, OutType(outtype))


def projector(folder: Path, case: Mapping[str, Any], outtype: str = "auto") -> Model:
    """The projector of a case, written in ``folder``."""
    return convert(opened(folder, case), outtype)


def digest(model: Model) -> str:
    """That of the whole file."""
    hashed = hashlib.sha256()
    write(model, hashed.update)
    return hashed.hexdigest()[:DIGITS]


def listing(model: Model, without: list[str]) -> str:
    """The digest of all tensors but some: names, sizes, types and contents, in the file's order."""
    rows = [
        [t.name, list(t.dims), t.type.name, hashlib.sha256(t.load().tobytes()).hexdigest()]
        for t in model.tensors
        if t.name not in without
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:DIGITS]
