"""Write the small models that the examples start from: real formats, made-up weights.

    python examples/make_models.py examples/models

That folder then holds

    tiny-chat/    a Llama checkpoint in Hugging Face's format, with a chat template
    tiny-lora/    a PEFT LoRA adapter for it
    tiny-embed/   an embedding model: XLM-RoBERTa, mean pooling
    tiny.gguf     tiny-chat, converted

The bytes are the same on every machine. The models answer nonsense, but whatever runs
models of these families loads and runs them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, POSITIONS = 256, 512, 2, 4, 2, 512
RANK = 8

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
Piece = tuple[str, int]

CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
WORDS = "▁the ▁a ▁is ▁in ▁you ▁am ▁mario ▁hello ▁world th in er an ou ing"

CHAT: list[Piece] = [
    *(("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)),
    *((f"<0x{byte:02X}>", BYTE) for byte in range(256)),
    *((text, NORMAL) for text in [*WORDS.split(), *CHARACTERS]),
    *(("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)),
]
EMBED: list[Piece] = [
    *(("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)),
    *((text, NORMAL) for text in [*WORDS.split(), *CHARACTERS]),
]

CHAT_TEMPLATE = """\
{%- for turn in messages -%}
    <|im_start|>{{ turn.role }}
{{ turn.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
    <|im_start|>assistant
{% endif -%}
"""


def main() -> None:
    """Write all models into the folder that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write the models")
    folder = parser.parse_args().folder
    write_chat(folder / "tiny-chat")
    write_lora(folder / "tiny-lora")
    write_embed(folder / "tiny-embed")
    write_gguf(folder / "tiny-chat", folder / "tiny.gguf")
    print(f"wrote the example models into {folder}")


def write_chat(folder: Path) -> None:
    """A Llama with grouped-query attention, a SentencePiece vocabulary and ChatML turns."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": len(CHAT),
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": len(CHAT) - 1,
    }
    tokenizer = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "add_bos_token": False,
        "add_eos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(CHAT), WIDTH)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (kv_width, WIDTH),
            "self_attn.v_proj": (kv_width, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (HIDDEN, WIDTH),
            "mlp.up_proj": (HIDDEN, WIDTH),
            "mlp.down_proj": (WIDTH, HIDDEN),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (len(CHAT), WIDTH)}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", tokenizer)
    (folder / "tokenizer.model").write_bytes(sentencepiece(CHAT, model_type=2))
    write_safetensors(folder / "model.safetensors", shapes, "BF16")


def write_lora(folder: Path) -> None:
    """A LoRA of rank 8 for the queries and the values of tiny-chat."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-chat",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    widths = {"q_proj": WIDTH, "v_proj": WIDTH // HEADS * KV_HEADS}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for module, width in widths.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            shapes[f"{stem}.lora_A.weight"] = (RANK, WIDTH)
            shapes[f"{stem}.lora_B.weight"] = (width, RANK)
    write_json(folder / "adapter_config.json", config)
    write_safetensors(folder / "adapter_model.safetensors", shapes, "F32")


def write_embed(folder: Path) -> None:
    """An encoder, as sentence-transformers lays it out: modules.json names the pooling."""
    width, hidden = 64, 128
    vocab = len(EMBED) + 2  # with <pad> and <mask>, which the SentencePiece model lacks
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 130,  # 128, and two that padding takes
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "vocab_size": vocab,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocab, width),
        "embeddings.position_embeddings.weight": (130, width),
        "embeddings.token_type_embeddings.weight": (1, width),
        **layer_norm("embeddings.LayerNorm", width),
    }
    for layer in range(LAYERS):
        stem = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            shapes |= linear(f"{stem}.{name}", width, width)
        shapes |= linear(f"{stem}.attention.output.dense", width, width)
        shapes |= layer_norm(f"{stem}.attention.output.LayerNorm", width)
        shapes |= linear(f"{stem}.intermediate.dense", hidden, width)
        shapes |= linear(f"{stem}.output.dense", width, hidden)
        shapes |= layer_norm(f"{stem}.output.LayerNorm", width)
    write_json(folder / "config.json", config)
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece(EMBED, model_type=1))
    write_safetensors(folder / "model.safetensors", shapes, "F32")


def write_gguf(checkpoint: Path, target: Path) -> None:
    """A checkpoint as one GGUF file, by mbuild's own converter."""
    from mbuild.convert.checkpoint import open_checkpoint
    from mbuild.convert.convert import convert
    from mbuild.gguf.writer import write

    files = {path.name: path for path in sorted(checkpoint.iterdir())}
    model = convert(open_checkpoint(checkpoint.name, files))
    with target.open("wb") as file:
        write(model, file.write)


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def layer_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def write_json(path: Path, value: Any) -> None:
    """A JSON file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """One safetensors file: a JSON header with places and types, then the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name in sorted(shapes):
        raw = weights(name, shapes[name])
        raw = raw if dtype == "F32" else (raw.view("<u4") >> 16).astype("<u2")
        start = len(data)
        data += raw.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(shapes[name]),
            "data_offsets": [start, len(data)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Float32 values that follow from the tensor's name; those of norms are one."""
    count = int(np.prod(shape))
    if name.endswith("norm.weight") or "LayerNorm.weight" in name:
        return np.ones(count, "<f4")
    bits = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * count), "<i4")
    return (bits / 2.0**34).astype("<f4")


def sentencepiece(pieces: list[Piece], model_type: int) -> bytes:
    """A ``tokenizer.model``: the protobuf message that the sentencepiece library writes."""
    message = b""
    for rank, (text, kind) in enumerate(pieces):
        score = -float(rank) if kind == NORMAL else 0.0
        fields = field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind)
        message += field(1, fields)
    return message + field(2, number(3, model_type)) + field(3, number(3, 1))


def field(tag: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return varint(tag << 3 | 2) + varint(len(data)) + data


def number(tag: int, value: int) -> bytes:
    """A number field of a protobuf message."""
    return varint(tag << 3) + varint(value)


def varint(value: int) -> bytes:
    """A number, seven bits a byte."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


if __name__ == "__main__":
    main()
