"""The families that can be converted: each module here has their rows in ``ROWS``.

A new family is a new module (or one more row in one): nothing else names it. A conversion loads
the modules it needs, first those that have the name which is looked for as their beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import HFConfig
    from mbuild.convert.rows.row import Family


_DRAFT = (
    "it is a draft model, whose tokenizer is that of the model that it drafts for",
    "convert it with llama.cpp's convert_hf_to_gguf.py and --target-model-dir, and name the file"
    " with DRAFT",
)
_SOUND = ("it makes sound, not text", "convert it with llama.cpp's convert_hf_to_gguf.py")
_NOT_YET = ("no row describes it yet", "convert it with llama.cpp's convert_hf_to_gguf.py")

REFUSED: Mapping[str, tuple[str, str]] = {
    "UltravoxModel": (
        "it has no text model of its own",
        "name the Llama that it was trained with in FROM, and its projector in a second FROM",
    ),
    **dict.fromkeys(
        (
            *("DFlashDraftModel", "DFlash2DraftModel", "DSparkDraftModel", "DSparkSpeculator"),
            *("Qwen3DSparkModel", "Gemma4DSparkModel", "Lfm2DSparkDraftModel", "LingDSparkModel"),
            *("DeepseekV4DSparkModel", "MuseGlimmerAssistantModel"),
            *("Eagle3DraftModel", "Eagle3Speculator", "Eagle3LlamaForCausalLM"),
            "LlamaForCausalLMEagle3",
        ),
        _DRAFT,
    ),
    **dict.fromkeys(
        (
            *("Lfm25AudioTokenizer", "WavTokenizerDec", "PocketTTSModel"),
            "Qwen3TTSForConditionalGeneration",
        ),
        _SOUND,
    ),
    **dict.fromkeys(
        (
            *("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"),
            *("Dots3NoteTextForCausalLM", "HYV4ForCausalLM"),
            "GraniteSwitchForCausalLM",
            *("Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration"),
        ),
        _NOT_YET,
    ),
}
"""Classes of llama.cpp's converter that have no row, with the reason and what to do."""


@cache
def _modules() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def rows(like: str = "") -> Iterator[Family]:
    """All rows, those first that stand in a module whose name ``like`` begins with.

    A module is loaded when its first row is asked for.
    """
    plain = like.lower().replace("_", "").replace("-", "")
    likely = [name for name in _modules() if plain.startswith(name.replace("_", ""))]
    likely.sort(key=len, reverse=True)
    for name in (*likely, *(name for name in _modules() if name not in likely)):
        yield from import_module(f"{__name__}.{name}").ROWS


def config_class(model_type: object) -> HFConfig:
    """The defaults of a ``model_type``, none for one that transformers does not have.

    A checkpoint may name another family's class than its ``model_type`` has.
    """
    if not isinstance(model_type, str) or not model_type:
        return NO_HF_CONFIG
    return next((r.hf for r in rows(model_type) if r.hf.model_type == model_type), NO_HF_CONFIG)


def of_gguf(arch: object) -> Family | None:
    """The first row of GGUF's architecture: the family that the others of that name are like."""
    return next((row for row in rows(str(arch)) if row.gguf == arch), None)


def by_name() -> Mapping[str, Family]:
    """Every class name that config.json may have, with its row."""
    return {name: row for row in rows() for name in row.names}


def find(name: str) -> Family:
    """The row of a class; raises :class:`UnsupportedError` with the nearest names."""
    found = next((row for row in rows(name) if name in row.names), None)
    if found is not None:
        return found
    if name in REFUSED:
        reason, hint = REFUSED[name]
        raise UnsupportedError(f"checkpoints of {name!r} are not supported: {reason}", hint=hint)
    from mbuild.core.suggest import did_you_mean, near

    hint = did_you_mean(
        near(name, by_name(), 5), "the families that are supported are listed in docs/convert.md"
    )
    raise UnsupportedError(f"checkpoints of {name[:100]!r} are not supported", hint=hint)
