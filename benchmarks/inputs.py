"""Writes the inputs of the benchmarks; run by ``common.generate`` in a process of its own.

python benchmarks/inputs.py checkpoint FOLDER [LAYERS [BF16|F16|F32]]
python benchmarks/inputs.py moe FOLDER EXPERTS
python benchmarks/inputs.py family FOLDER NAME
python benchmarks/inputs.py quantized FOLDER NAME
python benchmarks/inputs.py gguf FILE MEGABYTES
python benchmarks/inputs.py store FOLDER MODELS
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCABULARY = 2048, 16, 32, 8, 3072, 32000
"""A Llama of 601 million weights: 1.2 GB in BF16, three shards."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tensors(layers: int) -> dict[str, list[int]]:
    """Names and shapes, in the order of the layers."""
    narrow = HIDDEN // HEADS * KV_HEADS
    layer = {
        "input_layernorm": [HIDDEN],
        "self_attn.q_proj": [HIDDEN, HIDDEN],
        "self_attn.k_proj": [narrow, HIDDEN],
        "self_attn.v_proj": [narrow, HIDDEN],
        "self_attn.o_proj": [HIDDEN, HIDDEN],
        "post_attention_layernorm": [HIDDEN],
        "mlp.gate_proj": [FFN, HIDDEN],
        "mlp.up_proj": [FFN, HIDDEN],
        "mlp.down_proj": [HIDDEN, FFN],
    }
    return {
        "model.embed_tokens.weight": [VOCABULARY, HIDDEN],
        **{
            f"model.layers.{number}.{name}.weight": shape
            for number in range(layers)
            for name, shape in layer.items()
        },
        "model.norm.weight": [HIDDEN],
        "lm_head.weight": [VOCABULARY, HIDDEN],
    }


def weights(random: np.random.Generator, shape: list[int], dtype: str = "BF16") -> Any:
    """Normal weights: around 1 for norms, else of the size that trained matrices have."""
    values = random.standard_normal(shape, dtype=np.float32)
    values *= np.float32(0.02)
    if len(shape) == 1:
        values += np.float32(1)
    if dtype != "BF16":
        return values.astype("<f2" if dtype == "F16" else "<f4")
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_checkpoint(folder: Path, layers: int = LAYERS, dtype: str = "BF16") -> None:
    """A Hugging Face checkpoint with a SentencePiece tokenizer, of 29 million weights a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    random = np.random.default_rng(0)
    shapes, places = tensors(layers), {}
    names = list(shapes)
    cuts = [cut for cut in (names[:40], names[40:95], names[95:]) if cut]
    for number, shard in enumerate(cuts, 1):
        file = f"model-{number:05}-of-{len(cuts):05}.safetensors"
        places.update(dict.fromkeys(shard, file))
        # Within a file by name, as the safetensors package lays tensors of one type.
        write_shard(folder / file, {name: shapes[name] for name in sorted(shard)}, random, dtype)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


MOE_HIDDEN, MOE_FFN = 4096, 8192
"""Sizes of a mixture of experts, of which each matrix has 64 MiB in BF16."""


def write_moe(folder: Path, experts: int) -> None:
    """A Mixtral of one layer: three tensors of so many experts, in a file with holes.

    Its weights are zeros, which the disk need not hold, but for some numbers in each 4 MiB:
    what is equal would be quantized once. Zeros change the time, and not the memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        **CONFIG,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": MOE_HIDDEN,
        "intermediate_size": MOE_FFN,
        "num_hidden_layers": 1,
        "num_local_experts": experts,
        "num_experts_per_tok": 2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    narrow = MOE_HIDDEN // HEADS * KV_HEADS
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": [VOCABULARY, MOE_HIDDEN],
        f"{layer}input_layernorm.weight": [MOE_HIDDEN],
        f"{layer}self_attn.q_proj.weight": [MOE_HIDDEN, MOE_HIDDEN],
        f"{layer}self_attn.k_proj.weight": [narrow, MOE_HIDDEN],
        f"{layer}self_attn.v_proj.weight": [narrow, MOE_HIDDEN],
        f"{layer}self_attn.o_proj.weight": [MOE_HIDDEN, MOE_HIDDEN],
        f"{layer}post_attention_layernorm.weight": [MOE_HIDDEN],
        f"{layer}block_sparse_moe.gate.weight": [experts, MOE_HIDDEN],
        "model.norm.weight": [MOE_HIDDEN],
    }
    for number in range(experts):
        of_expert = f"{layer}block_sparse_moe.experts.{number}."
        shapes[f"{of_expert}w1.weight"] = shapes[f"{of_expert}w3.weight"] = [MOE_FFN, MOE_HIDDEN]
        shapes[f"{of_expert}w2.weight"] = [MOE_HIDDEN, MOE_FFN]
    shapes["lm_head.weight"] = [VOCABULARY, MOE_HIDDEN]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header := shard_header(shapes))
        size = len(header) + sum(2 * int(np.prod(shape)) for shape in shapes.values())
        file.truncate(size)
        for number, at in enumerate(range(len(header), size - 8, 4 << 20)):
            digits = np.array([number >> 7 * place & 127 for place in range(4)], np.float32)
            file.seek(at)
            file.write((digits.view(np.uint32) >> 16).astype(np.uint16).data)


def shard_header(shapes: dict[str, list[int]], dtype: str = "BF16") -> bytes:
    """What a safetensors file begins with."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = (4 if dtype == "F32" else 2) * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def write_shard(
    path: Path, shapes: dict[str, list[int]], random: np.random.Generator, dtype: str
) -> None:
    """One safetensors file."""
    with path.open("wb") as file:
        file.write(shard_header(shapes, dtype))
        for shape in shapes.values():
            file.write(weights(random, shape, dtype).data)


# A SentencePiece model is a protocol buffer: sentencepiece_model.proto.


def _field(number: int, wire: int, payload: bytes) -> bytes:
    length = _varint(len(payload)) if wire == 2 else b""
    return _varint(number << 3 | wire) + length + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _piece(text: str, score: float, kind: int) -> bytes:
    body = _field(1, 2, text.encode()) + _field(2, 5, struct.pack("<f", score))
    return _field(1, 2, body + _field(3, 0, _varint(kind)))


def _words(count: int) -> list[str]:
    """Letters first, then ever longer combinations of them, half of them at a word's start."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["\u2581", *letters]
    known, position = set(words), 0
    while len(words) < count:
        for letter in letters:
            if words[position] + letter not in known:
                words.append(words[position] + letter)
                known.add(words[-1])
        position += 1
    return words[:count]


def sentencepiece_model() -> bytes:
    """A BPE model with byte fallback and as many pieces as Llama 2's: 32,000."""
    pieces = [_piece("<unk>", 0.0, 2), _piece("<s>", 0.0, 3), _piece("</s>", 0.0, 3)]
    pieces += [_piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = _words(VOCABULARY - len(pieces))
    pieces += [_piece(word, -float(rank), 1) for rank, word in enumerate(words)]
    ids = b"".join(_field(40 + number, 0, _varint(number)) for number in range(3))
    trainer = _field(3, 0, _varint(2)) + _field(35, 0, _varint(1)) + ids
    normalizer = _field(1, 2, b"identity") + _field(3, 0, _varint(1)) + _field(4, 0, _varint(0))
    return b"".join(pieces) + _field(2, 2, trainer) + _field(3, 2, normalizer)


def write_gguf(path: Path, megabytes: int) -> None:
    """A GGUF file of about so many megabytes of F16, with a vocabulary of 32,000."""
    from mbuild.gguf.model import KV, Model, Tensor
    from mbuild.gguf.types import GGMLType, ValueType
    from mbuild.gguf.writer import write

    tokens = ["<unk>", "<s>", "</s>", *_words(VOCABULARY - 3)]
    if megabytes < 10:
        tokens = tokens[:2000]
    rows = 256 if megabytes < 10 else 8192
    count = max(1, round(megabytes * 1e6 / (rows * 1024 * 2)))
    random = np.random.default_rng(1)

    def load() -> Any:
        return random.integers(0, 0x7C00, rows * 1024, dtype=np.uint16)

    names = ["token_embd.weight", *(f"blk.{number}.ffn_up.weight" for number in range(count - 1))]
    metadata = (
        KV("general.architecture", ValueType.STRING, "llama"),
        KV("llama.block_count", ValueType.UINT32, count),
        KV("general.file_type", ValueType.UINT32, 1),
        KV("tokenizer.ggml.model", ValueType.STRING, "llama"),
        KV("tokenizer.ggml.tokens", ValueType.ARRAY, tokens, ValueType.STRING),
    )
    made = tuple(Tensor(name, (1024, rows), GGMLType.F16, load) for name in names)
    with path.open("wb") as file:
        write(Model(metadata, made), lambda data: file.write(data) and None)


def fill_store(folder: Path, count: int) -> None:
    """Models of their own system message each, made from the one that the store has."""
    from mbuild.core import gojson
    from mbuild.core.names import ModelName
    from mbuild.store import Store, StoredManifest

    store = Store(folder)
    base = next(found for found in store.list() if isinstance(found, StoredManifest))
    manifest = json.loads(store.manifests.read_bytes(base.name) or b"")
    for number in range(count):
        blob = store.blobs.put(f"You are number {number}.".encode())
        for layer in manifest["layers"]:
            if layer["mediaType"].endswith(".system"):
                layer.update(digest=str(blob.digest), size=blob.size)
        store.manifests.write(ModelName.parse(f"model-{number}"), gojson.dumps(manifest))


def main() -> None:
    """Write what the command line names."""
    kind, path, *rest = sys.argv[1:]
    target = Path(path)
    if kind == "checkpoint":
        write_checkpoint(target, *map(int, rest[:1]), *rest[1:])
    elif kind == "moe":
        write_moe(target, int(rest[0]))
    elif kind in ("family", "quantized"):
        import checkpoint_inputs

        write = getattr(checkpoint_inputs, f"write_{kind}")
        write(target, rest[0])
    elif kind == "store":
        fill_store(target, int(rest[0]))
    else:
        write_gguf(target, int(rest[0]))


if __name__ == "__main__":
    main()
