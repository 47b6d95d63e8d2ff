"""Adapters of MLX: ``adapters.safetensors`` and an ``adapter_config.json`` with other settings.

MLX computes y = x W + scale * (x A) B with A (in, rank) and B (rank, out), the transposes of
PEFT's factors, and ``scale`` is the whole factor, not divided by the rank. Experts lie in one
``switch_mlp``, whose factors are PEFT's own way round with an axis for the experts before them;
older versions have A as (experts * rank, in) (``mlx_lm/tuner/lora.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.lora.settings import CONFIG, LoraConfig
from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.read.safetensors import StoredTensor

MLX_WEIGHTS = "adapters.safetensors"

_FACTOR = regex(r"\.lora_(?P<kind>[ab])$")
_SWITCH = regex(r"\.switch_mlp\.(?P<part>gate|up|down)_proj$")
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
"""What the experts' matrices are called in a ``block_sparse_moe``."""

_FUSE = "fuse it into its base: mlx_lm.fuse --model BASE --adapter-path FOLDER, and build that"


class MlxAdapter(NamedTuple):
    """An adapter in PEFT's terms, by the base's weights: factors A and B, and whole weights."""

    config: LoraConfig
    factors: dict[str, tuple[Lazy, Lazy]]
    whole: dict[str, Lazy]


def mlx_adapter(
    files: CheckpointFiles, stored: Sequence[StoredTensor], *, merging: bool = False
) -> MlxAdapter:
    """Read an adapter; ``merging``: whole weights have a place in the base.

    Raises :class:`UnsupportedError` for DoRA and for whole weights that have no place,
    :class:`FormatError` for factors that do not fit.
    """
    config = files.json_object(CONFIG) or {}
    kind = config.get("fine_tune_type", "lora")
    if kind not in (("lora", "full") if merging else ("lora",)) or config.get("use_dora"):
        dora = " (DoRA)" if kind == "dora" or config.get("use_dora") else ""
        raise UnsupportedError(
            f"{CONFIG}: adapters of MLX's type {str(kind)[:40]!r}{dora} are not supported",
            hint=_FUSE,
        )
    found: dict[str, dict[str, Lazy]] = {}
    switches: dict[str, dict[str, Lazy]] = {}
    whole: dict[str, Lazy] = {}
    for tensor in sorted(stored, key=lambda tensor: tensor.offset):
        match = _FACTOR.search(tensor.name)
        if merging and match is None and tensor.name.endswith((".weight", ".bias")):
            whole[tensor.name] = lazy_of(tensor)
            continue
        module = tensor.name[: match.start()].removesuffix(".linear") if match else ""
        if match is not None and _SWITCH.search(module):
            switches.setdefault(module, {})[match["kind"]] = lazy_of(tensor)
            continue
        if match is None or len(tensor.shape) != 2:
            raise UnsupportedError(
                f"{MLX_WEIGHTS}: {tensor.name!r} of shape {list(tensor.shape)} is not a factor of a"
                " LoRA pair",
                hint=_FUSE,
            )
        kinds = found.setdefault(f"{module}.weight", {})
        kinds[match["kind"]] = lazy_of(tensor).transpose(1, 0)
    for module, kinds in switches.items():
        found |= _experts(module, kinds)
    if not found and not whole:
        raise FormatError(f"{MLX_WEIGHTS}: no LoRA tensors")
    factors = {weight: _pair(weight, kinds) for weight, kinds in found.items()}
    rank = next((a.shape[0] for a, _ in factors.values()), 1)
    scale = _scale(config) if factors else 1.0
    return MlxAdapter(LoraConfig(rank, scale * rank), factors, whole)


def _experts(module: str, kinds: Mapping[str, Lazy]) -> dict[str, dict[str, Lazy]]:
    """The factors of each expert's own weight, as a checkpoint of Hugging Face calls it."""
    a, b = kinds.get("a"), kinds.get("b")
    count = b.shape[0] if b is not None and len(b.shape) == 3 else 0
    if a is None or b is None or not count or a.shape[0] % count:
        raise FormatError(f"{MLX_WEIGHTS}: the factors of {module!r} are not those of experts")
    if len(a.shape) == 2:
        a = a.reshape(count, a.shape[0] // count, a.shape[1])
    match = _SWITCH.search(module)
    assert match is not None
    block, part = module[: match.start()], match["part"]
    own = _MIXTRAL[part] if block.endswith("block_sparse_moe") else f"{part}_proj"
    return {
        f"{block}.experts.{number}.{own}.weight": {
            kind: lazy.slice(0, number, number + 1).reshape(*lazy.shape[1:])
            for kind, lazy in (("a", a), ("b", b))
        }
        for number in range(count)
    }


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
