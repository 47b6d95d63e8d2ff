"""What other programs start a model with: a section for llama.cpp's router, LM Studio's model.yaml.

The router reads an INI file (llama.cpp's ``docs/preset.md`` and ``common/preset.cpp``, October
2026): a section for each model, whose keys are the options of ``llama-server`` without dashes.
Everything from ``;`` or ``#`` to the end of a line is a comment there, wherever it stands.
``model.yaml`` is the draft at modelyaml.org, with the fields of ``VirtualModelDefinition.ts`` in
lmstudio-js.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.core.names import DEFAULT_TAG
from mbuild.core.patterns import regex
from mbuild.store.contents import open_group
from mbuild.store.media import ADAPTER, DRAFT, MODEL, PROJECTOR

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.store import Layer, Store
    from mbuild.store.contents import Contents

OPTIONS: Mapping[str, str] = {
    "temperature": "temp",
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
    "typical_p": "typical",
    "repeat_last_n": "repeat-last-n",
    "repeat_penalty": "repeat-penalty",
    "presence_penalty": "presence-penalty",
    "frequency_penalty": "frequency-penalty",
    "seed": "seed",
    "num_ctx": "ctx-size",
    "num_predict": "n-predict",
    "num_keep": "keep",
    "num_batch": "batch-size",
    "num_gpu": "n-gpu-layers",
    "main_gpu": "main-gpu",
    "num_thread": "threads",
}
"""Ollama's parameters and the options of ``llama-server`` that mean the same."""

_ANY_NUMBER = frozenset({"temperature", "presence_penalty", "frequency_penalty", "seed"})
"""Those whose negative numbers mean the same to both; of others they mean something of Ollama's."""

FILES: Mapping[str, str] = {
    MODEL: "model",
    PROJECTOR: "mmproj",
    ADAPTER: "lora",
    DRAFT: "model-draft",
}
"""The options that name files."""

CHECKED = {
    "top_p": "topPSampling",
    "min_p": "minPSampling",
    "repeat_penalty": "repeatPenalty",
    "num_predict": "maxPredictedTokens",
}
PLAIN = {"temperature": "temperature", "top_k": "topKSampling"}
"""Ollama's parameters and LM Studio's fields below ``llm.prediction.``; those of ``CHECKED`` have a
tick beside their value."""

_HEADER = regex(r"^\[[ \t]*([^\]\n]*?)[ \t]*\]", re.MULTILINE)
_SPECIAL = regex(r"[;#\r\n]|^\s|\s$")


def section_name(name: ModelName) -> str:
    """What requests call the model: its name, with its tag unless that is the usual one."""
    start = name.model if name.namespace == "library" else f"{name.namespace}/{name.model}"
    return start if name.tag == DEFAULT_TAG else f"{start}:{name.tag}"


def section(contents: Contents, files: Mapping[str, Sequence[Path]]) -> str:
    """The model's section; ``files`` are those of each media type.

    Raises :class:`UsageError` for a path that cannot be written there, and
    :class:`UnsupportedError` for a model without weights.
    """
    if not files.get(MODEL):
        raise UnsupportedError(
            f"{contents.stored.name} has no GGUF weights", hint="llama.cpp runs no other model"
        )
    lines = [f"[{section_name(contents.stored.name)}]"]
    for kind, option in FILES.items():
        paths = list(map(str, files.get(kind, ())))
        if paths:
            # Of shards and of projectors the first is named; the others of a split model follow.
            lines.append(f"{option} = {_value(paths if kind == ADAPTER else paths[:1])}")
    lines += (f"{option} = {text}" for option, text in options(contents.parameters))
    unsaid = [word for word, said in _unsaid(contents) if said]
    if unsaid:
        lines.append(f"; {', '.join(unsaid)}: llama-server has no option for it, clients send it")
    return "\n".join(lines) + "\n"


def _unsaid(contents: Contents) -> Iterator[tuple[str, bool]]:
    yield "SYSTEM", bool(contents.system)
    yield "MESSAGE", bool(contents.messages)
    yield "PARAMETER stop", bool(contents.parameters.get("stop"))


def options(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of ``llama-server`` that say what a model's parameters say."""
    for name, option in OPTIONS.items():
        value = parameters.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if value >= 0 or name in _ANY_NUMBER or (name, value) == ("num_predict", -1):
            yield option, f"{value:.10g}" if isinstance(value, float) else str(value)


def _value(paths: Sequence[str]) -> str:
    for path in paths:
        if _SPECIAL.search(path) or (len(paths) > 1 and "," in path):
            raise UsageError(
                f"the path {path!r} cannot be written into a preset of llama.cpp, where ';' and"
                " '#' begin a comment and ',' stands between adapters",
                hint="export to a folder without these characters: -o DIR",
            )
    return ",".join(paths)


def with_section(text: str, name: str, new: str, *, replace: bool) -> str:
    """A preset file with a model's section, in place of the one that it has.

    All other lines stay as they are. Raises :class:`UsageError` where there is such a section
    that is not to be replaced.
    """
    headers = list(_HEADER.finditer(text))
    own = next((n for n, each in enumerate(headers) if each[1] == name), None)
    if own is None:
        start = text if text else "version = 1\n"
        return f"{start.rstrip()}\n\n{new}"
    begin = headers[own].start()
    end = headers[own + 1].start() if own + 1 < len(headers) else len(text)
    if text[begin:end].strip() == new.strip():
        return text
    if not replace:
        raise UsageError(
            f"the preset has a section [{name}] already", hint="replace it with --force"
        )
    rest = text[end:]
    return f"{text[:begin]}{new}" + (f"\n{rest}" if rest else "")


# LM Studio.


def model_yaml(store: Store, contents: Contents) -> str:
    """The text of a ``model.yaml`` over the weights that ``--lmstudio`` exports."""
    import yaml  # type: ignore[import-untyped]

    name = contents.stored.name
    layers = contents.stored.manifest.of_kind(MODEL)
    if not layers:
        raise UnsupportedError(
            f"{name} has no GGUF weights", hint="LM Studio runs no other model of a store"
        )
    key = f"{name.namespace}/{name.model}"
    value: dict[str, Any] = {
        "model": f"{key}-{name.tag}",  # another name than that of the files
        "base": [{"key": key, "sources": []}],
        "metadataOverrides": _metadata(store, contents, layers),
    }
    operation, load = list(_operation(contents)), list(_load(contents))
    parts = {"operation": operation, "load": load}
    config = {part: {"fields": fields} for part, fields in parts.items() if fields}
    if config:
        value["config"] = config
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return f"# {name}, written by mbuild export; https://modelyaml.org\n{text}"


def _metadata(store: Store, contents: Contents, layers: Sequence[Layer]) -> dict[str, Any]:
    """What LM Studio shows of a model."""
    with open_group(store.blobs, layers, str(contents.stored.name)) as weights:
        family = str(weights.get("general.architecture") or "")
        length = weights.get(f"{family}.context_length")
    size = contents.details["parameter_size"]
    found: dict[str, Any] = {"domain": "llm", "architectures": [family] if family else []}
    found["compatibilityTypes"] = ["gguf"]
    if size:
        found["paramsStrings"] = [str(size)]
    found["minMemoryUsageBytes"] = sum(layer.size for layer in layers)
    if isinstance(length, int):
        found["contextLengths"] = [length]
    found["vision"] = bool(contents.stored.manifest.of_kind(PROJECTOR))
    return found


def _operation(contents: Contents) -> Iterator[dict[str, Any]]:
    """Settings of an answer."""
    parameters = contents.parameters
    for names, checked in ((PLAIN, False), (CHECKED, True)):
        for name, field in names.items():
            value = parameters.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
                shown = {"checked": True, "value": value} if checked else value
                yield {"key": f"llm.prediction.{field}", "value": shown}
    stops = parameters.get("stop")
    if stops:
        texts = stops if isinstance(stops, list) else [stops]
        yield {"key": "llm.prediction.stopStrings", "value": list(map(str, texts))}
    if contents.system:
        yield {"key": "llm.prediction.systemPrompt", "value": contents.system}


def _load(contents: Contents) -> Iterator[dict[str, Any]]:
    """Settings of loading."""
    length = contents.parameters.get("num_ctx")
    if isinstance(length, int) and length > 0:
        yield {"key": "llm.load.contextLength", "value": length}
