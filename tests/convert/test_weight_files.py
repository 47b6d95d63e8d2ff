"""Which files are a checkpoint's weights, whatever they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mbuild.build.sources.formats import FORMATS, foreign_format
from mbuild.build.sources.places import is_part_of_checkpoint, is_pickled
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.weight_files import WeightFiles
from mbuild.core.errors import FormatError, SourceError


def shards(folder: Path, *names: str, index: dict[str, str] | None = None) -> list[str]:
    """The shards among files of those names; the first is an index with that map."""
    files = {}
    for name in names:
        files[name] = folder / name
        if name.endswith(".index.json"):
            files[name].write_text(json.dumps({"weight_map": index}))
    return [*WeightFiles("tiny", files, CheckpointFiles(files)).names]


@pytest.mark.parametrize(
    ("names", "found"),
    (
        (("model.safetensors", "pytorch_model.bin"), ["model.safetensors"]),
        (("model.safetensors", "consolidated.safetensors"), ["model.safetensors"]),
        (("model.fp16.safetensors",), ["model.fp16.safetensors"]),
        (("weights.safetensors", "adapter_model.safetensors"), ["weights.safetensors"]),
        (("pytorch_model.safetensors", "pytorch_model.bin"), ["pytorch_model.safetensors"]),
        (("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"), 2),
        (("pytorch_model.bin", "model.pt"), ["pytorch_model.bin"]),
        (("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), 2),
        (("model.pth",), ["model.pth"]),
    ),
)
def test_weights_are_found_by_their_names(
    tmp_path: Path, names: tuple[str, ...], found: list[str] | int
) -> None:
    """Safetensors before pickles, usual names before others, the parts of one model together."""
    assert shards(tmp_path, *names) == ([*names] if found == 2 else found)


@pytest.mark.parametrize(
    ("names", "says"),
    (
        ((), r"no model\*\.safetensors"),
        (("adapter_model.safetensors",), r"no model\*\.safetensors"),
        (("a.safetensors", "b.safetensors"), "several files"),
        (("model.pt", "model.pth"), "several files"),
        (("x-00001-of-00002.safetensors",), "x-00002-of-00002.safetensors is not there"),
        (("pytorch_model-00002-of-00002.bin",), "pytorch_model-00001-of-00002.bin is not there"),
    ),
)
def test_what_cannot_be_told_is_asked(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    """Nothing is guessed among several models."""
    with pytest.raises(SourceError, match=says):
        shards(tmp_path, *names)


def test_an_index_counts_by_its_kind(tmp_path: Path) -> None:
    """That of pickles only where there are no safetensors; one of another name if it is alone."""
    usual, pickled = "model.safetensors.index.json", "pytorch_model.bin.index.json"
    both = {"a": "pytorch_model-00001-of-00001.bin"}
    assert shards(tmp_path, pickled, *both.values(), index=both) == [*both.values()]
    assert shards(tmp_path, pickled, "model.safetensors", index=both) == ["model.safetensors"]
    other = {"a": "odd.safetensors"}
    assert shards(tmp_path, "odd.safetensors.index.json", "odd.safetensors", index=other) == [
        "odd.safetensors"
    ]
    with pytest.raises(FormatError, match="not a plain file name"):
        shards(tmp_path, usual, index={"a": "../x.safetensors"})
    with pytest.raises(SourceError, match=r"gone\.safetensors, which model"):
        shards(tmp_path, usual, index={"a": "gone.safetensors"})


def test_a_trainings_pickles_are_no_part_of_a_checkpoint() -> None:
    """Only weights: a change of the optimizer converts nothing again."""
    assert is_pickled("pytorch_model.bin") and is_part_of_checkpoint("model.pth")
    assert is_part_of_checkpoint("pytorch_model.bin.index.json")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt"):
        assert not is_part_of_checkpoint(name)


@pytest.mark.parametrize(
    ("name", "what"),
    (
        ("model_index.json", "Diffusers"),
        ("model.onnx", "ONNX"),
        ("tf_model.h5", "Keras"),
        ("flax_model.msgpack", "Flax"),
        ("weights.npz", "NumPy"),
        ("model.ckpt.index", "TensorFlow"),
        ("gemma.task", "LiteRT"),
        ("rank0.engine", "TensorRT"),
        ("openvino_model.xml", "OpenVINO"),
        ("megatron.nemo", "NeMo"),
        ("__0_0.distcp", "distributed"),
        ("mp_rank_00_model_states.pt", "DeepSpeed"),
        ("ggml-model-q4_0.bin", "GGML"),
        ("model.tar.gz", "archive"),
    ),
)
def test_other_formats_are_told_by_their_names(name: str, what: str) -> None:
    """With what to do instead."""
    found = foreign_format(["README.md", name])
    assert found is not None and found.file == name and what in found.what and found.hint
    assert foreign_format(["config.json", "model.safetensors"]) is None
    assert all(len(row) == 3 for row in FORMATS)
