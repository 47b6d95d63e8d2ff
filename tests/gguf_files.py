"""Small valid GGUF files for tests, written by mbuild's own writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType, tensor_nbytes
from mbuild.gguf.writer import write

KINDS: dict[str, dict[str, Any]] = {
    "model": {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "general.file_type": 1,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁a"],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0],
        "tokenizer.ggml.token_type": [2, 3, 3, 1],
    },
    "adapter": {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
    },
    "projector": {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.vision.block_count": 1,
        "clip.vision.embedding_length": 64,
        "general.file_type": 1,
    },
}
"""The metadata of each kind of file, before overrides."""

TENSORS: dict[str, tuple[tuple[str, tuple[int, ...], GGMLType], ...]] = {
    "model": (
        ("token_embd.weight", (64, 4), GGMLType.F16),
        ("blk.0.attn_norm.weight", (64,), GGMLType.F32),
        ("blk.0.attn_q.weight", (64, 3), GGMLType.Q8_0),
        ("blk.1.attn_norm.weight", (63,), GGMLType.F32),
        ("output_norm.weight", (64,), GGMLType.F32),
    ),
    "adapter": (
        ("blk.0.attn_q.weight.lora_a", (64, 2), GGMLType.F32),
        ("blk.0.attn_q.weight.lora_b", (2, 64), GGMLType.F32),
    ),
    "projector": (("v.blk.0.attn_q.weight", (64, 64), GGMLType.F16),),
}


def entry(key: str, value: Any) -> KV:
    """A metadata entry of the type that converters give a value of that kind."""
    if isinstance(value, KV):
        return value
    if isinstance(value, str):
        return KV(key, ValueType.STRING, value)
    if isinstance(value, list):
        return KV(key, ValueType.ARRAY, value, _number_type(value[:1], ValueType.INT32))
    return KV(key, _number_type([value], ValueType.UINT32), value)


def _number_type(sample: list[Any], integer: ValueType) -> ValueType:
    for kind, type_ in (
        (str, ValueType.STRING),
        (bool, ValueType.BOOL),
        (float, ValueType.FLOAT32),
    ):
        if sample and isinstance(sample[0], kind):
            return type_
    return integer


def tensor(name: str, dims: tuple[int, ...], type_: GGMLType, seed: int = 0) -> Tensor:
    """A tensor with bytes that depend on its name and the seed alone."""
    size = tensor_nbytes(type_, dims)
    start = sum(name.encode()) + seed
    data = bytes((start + i * 7) % 251 for i in range(size))
    return Tensor(name, dims, type_, lambda: data)


def tiny_model(
    kind: str = "model",
    metadata: Mapping[str, Any] | None = None,
    tensors: Iterable[Tensor] | None = None,
    seed: int = 0,
) -> Model:
    """A valid model, adapter or projector.

    ``metadata`` adds keys, replaces their values, or with ``None`` removes them;
    a :class:`KV` gives the exact type. ``seed`` changes the tensors' bytes.
    """
    entries = {**KINDS[kind], **(metadata or {})}
    if tensors is None:
        tensors = (tensor(*row, seed) for row in TENSORS[kind])
    kept = (entry(key, value) for key, value in entries.items() if value is not None)
    return Model(tuple(kept), tuple(tensors))


def gguf_bytes(model: Model) -> bytes:
    """The file that a model is written to."""
    pieces: list[bytes] = []
    write(model, lambda data: pieces.append(bytes(data)))
    return b"".join(pieces)


def tiny_gguf(path: Path, **overrides: Any) -> Path:
    """Write a small valid GGUF; ``overrides`` as for :func:`tiny_model`."""
    path.write_bytes(gguf_bytes(tiny_model(**overrides)))
    return path


def tiny_shards(folder: Path, prefix: str, sizes: Sequence[int], **overrides: Any) -> list[Path]:
    """Write a model split as gguf-split does, ``sizes`` tensors to each shard."""
    model = tiny_model(**overrides)
    assert sum(sizes) == len(model.tensors)
    paths = []
    left = list(model.tensors)
    for number, size in enumerate(sizes):
        split = (
            KV("split.no", ValueType.UINT16, number),
            KV("split.count", ValueType.UINT16, len(sizes)),
            KV("split.tensors.count", ValueType.INT32, len(model.tensors)),
        )
        metadata = (*model.metadata, *split) if number == 0 else split
        shard = Model(metadata, tuple(left[:size]))
        del left[:size]
        path = folder / f"{prefix}-{number + 1:05d}-of-{len(sizes):05d}.gguf"
        path.write_bytes(gguf_bytes(shard))
        paths.append(path)
    return paths
