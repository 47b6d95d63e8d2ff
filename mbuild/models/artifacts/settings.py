"""A model's template and parameters as GGUF metadata.

What llama.cpp and its kin read has their keys: sampling parameters under
``general.sampling.*`` (llama.cpp since December 2025), tokens that end an answer under
``tokenizer.ggml.eot_token_id`` and ``eom_token_id``. ``tokenizer.chat_template`` is
Jinja and stays as it is. Everything is also there as Ollama has it, word for
word, under ``ollama.*``, which no other program reads by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV, MetadataEntry, Model
from mbuild.gguf.types import ValueType
from mbuild.gguf.writer import layout
from mbuild.models.artifacts.sharing import BLOCK
from mbuild.store.contents import Contents
from mbuild.store.manifest import LEAST_OLLAMA
from mbuild.store.media import SPLIT

SAMPLING: Mapping[str, tuple[str, ValueType]] = {
    "temperature": ("temp", ValueType.FLOAT32),
    "top_k": ("top_k", ValueType.INT32),
    "top_p": ("top_p", ValueType.FLOAT32),
    "min_p": ("min_p", ValueType.FLOAT32),
    "repeat_last_n": ("penalty_last_n", ValueType.INT32),
    "repeat_penalty": ("penalty_repeat", ValueType.FLOAT32),
    "mirostat": ("mirostat", ValueType.INT32),
    "mirostat_tau": ("mirostat_tau", ValueType.FLOAT32),
    "mirostat_eta": ("mirostat_eta", ValueType.FLOAT32),
}
"""Ollama's parameters: the key below ``general.sampling.`` and its type (llama-model.cpp,
gguf-py's GGUFWriter)."""

PADDING = "mbuild.padding"

_STOP_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_TOKEN_KEYS = (*_STOP_KEYS, "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id")
_SPECIAL = (3, 4)
"""Token types of control and user-defined tokens (llama.h)."""
_ENDS = regex(r"end|eot|eom|eos|stop|^</")
_INT32 = 1 << 31


def in_one_file(contents: Contents) -> Contents:
    """A model's contents once its weights are merged.

    They do not ask for the version of Ollama that only weights in several layers need; a
    build from such a model leaves it out by the same rule.
    """
    layers = [layer.media_type for layer in contents.stored.manifest.layers]
    several = any(layers.count(kind) > 1 for kind in SPLIT)
    if not several or contents.config.get("requires") != LEAST_OLLAMA:
        return contents
    config = {key: value for key, value in contents.config.items() if key != "requires"}
    return replace(contents, config=config)


def with_settings(model: Model, contents: Contents) -> Model:
    """The model with its settings in its metadata; keys that it had keep their places."""
    added = {entry.key: entry for entry in _entries(model, contents)}
    entries: list[MetadataEntry] = [added.pop(entry.key, entry) for entry in model.metadata]
    return Model((*entries, *added.values()), model.tensors)


def _entries(model: Model, contents: Contents) -> list[KV]:
    found = _sampling(contents.parameters)
    found += _stop_tokens(model, contents.parameters)
    texts = {
        "ollama.template": contents.template,
        "ollama.system": contents.system,
        "ollama.params": _json(contents.parameters),
        "ollama.messages": _json(contents.messages),
        **{f"ollama.{key}": contents.config.get(key) for key in ("renderer", "parser", "requires")},
    }
    found += [KV(key, ValueType.STRING, str(text)) for key, text in texts.items() if text]
    lists = {"ollama.stop": _stops(contents.parameters), "ollama.license": contents.licenses}
    found += [
        KV(key, ValueType.ARRAY, list(items), ValueType.STRING)
        for key, items in lists.items()
        if items
    ]
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else ""


def _sampling(parameters: Mapping[str, Any]) -> list[KV]:
    found = []
    for name, (key, type_) in SAMPLING.items():
        value = parameters.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if type_ is ValueType.INT32:
            if not -_INT32 <= value < _INT32:
                continue
            value = int(value)
        found.append(KV(f"general.sampling.{key}", type_, value))
    return found


def _stops(parameters: Mapping[str, Any]) -> list[str]:
    stops = parameters.get("stop", [])
    stops = stops if isinstance(stops, list) else [stops]
    return [stop for stop in stops if isinstance(stop, str)]


def _stop_tokens(model: Model, parameters: Mapping[str, Any]) -> list[KV]:
    """Stop texts that are special tokens of the model's, where it names none of its own.

    llama.cpp ends an answer at tokens only. Of the texts that Ollama stops at
    only those say that something ends (not ``<|im_start|>``) which are tokens
    that a tokenizer never makes from plain text.
    """
    stops = [s for s in _stops(parameters) if _ENDS.search(s.lower()) and "header" not in s.lower()]
    tokens, types = model.get("tokenizer.ggml.tokens"), model.get("tokenizer.ggml.token_type")
    if not stops or not isinstance(tokens, list) or not isinstance(types, list):
        return []
    known = {model.get(key) for key in _TOKEN_KEYS}
    special = {
        token: number
        for number, (token, type_) in enumerate(zip(tokens, types, strict=False))
        if type_ in _SPECIAL
    }
    ids = [special[stop] for stop in dict.fromkeys(stops) if special.get(stop) is not None]
    new = [number for number in ids if number not in known]
    free = [key for key in _STOP_KEYS if model.get(key) is None]
    return [KV(key, ValueType.UINT32, number) for key, number in zip(free, new, strict=False)]


def align(model: Model, data_start: int) -> Model:
    """The model with so much padding in its metadata that its data may share extents.

    Tensor data then starts as many bytes into a block as in the file that it
    comes from, at ``data_start`` there.
    """
    kept = Model(tuple(e for e in model.metadata if e.key != PADDING), model.tensors)
    if (data_start - len(layout(kept).header)) % BLOCK == 0:
        return kept
    short = len(layout(_padded(kept, 0)).header)
    return _padded(kept, (data_start - short) % BLOCK)


def _padded(model: Model, count: int) -> Model:
    padding = KV(PADDING, ValueType.STRING, " " * count)
    return Model((*model.metadata, padding), model.tensors)
