"""Settings that llama.cpp's converter reads in ways of single families: tried in both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, write_checkpoint

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import BareModel, convert_body


def converted(folder: Path, name: str, **changes: Any) -> BareModel:
    """A generated checkpoint with other values in its configuration; ``...`` removes one."""
    spec = copy.deepcopy(json.loads((DATA / f"{name}.json").read_text()))
    config = {**spec["files"]["config.json"], **changes}
    kept = {key: value for key, value in config.items() if value is not ...}
    spec["files"]["config.json"] = kept
    return convert_body(open_checkpoint("tiny", write_checkpoint(folder, spec)))


@pytest.mark.parametrize(
    ("name", "changes", "key", "value"),
    [
        ("plamo3", {"window_size": None}, "plamo3.attention.sliding_window_pattern", None),
        ("plamo3", {}, "plamo3.attention.sliding_window_pattern", 8),
        ("rwkv7", {"layer_norm_epsilon": 1e-6}, "rwkv7.attention.layer_norm_epsilon", 1e-5),
        ("mpt", {"attn_config": None}, "mpt.attention.max_alibi_bias", 8.0),
        ("mpt", {"attn_config": {"alibi": False}}, "mpt.attention.max_alibi_bias", 0.0),
        ("umt5", {"decoder_start_token_id": ...}, "t5.decoder_start_token_id", 0),
    ],
)
def test_a_setting(
    name: str, changes: dict[str, Any], key: str, value: float | None, tmp_path: Path
) -> None:
    """What becomes of it."""
    found = {kv.key: kv.value for kv in converted(tmp_path, name, **changes).keys}
    assert found.get(key) == (value if value is None else pytest.approx(value))


def test_attention_is_scaled_down_every_few_layers_of_a_qwen_with_rwkv(tmp_path: Path) -> None:
    """As of RWKV 6 itself, where the configuration asks for it."""

    def output(folder: Path, layer: int, **changes: Any) -> np.ndarray:
        model = converted(folder, "rwkv6qwen2", **changes)
        name = f"blk.{layer}.time_mix_output.weight"
        (tensor,) = (each for each in model.tensors if each.name == name)
        raw = np.frombuffer(memoryview(tensor.load()).cast("B"), "<u2").astype(np.uint32)
        return (raw << 16).view(np.float32)

    for layer, by in ((0, 1), (1, 2)):
        plain = output(tmp_path / f"plain{layer}", layer)
        scaled = output(tmp_path / f"scaled{layer}", layer, rescale_every=1)
        np.testing.assert_array_equal(scaled * by, plain)
