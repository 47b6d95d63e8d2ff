"""What NVIDIA's Model Optimizer says of a checkpoint in a file of its own, and of single layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from mbuild.convert.read.files import CheckpointFiles

QUANT_FILE = "hf_quant_config.json"

_TOLD = ("quant_algo", "quant_method", "format", "config_groups", "quantized_layers")
_NO_FOUR_BIT_ACTIVATIONS = "W4A16_NVFP4"


def with_quant_file(config: Mapping[str, Any], files: CheckpointFiles) -> Mapping[str, Any]:
    """The config with what :data:`QUANT_FILE` says in its ``quantization_config``.

    The config's own counts where it has both the algorithm and the layers. Raises
    :class:`FormatError` for a file that is no JSON object.
    """
    said = config.get("quantization_config") or {}
    found = files.json_object(QUANT_FILE)
    if found is None or not isinstance(said, dict):
        return config
    if said.get("quant_algo") and said.get("quantized_layers"):
        return config
    own, producer = found.get("quantization"), found.get("producer")
    if not isinstance(own, dict):
        return config
    merged = dict(said)
    if merged.get("quant_method") is None and isinstance(producer, dict):
        merged["quant_method"] = str(producer.get("name") or "").lower()
    merged |= {key: own[key] for key in _TOLD if key in own}
    return {**config, "quantization_config": merged}


def activations(config: Mapping[str, Any], weights: Iterable[tuple[str, str]]) -> Iterator[KV]:
    """The metadata that names NVFP4 weights whose activations must not have four bits.

    ``weights`` are the checkpoint's and GGUF's names of all NVFP4 weights.
    """
    settings = config.get("quantization_config")
    settings = settings if isinstance(settings, dict) else {}
    layers = settings.get("quantized_layers")
    own = {
        _named(layer): said.get("quant_algo")
        for layer, said in (layers.items() if isinstance(layers, dict) else ())
        if isinstance(said, dict)
    }
    names = sorted(
        name
        for source, name in weights
        if _algorithm(source, own, settings.get("quant_algo")) == _NO_FOUR_BIT_ACTIVATIONS
    )
    if names:
        yield KV("general.tensor_extra.name", ValueType.ARRAY, names, ValueType.STRING)
        extra = [False] * len(names)
        yield KV("general.tensor_extra.prec_a4", ValueType.ARRAY, extra, ValueType.BOOL)


def _named(layer: str) -> str:
    return layer.replace("language_model.", "")


def _algorithm(source: str, layers: Mapping[str, Any], default: Any) -> Any:
    """What a layer, or the innermost module around it, is quantized with."""
    name = source.removesuffix(".weight").removesuffix(".bias")
    while name:
        if name in layers:
            return layers[name]
        name = name.rpartition(".")[0]
    return default
