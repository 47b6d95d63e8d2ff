"""A small SmolVLM with a tokenizer, to be built whole, and the layers of what was built."""

from __future__ import annotations

import json
from pathlib import Path

from example_models import generator, settle
from multimodal import spec, write_tensors

TEXT, EYES = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


AROUND = ("\n\n", "<fake_token_around_image>", "<global-img>")
"""What llama.cpp puts around an image for this family, one token each (mtmd.cpp)."""


def write_vlm(folder: Path) -> Path:
    """The checkpoint: text in the first shard, the encoder in the second."""
    made = generator(POSITIONS=4096)  # room for images
    *first, start, end = made.CHAT
    vars(made)["CHAT"] = [*first, *((piece, made.USER) for piece in AROUND), start, end]
    made.write_chat(folder)
    settle()
    text = json.loads((folder / "config.json").read_text())
    case = spec("smolvlm")
    config = case["files"]["config.json"]
    text["architectures"] = ["VLlama3ForCausalLM"]
    (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
    processor = json.dumps(case["files"]["preprocessor_config.json"])
    (folder / "preprocessor_config.json").write_text(processor)
    names = _rename(folder / "model.safetensors", folder / TEXT)
    tensors = {n: t for n, t in case["tensors"].items() if "text_model" not in n}
    tensors["model.connector.modality_projection.proj.weight"] = f"BF16 {text['hidden_size']} 512"
    write_tensors(folder / EYES, tensors)
    weights = dict.fromkeys(names, TEXT) | dict.fromkeys(tensors, EYES)
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settle()
    return folder


def _rename(old: Path, new: Path) -> list[str]:
    """A shard with its tensors below ``model.text_model``; their names."""
    data = old.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    named = {name.replace("model.", "model.text_model.", 1): v for name, v in header.items()}
    raw = json.dumps(named).encode()
    raw += b" " * (-len(raw) % 8)
    new.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    old.unlink()
    return [name for name in named if name != "__metadata__"]


def layers(folder: Path, name: str = "m/latest") -> dict[str, Path]:
    """The layers of a model: the last part of each media type, and the blob."""
    path = folder / "store/manifests/registry.ollama.ai/library" / name
    return {
        layer["mediaType"].rpartition(".")[2]: folder
        / "store/blobs"
        / layer["digest"].replace(":", "-")
        for layer in json.loads(path.read_text())["layers"]
    }
