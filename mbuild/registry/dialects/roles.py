"""What a layer of another form is to Ollama, beside its own media types."""

from __future__ import annotations

import re

from mbuild.core.patterns import regex
from mbuild.store.media import LICENSE, MEDIA_TYPES, MESSAGES, MODEL, PARAMS, SYSTEM, TEMPLATE

CHAT = "chat template"
"""A Jinja template, which becomes a template of Ollama's if there is one that says the same."""

PACKED = "packed"
"""A tar archive with files of the model in it."""

LEFT_OUT = ""
"""A file that a model of Ollama's has no place for."""


PLAIN = frozenset({TEMPLATE, SYSTEM, PARAMS, MESSAGES})
"""Layers that are files of the same name."""

_IS_LICENSE = regex(r"(licen[cs]e|copying|usage[_-]policy)([._-].*)?", re.IGNORECASE)
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".dduf")


def role_of_file(path: str) -> str:
    """What a file is to Ollama, by its name; GGUF may still be a projector or an adapter.

    RamaLama wants ``.mmproj`` as the end of a projector's name.
    """
    name = path.rpartition("/")[2].lower()
    if name.endswith((".gguf", ".mmproj")):
        return MODEL
    if name.endswith(".jinja"):
        return CHAT
    plain = next((kind for kind in PLAIN if MEDIA_TYPES[kind].name == name), LEFT_OUT)
    return LICENSE if _IS_LICENSE.fullmatch(name) else plain


def is_other_weights(path: str) -> bool:
    """Whether a file has weights that are no GGUF, by its name."""
    return path.lower().endswith(_OTHER_WEIGHTS)
