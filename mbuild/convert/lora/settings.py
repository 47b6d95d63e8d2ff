"""``adapter_config.json`` of PEFT: which kind of adapter it is and how strong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import EMPTY, FrozenValue

if TYPE_CHECKING:
    from mbuild.convert.read.files import CheckpointFiles

CONFIG = "adapter_config.json"
_PATTERN_LIMIT = 200
_NAME_LIMIT = 256
_REPEATED = regex(r"\)[*+{]|\\[1-9]|\(\?(?!:)")
"""Repeated groups, back references and the like, with which a search can take forever."""
_ENDLESS = regex(r"[*+{]")
_ENDLESS_LIMIT = 3
_MERGE = "merge the adapter into its base (model.merge_and_unload()) and build that"
_PEFT = "merge it with peft (model.merge_and_unload()) and build that"
_RANK_LIMIT = 1 << 20


class LoraConfig(FrozenValue):
    """The settings that decide an adapter's scale.

    ``alphas`` has other alphas for some modules, by regular expressions over the
    ends of their names, the first that fits counting. ``base`` is the name of
    the model that it was trained for, as written.
    """

    rank: int
    alpha: float
    rank_stabilized: bool = False
    alphas: Mapping[re.Pattern[str], float] = EMPTY
    invocation_tokens: tuple[int, ...] = ()
    base: str = ""

    def written_alpha(self) -> float:
        """``adapter.lora.alpha``: llama.cpp divides it by the rank."""
        return self.alpha * math.sqrt(self.rank) if self.rank_stabilized else self.alpha

    def scale(self, module: str, rank: int) -> float:
        """By how much B A of one module counts."""
        alpha = self.alpha
        for pattern, other in self.alphas.items():
            if len(module) <= _NAME_LIMIT and pattern.fullmatch(module):
                alpha = other
                break
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_config(
    name: str,
    files: CheckpointFiles,
    warn: Callable[[str], None] = lambda text: None,
    *,
    merging: bool = False,
) -> LoraConfig:
    """Read and check the config of the adapter ``name``; ``warn`` is told what may be lost.

    ``merging``: it is folded into its base, which has a place for biases too.

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
    _check_kind(config, warn, merging=merging)
    return LoraConfig(
        _rank(config.get("r")),
        _positive("lora_alpha", config.get("lora_alpha")),
        config.get("use_rslora") is True,
        _alphas(config.get("alpha_pattern")),
        _tokens(config.get("alora_invocation_tokens")),
        str(config.get("base_model_name_or_path") or "")[:1000],
    )


_ONLY_MERGED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("use_dora", (), "DoRA (a magnitude for each output)"),
    ("bias", ("none",), "an adapter that trains biases"),
    ("lora_bias", (), "an adapter whose B has a bias"),
    ("layer_replication", (), "an adapter that repeats layers"),
    ("trainable_token_indices", (), "an adapter that trains single tokens"),
    ("target_parameters", (), "an adapter of parameters that are not layers"),
    ("use_bdlora", (), "a block-diagonal LoRA"),
    ("arrow_config", (), "a router of several adapters (Arrow)"),
    ("use_qalora", (), "a quantization-aware LoRA (QALoRA)"),
    ("corda_config", (), "an adapter whose base was changed when it was made (CorDA)"),
    ("velora_config", (), "VeLoRA"),
)
"""Settings that change the result and have no place in a GGUF adapter: the name, values that
change nothing, and what it is."""

_KNOWN = frozenset(
    {name for name, _, _ in _ONLY_MERGED}
    | {
        *("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision"),
        *("auto_mapping", "peft_version", "r", "lora_alpha", "lora_dropout", "target_modules"),
        *("exclude_modules", "fan_in_fan_out", "use_rslora", "modules_to_save", "loftq_config"),
        *("init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern"),
        *("alpha_pattern", "megatron_config", "megatron_core", "eva_config", "runtime_config"),
        *("qalora_group_size", "ensure_weight_tying", "alora_invocation_tokens"),
        *("invocation_string", "lora_ga_config", "monteclora_config", "enable_lora"),
        *("unsloth_version", "unsloth_fixed", "merge_weights", "inference_only"),
    }
)
"""Settings that the tensors show (which modules, which ranks), that are honoured, or that matter
only to training."""

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of starting an adapter that change the base too (``init_lora_weights``)."""


def _check_start(config: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        warn(
            f"{CONFIG}: init_lora_weights is {start[:60]!r}, which changes the base model too when"
            " training starts: the adapter fits only that changed base, unless it was converted"
            " when it was saved (path_initial_model_for_weight_conversion)"
        )


def _check_kind(
    config: Mapping[str, Any], warn: Callable[[str], None], *, merging: bool = False
) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedError(
            f"{CONFIG}: adapters of type {str(kind)[:60]!r} are not supported", hint=_MERGE
        )
    _check_start(config, warn)
    for name, neutral, what in _ONLY_MERGED:
        if config.get(name) in (None, False, [], {}, "", *neutral):
            continue
        if merging and name == "bias":  # the biases are there, whole
            continue
        if merging:
            raise UnsupportedError(f"{CONFIG}: {name}: mbuild cannot merge {what}", hint=_PEFT)
        raise UnsupportedError(f"{CONFIG}: {name}: GGUF cannot express {what}", hint=_MERGE)
    for name, value in config.items():
        if name not in _KNOWN and value not in (None, False, [], {}, ""):
            warn(f"{CONFIG}: {name} is not known to mbuild; its effect, if any, is lost")
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


def _alphas(value: object) -> dict[re.Pattern[str], float]:
    """``alpha_pattern``; its keys are expressions, as PEFT's ``get_pattern_key`` reads them."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{CONFIG}: alpha_pattern must be an object")
    return {_expression(key): _positive("alpha_pattern", v) for key, v in value.items()}


def _expression(key: str) -> re.Pattern[str]:
    r"""A key of ``alpha_pattern``: ``(.*\.)?(KEY)$`` has to match a module's name."""
    endless = len(_ENDLESS.findall(key)) > _ENDLESS_LIMIT
    if len(key) > _PATTERN_LIMIT or endless or _REPEATED.search(key):
        raise UnsupportedError(
            f"{CONFIG}: alpha_pattern: {key[:60]!r} is not a module's name, and as a regular"
            " expression it can take too long",
            hint="name the modules, one key each, or use a simpler expression",
        )
    try:
        return re.compile(rf"(?:.*\.)?(?:{key})$", re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise FormatError(
            f"{CONFIG}: alpha_pattern: {key[:60]!r} is not a regular expression: {error}",
            hint="name the modules, such as q_proj, or give a Python regular expression",
        ) from error


def _tokens(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or any(
        type(id_) is not int or not 0 <= id_ < 1 << 32 for id_ in value
    ):
        raise FormatError(f"{CONFIG}: alora_invocation_tokens must be a list of token ids")
    return tuple(value)
