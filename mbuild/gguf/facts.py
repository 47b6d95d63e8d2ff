"""What Ollama says about a model in its config and in ``show``, from the GGUF alone.

The rules are those of Ollama 0.32 (fs/ggml, format.HumanNumber, the detection of
projectors in server/create.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import MIXES, GGMLType

if TYPE_CHECKING:
    from mbuild.gguf.model import Model


class ModelKind(StrEnum):
    """What a GGUF file is in a model, hence its layer's media type."""

    MODEL = "model"
    PROJECTOR = "projector"
    ADAPTER = "adapter"


FILE_TYPES: dict[int, str] = {
    **{4: "MXFP4", 39: "NVFP4"},
    **{number: name for name, (number, _) in MIXES.items()},
    **{type_.file_type: type_.name for type_ in GGMLType if type_.file_type is not None},
}
"""``general.file_type`` to the name that Ollama gives it (fs/ggml/type.go; 4 is its own use
of a number that llama.cpp retired, the IQ, TQ and later types are named since 0.34)."""

UNKNOWN = "unknown"

PROJECTOR_TYPES = frozenset({"projector", "mmproj"})


class HasDims(Protocol):
    """A tensor as far as counting its values goes."""

    @property
    def dims(self) -> tuple[int, ...]:
        """The tensor's dimensions."""


class HasMetadata(Protocol):
    """What facts are taken from: a file's header, or a (merged) model."""

    @property
    def tensors(self) -> Sequence[HasDims]:
        """All tensors."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or the default."""


class ModelFacts(NamedTuple):
    """Facts about one GGUF.

    ``parameter_size`` is the count as Ollama writes it (``1.34M``),
    ``file_type`` the name of ``general.file_type``; a length that the file
    does not give is 0. ``capabilities`` are those that the metadata shows;
    tools, insert and thinking depend on the template and are decided there.
    ``senses`` are what the encoders of a projector take: images, sound.
    """

    kind: ModelKind
    architecture: str
    families: tuple[str, ...]
    parameter_count: int
    parameter_size: str
    file_type: str
    context_length: int
    embedding_length: int
    chat_template: str | None
    capabilities: tuple[str, ...]
    senses: tuple[str, ...] = ()


def describe(model: HasMetadata) -> ModelFacts:
    """The facts of a file or a model; of a split model, pass the merged one."""
    architecture = model.get("general.architecture")
    architecture = architecture if isinstance(architecture, str) else UNKNOWN
    count = sum(prod(tensor.dims) for tensor in model.tensors)
    template = model.get("tokenizer.chat_template")
    kind = _kind(model, architecture)
    return ModelFacts(
        kind=kind,
        architecture=architecture,
        families=(architecture,),
        parameter_count=count,
        parameter_size=human_number(count),
        file_type=file_type_name(model.get("general.file_type")),
        context_length=_number(model, f"{architecture}.context_length"),
        embedding_length=_number(model, f"{architecture}.embedding_length"),
        chat_template=template if isinstance(template, str) else None,
        capabilities=_capabilities(model, architecture, kind),
        senses=tuple(
            word
            for encoder, word in _ENCODERS.items()
            if model.get(f"{architecture}.has_{encoder}_encoder") is True
        ),
    )


_ENCODERS = {"vision": "images", "audio": "sound"}


def human_number(count: int) -> str:
    """A count as Ollama writes it: 999, 74K, 1.34M, 268.10M, 8.0B, 7B.

    Whole millions and billions lose their decimals; there is no unit above B
    (Ollama's format.HumanNumber).
    """
    for unit, letter, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            number = count / unit
            return f"{number:.{0 if number.is_integer() else decimals}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def file_type_name(value: object) -> str:
    """The name of a ``general.file_type``; ``unknown`` if absent or without a name.

    Ollama takes the value 0 for an absent one and calls an F32 model unknown;
    here it is F32.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        return UNKNOWN
    return FILE_TYPES.get(value, UNKNOWN)


def _number(model: HasMetadata, key: str) -> int:
    value = model.get(key, 0)
    return value if isinstance(value, int) and value > 0 else 0


def _kind(model: HasMetadata, architecture: str) -> ModelKind:
    declared = model.get("general.type")
    if declared == "adapter":
        return ModelKind.ADAPTER
    if declared in PROJECTOR_TYPES or _is_bare_encoder(model, architecture):
        return ModelKind.PROJECTOR
    return ModelKind.MODEL


def _is_bare_encoder(model: HasMetadata, architecture: str) -> bool:
    """An image or audio encoder without text layers."""
    if _number(model, f"{architecture}.block_count"):
        return False
    return architecture == "clip" or _number(model, f"{architecture}.vision.block_count") > 0


def _capabilities(model: HasMetadata, architecture: str, kind: ModelKind) -> tuple[str, ...]:
    if kind is ModelKind.ADAPTER:
        return ()
    found: list[str] = []
    if kind is ModelKind.MODEL:
        pooled = model.get(f"{architecture}.pooling_type") is not None
        found.append("embedding" if pooled else "completion")
    if kind is ModelKind.PROJECTOR or model.get(f"{architecture}.vision.block_count") is not None:
        found.append("vision")
    audio = model.get(f"{architecture}.audio.block_count") is not None
    audio = audio or model.get(f"{architecture}.has_audio_encoder") is True
    # Of Gemma 3n's Ollama says nothing: no runtime hears with it.
    if audio and model.get(f"{architecture}.vision.projector_type") != "gemma3nv":
        found.append("audio")
    return tuple(found)


def chat_template_of(model: Model) -> dict[str, Any]:
    """A model's chat template and the tokens around a text, as JSON; empty without one."""
    text = model.read("tokenizer.chat_template")
    if not isinstance(text, str) or not text:
        return {}
    return {
        "text": text,
        "bos": _token(model, "bos"),
        "eos": _token(model, "eos"),
        "adds_bos": model.read("tokenizer.ggml.add_bos_token") is not False,
    }


def _token(model: Model, which: str) -> str:
    """The text of the token that begins or ends a sequence, or nothing."""
    number = model.read(f"tokenizer.ggml.{which}_token_id")
    tokens = model.read("tokenizer.ggml.tokens")
    known = isinstance(number, int) and isinstance(tokens, list) and 0 <= number < len(tokens)
    return str(tokens[number]) if known else ""
