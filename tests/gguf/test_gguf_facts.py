"""Facts about a model are those that Ollama puts into its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_files import tensor, tiny_gguf, tiny_model, tiny_shards

from mbuild.gguf.facts import FILE_TYPES, ModelKind, describe, file_type_name, human_number
from mbuild.gguf.model import KV
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.shards import merge
from mbuild.gguf.types import GGMLType, ValueType


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (639, "639"),
        (999, "999"),
        (1000, "1K"),
        (1499, "1K"),
        (73_920, "74K"),
        (999_999, "1000K"),
        (1_000_000, "1M"),
        (1_340_000, "1.34M"),
        (125_000_000, "125M"),
        (268_098_176, "268.10M"),
        (500_550_000, "500.55M"),
        (1_000_000_000, "1B"),
        (2_850_000_000, "2.9B"),
        (7_000_000_000, "7B"),
        (8_030_261_248, "8.0B"),
        (28_550_000_000, "28.6B"),
        (1_000_000_000_000, "1000B"),
    ],
)
def test_counts_are_written_as_ollama_does(count: int, text: str) -> None:
    """Two decimals for millions, one for billions, none for whole numbers; no unit above B."""
    assert human_number(count) == text


def test_file_types() -> None:
    """A number without a name, and no number at all, are unknown."""
    assert file_type_name(15) == "Q4_K_M"
    assert file_type_name(0) == "F32"
    for odd in (None, 5, -1, 1024, 2**32, "15", 15.0, True):
        assert file_type_name(odd) == "unknown", odd


@pytest.mark.oracle
def test_file_type_names_are_those_of_llama_cpp() -> None:
    """Names agree with the gguf package's, but for the number that Ollama uses its own way."""
    gguf = pytest.importorskip("gguf")
    theirs = {
        int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in gguf.LlamaFileType
    }
    for number, name in FILE_TYPES.items():
        if number in theirs:
            assert theirs[number] == name
    assert FILE_TYPES[4] == "MXFP4"
    assert 4 not in theirs


def test_a_model_is_described(tmp_path: Path) -> None:
    """Family, sizes, lengths and the chat template come from the metadata and the tensors."""
    template = "{{ messages }}"
    extra = {"tokenizer.chat_template": template}
    facts = describe(open_gguf(tiny_gguf(tmp_path / "m.gguf", metadata=extra)))
    assert facts.kind is ModelKind.MODEL
    assert (facts.architecture, facts.families) == ("llama", ("llama",))
    assert (facts.parameter_count, facts.parameter_size) == (64 * 4 + 64 * 3 + 64 + 64 + 63, "639")
    assert (facts.file_type, facts.context_length, facts.embedding_length) == ("F16", 512, 64)
    assert (facts.chat_template, facts.capabilities) == (template, ("completion",))


def test_a_bare_model_is_described() -> None:
    """What the metadata does not say is unknown, zero or absent."""
    facts = describe(
        tiny_model(
            metadata={
                "general.file_type": None,
                "llama.context_length": None,
                "llama.embedding_length": "64",
            },
            tensors=[tensor("t", (1000, 1000), GGMLType.Q4_0) for _ in range(0)],
        )
    )
    assert (facts.file_type, facts.context_length, facts.embedding_length) == ("unknown", 0, 0)
    assert (facts.parameter_size, facts.chat_template) == ("0", None)


@pytest.mark.parametrize(
    ("kind", "metadata", "expected"),
    [
        ("model", {}, ModelKind.MODEL),
        ("model", {"general.type": "model"}, ModelKind.MODEL),
        ("model", {"general.type": "adapter"}, ModelKind.ADAPTER),
        ("model", {"general.type": "projector"}, ModelKind.PROJECTOR),
        ("model", {"general.type": "mmproj"}, ModelKind.PROJECTOR),
        ("model", {"llama.vision.block_count": 4}, ModelKind.MODEL),
        (
            "model",
            {"llama.vision.block_count": 4, "llama.block_count": None},
            ModelKind.PROJECTOR,
        ),
        ("adapter", {}, ModelKind.ADAPTER),
        ("projector", {}, ModelKind.PROJECTOR),
        ("projector", {"general.type": None}, ModelKind.PROJECTOR),
        (
            "projector",
            {"general.type": None, "clip.vision.block_count": None},
            ModelKind.PROJECTOR,
        ),
        ("projector", {"general.type": None, "clip.block_count": 12}, ModelKind.MODEL),
    ],
)
def test_kinds(kind: str, metadata: dict[str, Any], expected: ModelKind) -> None:
    """The declared type decides; an encoder without text layers is a projector."""
    assert describe(tiny_model(kind=kind, metadata=metadata)).kind is expected


@pytest.mark.parametrize(
    ("kind", "metadata", "expected"),
    [
        ("model", {"llama.pooling_type": 0}, ("embedding",)),
        ("model", {"llama.vision.block_count": 4}, ("completion", "vision")),
        (
            "model",
            {"llama.vision.block_count": 4, "llama.audio.block_count": 2},
            ("completion", "vision", "audio"),
        ),
        ("projector", {}, ("vision",)),
        ("projector", {"clip.has_audio_encoder": True}, ("vision", "audio")),
        ("projector", {"clip.has_audio_encoder": False}, ("vision",)),
        ("adapter", {}, ()),
    ],
)
def test_capabilities(kind: str, metadata: dict[str, Any], expected: tuple[str, ...]) -> None:
    """What the metadata shows, in the order in which Ollama lists it."""
    assert describe(tiny_model(kind=kind, metadata=metadata)).capabilities == expected


def test_a_merged_model_counts_all_shards(tmp_path: Path) -> None:
    """The parameters of a split model are those of all its files."""
    shards = [open_gguf(p) for p in tiny_shards(tmp_path, "m", [2, 3])]
    assert describe(merge(shards)) == describe(tiny_model())


def test_wrongly_typed_values_do_not_break_the_description() -> None:
    """Text where a number belongs is as good as nothing."""
    odd = {
        "general.file_type": "F16",
        "general.type": 5,
        "llama.context_length": KV("llama.context_length", ValueType.FLOAT32, 1.5),
        "tokenizer.chat_template": ["a", "b"],
    }
    facts = describe(tiny_model(metadata=odd))
    assert (facts.kind, facts.file_type) == (ModelKind.MODEL, "unknown")
    assert (facts.context_length, facts.chat_template) == (0, None)
