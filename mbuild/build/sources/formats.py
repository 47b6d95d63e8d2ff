"""Formats of models that are none for mbuild, known by their files' names: what to do instead."""

from __future__ import annotations

from collections.abc import Iterable

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

DESCRIPTIONS = ("config.json", "params.json", "adapter_config.json")
"""The files that say what model, or adapter, the weights beside them are."""


class ForeignFormat(NamedTuple):
    """A file of another format: what it is, and what to do."""

    file: str
    what: str
    hint: str


_HUGGING_FACE = "download the model in Hugging Face's format: config.json and model*.safetensors"
_SAVE = "load it in transformers and save it with save_pretrained(FOLDER)"

FORMATS: tuple[tuple[str, str, str], ...] = (
    (r"^model_index\.json$", "the index of a Diffusers pipeline, which makes images or sound",
     "llama.cpp runs language models; name the folder of one"),
    (r"\.onnx(?:_data)?$", "in ONNX's format", _HUGGING_FACE),
    (r"(?:^|/)tf_model\.h5$|\.h5$|\.keras$", "in Keras' format", f"{_SAVE} (from_tf=True)"),
    (r"\.msgpack$", "in Flax's format", f"{_SAVE} (from_flax=True)"),
    (r"\.npz$", "an archive of NumPy arrays, as old MLX models are",
     "convert it with the tool that wrote it, to safetensors"),
    (r"\.ckpt\.(?:index|meta|data-\d+-of-\d+)$", "a TensorFlow checkpoint", _HUGGING_FACE),
    (r"\.tflite$|\.task$|\.litertlm$", "in LiteRT's format", _HUGGING_FACE),
    (r"\.ml(?:model|package|modelc)(?:/|$)", "in Core ML's format", _HUGGING_FACE),
    (r"\.(?:engine|plan|trt)$", "an engine of TensorRT, for one kind of GPU", _HUGGING_FACE),
    (r"openvino_model\.(?:xml|bin)$", "in OpenVINO's format", _HUGGING_FACE),
    (r"\.nemo$", "an archive of NeMo", "export it with NeMo's scripts to Hugging Face's format"),
    (r"\.pte$", "in ExecuTorch's format", _HUGGING_FACE),
    (r"\.distcp$|(?:^|/)__\d+_\d+\.distcp$", "a distributed checkpoint of PyTorch",
     "join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"),
    (r"(?:^|/)(?:zero_pp_rank_|mp_rank_)\w+\.pt$", "a training's checkpoint of DeepSpeed",
     "join it with its zero_to_fp32.py, which lies beside it"),
    (r"\.ggml$|(?:^|/)ggml-[\w-]+\.bin$", "in GGML's format, which came before GGUF",
     "convert it with llama.cpp's convert_llama_ggml_to_gguf.py"),
    (r"\.llamafile$", "a llamafile, a program with a model in it",
     "download the GGUF file that it was made of"),
    (r"\.zip$|\.tar(?:\.\w+)?$|\.7z$|\.rar$", "an archive", "unpack it and name the folder"),
)  # fmt: skip
"""A pattern that is searched in names relative to the folder, what such a file is, what to do."""

_PATTERNS = tuple((regex(pattern), what, hint) for pattern, what, hint in FORMATS)


def foreign_format(names: Iterable[str]) -> ForeignFormat | None:
    """The first of the formats that a folder with these files is in, None if none is known."""
    listed = sorted(names)
    for pattern, what, hint in _PATTERNS:
        name = next((name for name in listed if pattern.search(name)), None)
        if name is not None:
            return ForeignFormat(name, what, hint)
    return None
