"""Adapters written by a test: PEFT's folders, MLX's, and GGUF files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from checkpoints import write_raw

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

NONE: Arrays = MappingProxyType({})

_KINDS = {"float32": "F32", "float16": "F16", "uint16": "BF16"}


def save(path: Path, arrays: Arrays) -> Path:
    """A safetensors file of float32 and float16 arrays, or of bfloat16 as uint16."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": _KINDS[array.dtype.name], "shape": list(array.shape)}
        header[name]["data_offsets"] = place
        data += raw
    return write_raw(path, header, data)


def factors(
    shapes: Mapping[str, tuple[int, int]], rank: int, seed: int
) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """For each module (out, in) its A (rank, in) and B (out, rank), in F32."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.normal(0, 0.1, (rank, columns)).astype(np.float32),
            random.normal(0, 0.1, (rows, rank)).astype(np.float32),
        )
        for name, (rows, columns) in shapes.items()
    }


def write_peft(
    folder: Path,
    pairs: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    *,
    rank: int,
    alpha: float,
    whole: Arrays = NONE,
    **config: Any,
) -> Path:
    """A folder as PEFT saves it; ``whole`` are weights of ``modules_to_save`` and the like."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, (a, b) in pairs.items():
        arrays[f"base_model.model.{name}.lora_A.weight"] = a
        arrays[f"base_model.model.{name}.lora_B.weight"] = b
    arrays |= {f"base_model.model.{name}": array for name, array in whole.items()}
    save(folder / "adapter_model.safetensors", arrays)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def write_mlx(
    folder: Path,
    pairs: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    *,
    scale: float,
    **config: Any,
) -> Path:
    """A folder as mlx_lm.lora saves it: the factors transposed, one scale."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, (a, b) in pairs.items():
        arrays[f"{name}.lora_a"], arrays[f"{name}.lora_b"] = a.T, b.T
    save(folder / "adapters.safetensors", arrays)
    settings = {"fine_tune_type": "lora", "lora_parameters": {"scale": scale}, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
