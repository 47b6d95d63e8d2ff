"""Hyper-parameters and tensors made by hand, for tests of single parts of a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.hyper import Hyper, unified_rope


def hyper(arch: str = "llama", files: dict[str, Path] | None = None, **config: Any) -> Hyper:
    """The hyper-parameters of a config.json that holds just these settings."""
    layers = config.get("num_hidden_layers", 2)
    rope = unified_rope(config)
    return Hyper(arch, "Test", config, rope, layers, OutType.F16, CheckpointFiles(files or {}))


def lazy(values: Any, dtype: DType = DType.F32, origin: str = "tensor 'x'") -> Lazy:
    """A tensor of these values, which can be read in parts."""
    array = np.array(values) if dtype is not DType.F32 else np.array(values, np.float32)
    flat = array.reshape(-1)
    return Lazy(
        dtype, array.shape, array.copy, origin, part=lambda start, stop: flat[start:stop].copy()
    )
