"""Checkpoints become the GGUF models that llama.cpp's converter makes of them."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import files_of, write_checkpoint
from reads_counted import count_reads, in_ranges

from mbuild.convert.checkpoint import Checkpoint, open_checkpoint
from mbuild.convert.convert import BareModel, convert_body
from mbuild.convert.read.dtypes import OutType
from mbuild.gguf.model import KV, Tensor
from mbuild.gguf.types import GGMLType, ValueType

DATA = Path(__file__).parents[1] / "data" / "convert"
CASES = sorted(path.stem for path in DATA.glob("*.json"))


def spec(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def opened(directory: Path, case: dict[str, Any]) -> Checkpoint:
    return open_checkpoint("tiny", write_checkpoint(directory / "tiny", case))


def described(kv: KV) -> list[Any]:
    kind = kv.type.name + (f"/{kv.element.name}" if kv.element is not None else "")
    value = kv.value
    if "FLOAT32" in kind:
        value = np.float32(value).tolist()
    return [kv.key, kind, value]


def digest(tensor: Tensor) -> str:
    data = memoryview(tensor.load()).cast("B")
    assert data.nbytes == tensor.nbytes
    return hashlib.sha256(data).hexdigest()


def listed(body: BareModel) -> list[str]:
    lines = []
    for tensor in body.tensors:
        hashed = hashlib.sha256()
        for data in in_ranges(tensor):
            hashed.update(data)
        dims = map(str, tensor.dims)
        lines.append(" ".join([tensor.name, tensor.type.name, hashed.hexdigest()[:12], *dims]))
    return lines


@pytest.mark.parametrize("name", CASES)
def test_a_family_equals_the_reference(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys with types, values and order; tensors with names, order, types, dims and bytes.

    They are read in ranges, as in a build, and no byte of the checkpoint twice.
    """
    case, counted = spec(name), count_reads(monkeypatch)
    checkpoint = opened(tmp_path, case)
    body = convert_body(checkpoint)
    assert body.hyper.arch == case["arch"]
    assert [described(kv) for kv in (*body.early, *body.keys)] == case["keys"]
    assert listed(body) == case["gguf"]
    assert counted.again(checkpoint.tensors) == {}
    turn = ("f32", "f16", "bf16")[CASES.index(name) % 3]
    for outtype in (turn, "q8_0"):
        expected = case["digests"][outtype]
        tensors = [
            [t.name, list(t.dims), t.type.name, digest(t)[:16]]
            for t in convert_body(checkpoint, OutType(outtype)).tensors
        ]
        assert hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:16] == expected, outtype


def test_nothing_is_read_before_a_tensor_is_loaded(tmp_path: Path) -> None:
    """A conversion is decided from headers alone: it succeeds with the weights cut off."""
    checkpoint = opened(tmp_path, spec("llama"))
    (shard,) = {t.shard.path for t in checkpoint.tensors}
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 4096)
    body = convert_body(checkpoint)
    assert len(body.tensors) == len(spec("llama")["gguf"])
    from mbuild.core.errors import FormatError

    with pytest.raises(FormatError, match="changed"):
        body.tensors[0].load()


def test_a_tensor_loads_twice_and_from_threads(tmp_path: Path) -> None:
    """Loading is repeatable and has no shared state."""
    from concurrent.futures import ThreadPoolExecutor

    body = convert_body(opened(tmp_path, spec("deepseek_v3")), OutType.Q8_0)
    first = [digest(t) for t in body.tensors]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, body.tensors)) == first


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("BF16", "F16", OutType.BF16),
        ("F16", "BF16", OutType.F16),
        ("F32", "BF16", OutType.BF16),
        ("F32", "F32", OutType.F16),
        ("F64", "F64", OutType.F16),
    ],
)
def test_auto_is_the_first_half_precision_matrix(
    first: str, second: str, expected: OutType, tmp_path: Path
) -> None:
    """Vectors and other types do not decide; without a half-precision matrix it is F16."""
    case = spec("llama")
    shard = case["tensors"]["model.safetensors"]
    for name, described_ in shard.items():
        if " " in described_.partition(" ")[2]:
            shard[name] = described_.replace("BF16", second)
    shard["lm_head.weight"] = shard["lm_head.weight"].replace(second, first)
    if "F64" in (first, second):
        pytest.importorskip("numpy")
        shard.update({n: d.replace("F64", "F32") for n, d in shard.items()})
    assert convert_body(opened(tmp_path, case)).hyper.outtype is expected


def test_rows_that_are_no_blocks_stay_f16(tmp_path: Path) -> None:
    """Q8_0 needs rows of 32 values; other matrices become F16, vectors F32."""
    case = spec("llama")
    config = case["files"]["config.json"]
    config["intermediate_size"] = 80
    shard = case["tensors"]["model.safetensors"]
    for name, described_ in shard.items():
        shard[name] = described_.replace(" 96", " 80")
    types = {t.name: t.type for t in convert_body(opened(tmp_path, case), OutType.Q8_0).tensors}
    assert types["blk.0.ffn_down.weight"] is GGMLType.F16
    assert types["blk.0.ffn_up.weight"] is GGMLType.Q8_0
    assert types["blk.0.attn_norm.weight"] is GGMLType.F32


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Tensors of the second shard come after all of the first, whatever their names."""
    case = spec("llama")
    shard = case["tensors"].pop("model.safetensors")
    names = sorted(shard)
    halves = names[1::2], names[::2]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, part in zip(files, halves, strict=True):
        case["tensors"][file] = {name: shard[name] for name in part}
    weight_map = {n: f for f, part in zip(files, halves, strict=True) for n in part}
    case["files"]["model.safetensors.index.json"] = {"weight_map": weight_map}
    checkpoint = opened(tmp_path, case)
    assert [t.name for t in checkpoint.tensors] == [*halves[0], *halves[1]]
    assert sorted(listed(convert_body(checkpoint))) == sorted(case["gguf"])


def test_defaults_are_those_of_the_model_type(tmp_path: Path) -> None:
    """A class name with another family's model_type gets that one's defaults, as in transformers;
    an unknown model_type gets none."""
    found = {}
    for model_type in ("llama", "mistral", "homemade"):
        case = spec("llama_sparse")
        case["files"]["config.json"]["model_type"] = model_type
        case["files"]["config.json"]["num_key_value_heads"] = 4
        body = convert_body(opened(tmp_path / model_type, case))
        found[model_type] = {kv.key.removeprefix("llama."): kv.value for kv in body.keys}
    assert found["llama"]["context_length"] == 2048
    assert found["mistral"]["context_length"] == 131072
    assert "context_length" not in found["homemade"]
    assert "attention.key_length" not in found["homemade"]


def test_per_head_norms_of_stablelm_are_stacked(tmp_path: Path) -> None:
    """One norm a head becomes a matrix with a row a head, as F32."""
    case = spec("stablelm")
    shard = case["tensors"]["model.safetensors"]
    for layer in range(2):
        for letter, count in (("q", 4), ("k", 2)):
            for head in range(count):
                base = f"model.layers.{layer}.self_attn.{letter}_layernorm.norms.{head}"
                shard[f"{base}.weight"] = "BF16 16"
    tensors = {t.name: t for t in convert_body(opened(tmp_path, case)).tensors}
    assert tensors["blk.1.attn_q_norm.weight"].dims == (16, 4)
    assert tensors["blk.0.attn_k_norm.weight"].dims == (16, 2)
    assert tensors["blk.0.attn_k_norm.weight"].type is GGMLType.F32


def test_falcon_7b_has_one_key_value_head_without_saying_so(tmp_path: Path) -> None:
    """multi_query decides where num_kv_heads is missing or what transformers writes for it."""
    for given in (None, 4):
        case = spec("falcon_7b")
        config = case["files"]["config.json"]
        del config["num_kv_heads"]
        if given is not None:
            config["num_kv_heads"] = given
        body = convert_body(opened(tmp_path / str(given), case))
        assert [described(kv) for kv in body.keys] == case["keys"]
        assert listed(body) == case["gguf"]


def test_a_reranker_of_biases_that_are_not_zero_is_refused(tmp_path: Path) -> None:
    """Cohere 2 leaves zero biases out and refuses others."""
    from mbuild.core.errors import UnsupportedError

    case = spec("cohere2")
    case["tensors"]["model.safetensors"]["model.norm.bias"] = "BF16 64"
    with pytest.raises(UnsupportedError, match="not zero"):
        convert_body(opened(tmp_path, case))
    path = tmp_path / "tiny" / "model.safetensors"
    raw = path.read_bytes()
    checkpoint = open_checkpoint("tiny", files_of(tmp_path / "tiny"))
    bias = next(t for t in checkpoint.tensors if t.name == "model.norm.bias")
    path.write_bytes(raw[: bias.offset] + bytes(128) + raw[bias.offset + 128 :])
    again = convert_body(open_checkpoint("tiny", files_of(tmp_path / "tiny")))
    assert listed(again) == case["gguf"]


def test_the_whole_model_has_general_and_tokenizer_entries(tmp_path: Path) -> None:
    """Order: architecture, general, the family's, quantization version, tokenizer."""
    from mbuild.convert.convert import convert

    case = copy.deepcopy(spec("gemma"))
    case["files"]["config.json"]["vocab_size"] = 80
    directory = tmp_path / "tiny"
    write_checkpoint(directory, case)
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(80))
    model = convert(open_checkpoint("tiny", files_of(directory)))
    keys = [kv.key for kv in model.metadata]
    assert keys[:2] == ["general.architecture", "general.type"]
    last_own = keys.index("general.file_type")
    assert keys[last_own + 1] == "general.quantization_version"
    assert keys[last_own + 2] == "tokenizer.ggml.model"
    assert len(keys) == len(set(keys))
    tokens = next(kv for kv in model.metadata if kv.key == "tokenizer.ggml.tokens")
    assert tokens.element is ValueType.STRING and len(tokens.value) == 80


def sentencepiece_model(count: int) -> bytes:
    """A SentencePiece protobuf: unknown, two control pieces, then normal ones."""
    import struct

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    out = b""
    for number in range(count):
        kind = {0: 2, 1: 3, 2: 3}.get(number, 1)
        text = f"p{number}".encode()
        out += field(1, field(1, text) + b"\x15" + struct.pack("<f", -number) + bytes([0x18, kind]))
    trainer = bytes([3 << 3, 1])
    return out + field(2, trainer)
