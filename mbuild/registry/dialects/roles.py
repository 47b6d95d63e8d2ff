"""What a layer of another form is to Ollama, beside its own media types."""

from __future__ import annotations

CHAT = "chat template"
"""A Jinja template, which becomes a template of Ollama's if there is one that says the same."""

LEFT_OUT = ""
"""A file that a model of Ollama's has no place for."""


def is_chat_template(path: str) -> bool:
    """Whether a file is a chat template, by its name."""
    return path.rpartition("/")[2].lower().endswith(".jinja")


def is_gguf(path: str) -> bool:
    """Whether a file is GGUF, by its name; of a projector RamaLama wants another one."""
    return path.lower().endswith((".gguf", ".mmproj"))
