"""The parameters that PARAMETER takes: their names and the types of their values.

Names and types are those of ``api.Options`` in Ollama 0.32; what became of the
deprecated names is what ``ollama create`` says of them.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The type of a parameter's value, in the words of Ollama's errors."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    TEXTS = "strings"


PARAMETERS: dict[str, Kind] = {
    "num_keep": Kind.INT,
    "seed": Kind.INT,
    "num_predict": Kind.INT,
    "draft_num_predict": Kind.INT,
    "top_k": Kind.INT,
    "top_p": Kind.FLOAT,
    "min_p": Kind.FLOAT,
    "typical_p": Kind.FLOAT,
    "repeat_last_n": Kind.INT,
    "temperature": Kind.FLOAT,
    "repeat_penalty": Kind.FLOAT,
    "presence_penalty": Kind.FLOAT,
    "frequency_penalty": Kind.FLOAT,
    "stop": Kind.TEXTS,
    "num_ctx": Kind.INT,
    "num_batch": Kind.INT,
    "num_gpu": Kind.INT,
    "main_gpu": Kind.INT,
    "use_mmap": Kind.BOOL,
    "num_thread": Kind.INT,
}
"""Every parameter that a model can carry. Names are case-sensitive."""

DEPRECATED = frozenset(
    {
        "penalize_newline",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    }
)
"""Names that are accepted with a warning, whatever their value, and not stored."""
