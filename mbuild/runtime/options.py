"""Options of a request: their defaults, their types, and what the engine calls them.

Defaults are Ollama's (``api.DefaultOptions`` in 0.33). Every one is sent with a request, for
llama-server's own are others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.language.parameters import PARAMETERS, ParameterType

CONTEXT_VARIABLE = "OLLAMA_CONTEXT_LENGTH"
"""The environment variable for num_ctx where neither model nor request says it."""

MIN_CONTEXT = 4
MIN_CONTEXT_OF_VISION = 2048
_DEFAULT_CONTEXT = 4096
_CONTEXTS_AT_MOST = 10  # an answer without a budget ends after so many contexts, as in Ollama


_LARGEST = 3.4028234663852886e38  # a float32's, which the engine has
_MOST = 2**31 - 1  # of the engine's integers
_SEEDS = 2**32
_RANDOM = _SEEDS - 1  # the seed that stands for another one each time


class RequestOption(NamedTuple):
    """An option's default and the engine's name of it, "" for what an engine is started with."""

    default: Any
    sent_as: str = ""


OPTIONS: Mapping[str, RequestOption] = {
    "num_keep": RequestOption(4, "n_keep"),
    "seed": RequestOption(-1, "seed"),
    "num_predict": RequestOption(-1, "n_predict"),
    "top_k": RequestOption(40, "top_k"),
    "top_p": RequestOption(0.9, "top_p"),
    "min_p": RequestOption(0.0, "min_p"),
    "typical_p": RequestOption(1.0, "typical_p"),
    "repeat_last_n": RequestOption(64, "repeat_last_n"),
    "temperature": RequestOption(0.8, "temperature"),
    "repeat_penalty": RequestOption(1.0, "repeat_penalty"),
    "presence_penalty": RequestOption(0.0, "presence_penalty"),
    "frequency_penalty": RequestOption(0.0, "frequency_penalty"),
    "stop": RequestOption((), "stop"),
    "num_ctx": RequestOption(0),
    "num_batch": RequestOption(512),
    "num_gpu": RequestOption(-1),
    "main_gpu": RequestOption(0),
    "use_mmap": RequestOption(True),
    "num_thread": RequestOption(0),
    "draft_num_predict": RequestOption(4),
}
"""Every option that a request can have."""

_GO_TYPES = {
    ParameterType.INT: "integer",
    ParameterType.FLOAT: "float32",
    ParameterType.BOOL: "boolean",
    ParameterType.TEXTS: "array",
}


def settings(parameters: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request: its own, else the model's, else the defaults.

    Raises :class:`UsageError` for one of the wrong type; names that nobody knows are ignored.
    """
    found = {name: option.default for name, option in OPTIONS.items()}
    for source in (parameters, asked):
        for name, value in source.items():
            if name in OPTIONS and value is not None:
                found[name] = _typed(name, value)
    return found


def _typed(name: str, value: Any) -> Any:
    kind = PARAMETERS[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not -_LARGEST <= value <= _LARGEST:
            raise UsageError(f'option "{name}" is out of range')
        if name == "repeat_penalty" and value <= 0:
            raise UsageError('option "repeat_penalty" must be above 0')
        if kind is ParameterType.FLOAT:
            return float(value)
        if kind is ParameterType.INT:
            return int(value) if name == "seed" else min(max(int(value), -_MOST), _MOST)
    if kind is ParameterType.BOOL and isinstance(value, bool):
        return value
    if kind is ParameterType.TEXTS:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if isinstance(value, (list, tuple)):
            raise UsageError(f'option "{name}" must be of an array of strings')
    raise UsageError(f'option "{name}" must be of type {_GO_TYPES[kind]}')


def context_of(found: Mapping[str, Any], trained: int, *, vision: bool) -> int:
    """Tokens of the context: asked for, or the environment's, at most what was trained."""
    wanted = int(found["num_ctx"]) or _from_environment()
    wanted = max(wanted, MIN_CONTEXT_OF_VISION if vision else MIN_CONTEXT)
    return min(wanted, trained) if trained else wanted


def _from_environment() -> int:
    text = os.environ.get(CONTEXT_VARIABLE, "").strip()
    if not text:
        return _DEFAULT_CONTEXT
    if not text.isdecimal():
        raise UsageError(f"{CONTEXT_VARIABLE}={text!r} is not a number of tokens")
    return int(text) or _DEFAULT_CONTEXT


def sampling(found: Mapping[str, Any], num_ctx: int) -> dict[str, Any]:
    """What the engine is sent with a prompt."""
    sent = {option.sent_as: found[name] for name, option in OPTIONS.items() if option.sent_as}
    most = _CONTEXTS_AT_MOST * num_ctx
    if not 0 < sent["n_predict"] <= most:
        sent["n_predict"] = most
    if sent["repeat_last_n"] < 0:
        sent["repeat_last_n"] = num_ctx
    sent["stop"] = [text for text in sent["stop"] if text]
    sent["seed"] = _engine_seed(sent["seed"])
    return sent


def _engine_seed(seed: int) -> int:
    """A seed as the engine has it, of 32 bits; only -1 stands for another one each time."""
    wrapped = seed % _SEEDS
    return wrapped - 1 if wrapped == _RANDOM and seed != -1 else wrapped
