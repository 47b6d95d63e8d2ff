"""Adapters of MLX: ``adapters.safetensors`` and an ``adapter_config.json`` with other settings.

MLX computes y = x W + scale * (x A) B with A (in, rank) and B (rank, out), the transposes of
PEFT's factors, and ``scale`` is the whole factor, not divided by the rank
(``mlx_lm/tuner/lora.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.lora.settings import CONFIG, LoraConfig
from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.read.safetensors import StoredTensor

MLX_WEIGHTS = "adapters.safetensors"

_FACTOR = re.compile(r"\.lora_(?P<kind>[ab])$")
_FUSE = "fuse it into its base: mlx_lm.fuse --model BASE --adapter-path FOLDER, and build that"


def mlx_adapter(
    files: CheckpointFiles, stored: Sequence[StoredTensor]
) -> tuple[LoraConfig, dict[str, tuple[Lazy, Lazy]]]:
    """The settings in PEFT's terms, and PEFT's factors A and B by the base's weights.

    Raises :class:`UnsupportedError` for DoRA, whole weights and factors of stacked experts,
    :class:`FormatError` for factors that do not fit.
    """
    config = files.json_object(CONFIG) or {}
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora" or config.get("use_dora"):
        raise UnsupportedError(
            f"{CONFIG}: adapters of MLX's type {str(kind)[:40]!r} are not supported", hint=_FUSE
        )
    factors: dict[str, dict[str, Lazy]] = {}
    for tensor in sorted(stored, key=lambda tensor: tensor.offset):
        match = _FACTOR.search(tensor.name)
        if match is None or len(tensor.shape) != 2:
            raise UnsupportedError(
                f"{MLX_WEIGHTS}: {tensor.name!r} of shape {list(tensor.shape)} is not a factor of a"
                " LoRA pair",
                hint=_FUSE,
            )
        weight = tensor.name[: match.start()].removesuffix(".linear") + ".weight"
        factors.setdefault(weight, {})[match["kind"]] = lazy_of(tensor).transpose(1, 0)
    if not factors:
        raise FormatError(f"{MLX_WEIGHTS}: no LoRA tensors")
    pairs = {weight: _pair(weight, found) for weight, found in factors.items()}
    rank = next(iter(pairs.values()))[0].shape[0]
    return LoraConfig(rank, _scale(config) * rank), pairs


def _pair(weight: str, found: Mapping[str, Lazy]) -> tuple[Lazy, Lazy]:
    if len(found) != 2 or found["a"].shape[0] != found["b"].shape[1] or not found["a"].shape[0]:
        raise FormatError(f"{MLX_WEIGHTS}: the factors of {weight!r} cannot be multiplied")
    return found["a"], found["b"]


def _scale(config: Mapping[str, Any]) -> float:
    """The factor: ``scale``, or ``alpha`` of old versions, which is the same number."""
    settings = config.get("lora_parameters")
    settings = settings if isinstance(settings, dict) else config
    value = settings.get("scale", settings.get("alpha"))
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 3e38:
        raise FormatError(
            f"{CONFIG}: lora_parameters.scale is {str(value)[:60]}; a positive number is needed"
        )
    return float(value)
