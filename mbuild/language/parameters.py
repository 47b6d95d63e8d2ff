"""The parameters that PARAMETER takes: their names and the types of their values.

Names and types are those of ``api.Options`` in Ollama 0.32; what became of the
deprecated names is what ``ollama create`` says of them.
"""

from __future__ import annotations

from enum import StrEnum


class ParameterType(StrEnum):
    """The type of a parameter's value, in the words of Ollama's errors."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    TEXTS = "strings"


PARAMETERS: dict[str, ParameterType] = {
    "num_keep": ParameterType.INT,
    "seed": ParameterType.INT,
    "num_predict": ParameterType.INT,
    "draft_num_predict": ParameterType.INT,
    "top_k": ParameterType.INT,
    "top_p": ParameterType.FLOAT,
    "min_p": ParameterType.FLOAT,
    "typical_p": ParameterType.FLOAT,
    "repeat_last_n": ParameterType.INT,
    "temperature": ParameterType.FLOAT,
    "repeat_penalty": ParameterType.FLOAT,
    "presence_penalty": ParameterType.FLOAT,
    "frequency_penalty": ParameterType.FLOAT,
    "stop": ParameterType.TEXTS,
    "num_ctx": ParameterType.INT,
    "num_batch": ParameterType.INT,
    "num_gpu": ParameterType.INT,
    "main_gpu": ParameterType.INT,
    "use_mmap": ParameterType.BOOL,
    "num_thread": ParameterType.INT,
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
