"""Write a small Llama model in GGUF: real format, random weights, the same bytes everywhere.

    python examples/make_tiny_model.py examples/tiny.gguf

It answers nonsense, but Ollama and llama.cpp load and run it like any other.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.writer import write

LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN, CONTEXT = 2, 64, 4, 2, 128, 512

# A SentencePiece vocabulary: three special tokens, all bytes, some characters.
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS]
TYPES = [2, 3, 3, *[6] * 256, *[1] * len(CHARACTERS)]
SCORES = [0.0] * 259 + [-float(rank) for rank in range(len(CHARACTERS))]


def metadata() -> tuple[KV, ...]:
    """What llama.cpp needs to know of a Llama model."""

    def text(key: str, value: str) -> KV:
        return KV(key, ValueType.STRING, value)

    def number(key: str, value: int) -> KV:
        return KV(key, ValueType.UINT32, value)

    return (
        text("general.architecture", "llama"),
        text("general.type", "model"),
        text("general.name", "Tiny example"),
        number("llama.block_count", LAYERS),
        number("llama.context_length", CONTEXT),
        number("llama.embedding_length", WIDTH),
        number("llama.feed_forward_length", HIDDEN),
        number("llama.attention.head_count", HEADS),
        number("llama.attention.head_count_kv", KV_HEADS),
        KV("llama.attention.layer_norm_rms_epsilon", ValueType.FLOAT32, 1e-5),
        number("llama.rope.dimension_count", WIDTH // HEADS),
        number("llama.vocab_size", len(TOKENS)),
        number("general.file_type", 1),
        number("general.quantization_version", 2),
        text("tokenizer.ggml.model", "llama"),
        text("tokenizer.ggml.pre", "default"),
        KV("tokenizer.ggml.tokens", ValueType.ARRAY, TOKENS, ValueType.STRING),
        KV("tokenizer.ggml.scores", ValueType.ARRAY, SCORES, ValueType.FLOAT32),
        KV("tokenizer.ggml.token_type", ValueType.ARRAY, TYPES, ValueType.INT32),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        number("tokenizer.ggml.unknown_token_id", 0),
    )


def tensors() -> tuple[Tensor, ...]:
    """Norms of one, everything else small and random, seeded by the tensor's name."""
    kv_width = WIDTH // HEADS * KV_HEADS
    block = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, kv_width),
        "attn_v": (WIDTH, kv_width),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (WIDTH, HIDDEN),
        "ffn_up": (WIDTH, HIDDEN),
        "ffn_down": (HIDDEN, WIDTH),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (WIDTH, len(TOKENS))}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": dims for name, dims in block.items()}
    shapes |= {"output_norm": (WIDTH,), "output": (WIDTH, len(TOKENS))}
    return tuple(_tensor(f"{name}.weight", dims) for name, dims in shapes.items())


def _tensor(name: str, dims: tuple[int, ...]) -> Tensor:
    if len(dims) == 1:
        data = struct.pack(f"<{dims[0]}f", *[1.0] * dims[0])
        return Tensor(name, dims, GGMLType.F32, lambda: data)
    count = dims[0] * dims[1]
    generator = random.Random(name)
    values = [generator.gauss(0.0, 0.05) for _ in range(count)]
    half = struct.pack(f"<{count}e", *values)
    return Tensor(name, dims, GGMLType.F16, lambda: half)


def main() -> None:
    """Write the model to the path that the command line names."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        write(Model(metadata(), tensors()), file.write)
    print(f"wrote {target}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
