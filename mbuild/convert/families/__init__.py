"""The families that can be converted: each module here has their rows in ``ROWS``.

A new family is a new module (or one more row in one): nothing else names it. A conversion loads
the modules it needs, first those that have the name which is looked for as their beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.errors import UnsupportedError
from mbuild.core.modules import names_in

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

REFUSED: Mapping[str, tuple[str, str]] = {
    "UltravoxModel": (
        "it has no text model of its own",
        "name the Llama that it was trained with in FROM, and its projector in a second FROM",
    ),
    **dict.fromkeys(
        ("DeepseekV4DSparkModel",),
        _DRAFT,
    ),
    **dict.fromkeys(
        (
            *("Lfm25AudioTokenizer", "WavTokenizerDec", "PocketTTSModel"),
            "Qwen3TTSForConditionalGeneration",
        ),
        _SOUND,
    ),
}
"""Classes of llama.cpp's converter that have no row, with the reason and what to do."""


@cache
def _modules() -> tuple[str, ...]:
    return tuple(names_in(__path__[0]))


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


def of_gguf(arch: object, *, experts: bool = False) -> Family | None:
    """The first row of GGUF's architecture: the family that the others of that name are like.

    Of a model with ``experts`` the first one that has such (Mixtral, of Llama's architecture).
    """
    same = (row for row in rows(str(arch)) if row.gguf == arch)
    if not experts:
        return next(same, None)
    every = list(same)
    return next((row for row in every if row.stacks), every[0] if every else None)


def by_name() -> Mapping[str, Family]:
    """Every class name that config.json may have, with its row."""
    return {name: row for row in rows() for name in row.names}


GENERIC = {"llama": "LlamaForCausalLM"}
"""Families that a class without a row can be converted as (``--as``), and whose row counts."""

_ENDINGS = (
    *("ForCausalLM", "ForConditionalGeneration", "ForSequenceClassification", "ForMaskedLM"),
    *("LMHeadModel", "Model"),
)
_NEAR, _NEAR_WHOLE = 0.8, 0.93


def find(name: str, like: str | None = None) -> Family:
    """The row of a class, or of the family ``like`` where the class has none.

    Raises :class:`UnsupportedError` with the names that are really near, and for a class that
    has a row of its own and is to be converted as another family.
    """
    found = next((row for row in rows(name) if name in row.names), None)
    if found is not None and like is not None:
        raise UnsupportedError(
            f"--as {like}: {name} has a family of its own, {found.gguf}", hint="leave --as out"
        )
    if found is not None:
        return found
    if like is not None:
        return find(GENERIC[like])
    if name in REFUSED:
        reason, hint = REFUSED[name]
        raise UnsupportedError(f"checkpoints of {name!r} are not supported: {reason}", hint=hint)
    from mbuild.core.suggest import did_you_mean

    nearest = _near(name)
    otherwise = (
        "the families that are supported are listed in docs/convert.md; a model that computes as a"
        " Llama does can be converted with --as llama, and any that a llama.cpp knows with"
        " --converter PATH"
    )
    raise UnsupportedError(
        f"checkpoints of {name[:100]!r} are not supported", hint=did_you_mean(nearest, otherwise)
    )


def _near(name: str) -> list[str]:
    """Up to three names that are nearly the same, whole or without the usual ending."""
    from mbuild.core.suggest import likeness

    name, found = name[:100], list[tuple[float, str]]()
    for known in by_name():
        own = likeness(_own_part(name), _own_part(known))
        whole = likeness(name.lower(), known.lower())
        if own >= _NEAR or whole >= _NEAR_WHOLE:
            found.append((-max(own, whole), known))
    return [known for _, known in sorted(found)[:3]]


def _own_part(name: str) -> str:
    end = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(end).lower()
