"""RWKV's layers: what the reference checkpoints do not show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, write_checkpoint

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.checks.layout import check_layout
from mbuild.convert.convert import BareModel, convert_body
from mbuild.convert.rows.rwkv import with_ending
from mbuild.convert.rows.torch_math import sum32
from mbuild.core.errors import FormatError


def case(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def body_of(folder: Path, spec: dict[str, Any]) -> BareModel:
    return convert_body(open_checkpoint("tiny", write_checkpoint(folder / "tiny", spec)))


def test_a_hybrid_with_gates_has_six_shares(tmp_path: Path) -> None:
    """RWKV 7 in Qwen 2 may have gates: then a sixth vector and two matrices of rank 128."""
    spec = case("arwkv7")
    spec["files"]["config.json"]["wkv_has_gate"] = True
    tensors = spec["tensors"]["model.safetensors"]
    for layer in range(2):
        mixer = f"model.layers.{layer}.self_attn.time_mixer."
        tensors |= {f"{mixer}x_g": "BF16 1 1 64", f"{mixer}g1": "BF16 64 128"}
        tensors[f"{mixer}g2"] = "BF16 128 64"
    body = body_of(tmp_path, spec)
    assert check_layout(body.described, 80) == []
    dims = {tensor.name: tensor.dims for tensor in body.tensors}
    assert dims["blk.1.time_mix_lerp_fused.weight"] == (64, 1, 1, 6)
    assert dims["blk.1.time_mix_g1.weight"] == (64, 128)


def test_a_share_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    """A vector of a kind that the family does not have would be lost without a word."""
    spec = case("rwkv6")
    spec["tensors"]["model.safetensors"]["rwkv.blocks.0.attention.time_maa_z"] = "BF16 1 1 64"
    with pytest.raises(FormatError, match="'z' is none of w, k, v, r, g"):
        body_of(tmp_path, spec)


def test_shares_may_lie_in_one_tensor(tmp_path: Path) -> None:
    """Some checkpoints of RWKV 7 have the six vectors side by side already."""
    spec = case("rwkv7")
    tensors = spec["tensors"]["model.safetensors"]
    for name in [name for name in tensors if re.search(r"\.0\.attn\.x_", name)]:
        del tensors[name]
    tensors["model.layers.0.attn.x_x"] = "BF16 6 1 1 64"
    body = body_of(tmp_path, spec)
    (fused,) = [t for t in body.tensors if t.name == "blk.0.time_mix_lerp_fused.weight"]
    assert fused.dims == (64, 1, 1, 6)
    assert check_layout(body.described, 80) == []


def test_parameters_get_the_ending_of_modules() -> None:
    """GGUF's names end in .weight, whatever the checkpoint says."""
    assert with_ending({}, "a.time_decay") == "a.time_decay.weight"
    assert with_ending({}, "a.bias") == "a.bias"


@pytest.mark.parametrize(
    ("count", "bits"),
    [(64, 0x41FFA6F5), (6144, 0x453FF570), (100_003, 0x4743511A)],
)
def test_sums_are_torch_s(count: int, bits: int) -> None:
    """The sum of a fixed sequence has the bits that torch 2.13 gave for it with one thread."""
    values = (np.arange(count, dtype=np.float64) * 0.6180339887498949 % 1).astype("<f4")
    assert int(np.float32(sum32(values)).view(np.uint32)) == bits
