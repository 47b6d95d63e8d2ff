"""``adapter_config.json`` of PEFT: which kind of adapter it is and how strong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mbuild.errors import FormatError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from mbuild.convert.vocab.source import Files

CONFIG = "adapter_config.json"
_PATTERN = re.compile(r"\^?[\w.-]+\$?")
_RANK_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The settings that decide an adapter's scale.

    ``alphas`` has other alphas for some modules, by the ends of their names.
    ``base`` is the name of the model that it was trained for, as written.
    """

    rank: int
    alpha: float
    rank_stabilized: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    invocation_tokens: tuple[int, ...] = ()
    base: str = ""

    def written_alpha(self) -> float:
        """``adapter.lora.alpha``: llama.cpp divides it by the rank."""
        return self.alpha * math.sqrt(self.rank) if self.rank_stabilized else self.alpha

    def scale(self, module: str, rank: int) -> float:
        """By how much B A of one module counts."""
        alpha = self.alpha
        for name, other in self.alphas.items():
            if module == name or module.endswith(f".{name}"):
                alpha = other
                break
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_config(name: str, files: Files) -> LoraConfig:
    """Read and check the config of the adapter ``name``.

    Raises :class:`SourceError` when there is none, :class:`UnsupportedError`
    for anything but a plain LoRA, and :class:`FormatError` for settings that
    make no sense.
    """
    config = files.json_object(CONFIG)
    if config is None:
        raise SourceError(
            f"{name} has no {CONFIG}",
            hint="an adapter is a folder with adapter_config.json and adapter_model.safetensors",
        )
    _check_kind(config)
    return LoraConfig(
        _rank(config.get("r")),
        _positive("lora_alpha", config.get("lora_alpha")),
        config.get("use_rslora") is True,
        _alphas(config.get("alpha_pattern")),
        _tokens(config.get("alora_invocation_tokens")),
        str(config.get("base_model_name_or_path") or "")[:1000],
    )


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedError(f"{CONFIG}: adapters of type {str(kind)[:60]!r} are not supported")
    if config.get("use_dora"):
        raise UnsupportedError(
            f"{CONFIG}: DoRA adapters have no form in GGUF",
            hint="merge the adapter into its base and build that",
        )
    if config.get("invocation_string") and not config.get("alora_invocation_tokens"):
        raise UnsupportedError(
            f"{CONFIG}: invocation_string without alora_invocation_tokens",
            hint="add the string's token ids as alora_invocation_tokens",
        )


def _rank(value: object) -> int:
    if type(value) is not int or not 0 < value <= _RANK_LIMIT:
        raise FormatError(f"{CONFIG}: r is {str(value)[:60]}; a positive number is needed")
    return value


def _positive(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 3e38:
        raise FormatError(f"{CONFIG}: {name} is {str(value)[:60]}; a positive number is needed")
    return float(value)


def _alphas(value: object) -> dict[str, float]:
    """``alpha_pattern``, whose names are regular expressions to PEFT; here they are names."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{CONFIG}: alpha_pattern must be an object")
    for name in value:
        if not _PATTERN.fullmatch(name):
            raise UnsupportedError(f"{CONFIG}: alpha_pattern: {name[:60]!r} is no module's name")
    return {name.strip("^$"): _positive("alpha_pattern", v) for name, v in value.items()}


def _tokens(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or any(
        type(id_) is not int or not 0 <= id_ < 1 << 32 for id_ in value
    ):
        raise FormatError(f"{CONFIG}: alora_invocation_tokens must be a list of token ids")
    return tuple(value)
