"""The options about the halves of a multimodal checkpoint, and which files decide its projector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mbuild.build.converter import ConvertOptions
from mbuild.build.request import BuildRequest
from mbuild.build.sources.encoders import encoder_files
from mbuild.build.sources.values import CheckpointSource, FileStamp, SourceFile
from mbuild.build.splitting import BOTH, HALVES, Halves
from mbuild.build.steps.checkpoint import ConvertCheckpoint, ConvertProjector
from mbuild.build.steps.origins import CheckpointOrigin
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError

AUTO = ConvertOptions("auto", None)


def test_what_is_given_comes_back() -> None:
    """Every option as JSON, as flags, and in a request's written form."""
    given = {"mmproj": True, "mmproj_outtype": "f16"}
    halves = Halves.parse(given)
    assert halves.to_json() == given
    assert halves.flags() == [("--mmproj", ""), ("--mmproj-outtype", "f16")]
    request = BuildRequest((), halves=halves)
    assert BuildRequest.from_json(request.to_json()).halves == halves
    assert Halves.parse({}) == BOTH
    assert [row.name for row in HALVES.values()] == ["text_only", "mmproj", "mmproj_outtype"]


@pytest.mark.parametrize(
    "given",
    [
        {"text_only": True, "mmproj": True},
        {"text_only": True, "mmproj_outtype": "f16"},
        {"mmproj_outtype": "q4_0"},
        {"text_only": 1},
        {"eyes": True},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    """Options that contradict, unknown types and names."""
    with pytest.raises(UsageError):
        Halves.parse(given)


def files(folder: Path, **contents: Any) -> dict[str, SourceFile]:
    """Files of a checkpoint; ``__`` in a name stands for a dot."""
    found = {}
    for key, content in contents.items():
        name = key.replace("__", ".")
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        found[name] = SourceFile(name, path, FileStamp.of(path.stat()), Digest.of(name.encode()))
    return found


def test_a_text_model_has_none(tmp_path: Path) -> None:
    """Nor has a folder whose config.json cannot be read: the conversion says that."""
    for config in ({"architectures": ["LlamaForCausalLM"]}, {"vision_config": None}, "{", []):
        found = files(tmp_path, config__json=config, model__safetensors="")
        assert encoder_files(found) == ()
    assert encoder_files({}) == ()


def test_a_shard_of_text_alone_does_not_count(tmp_path: Path) -> None:
    """Told by the names in the index; one with a row of the embedding counts."""
    weights = {
        "model.language_model.layers.0.mlp.up_proj.weight": "a.safetensors",
        "lm_head.weight": "a.safetensors",
        "model.embed_tokens.weight": "b.safetensors",
        "model.visual.pos_embed.weight": "c.safetensors",
        "model.layers.1.mlp.up_proj.weight": "c.safetensors",
        "model.layers.2.mlp.up_proj.weight": 7,
    }
    found = files(
        tmp_path,
        config__json={"vision_config": {"model_type": "x"}},
        a__safetensors="",
        b__safetensors="",
        c__safetensors="",
        tokenizer__json="{}",
        processor_config__json="{}",
        model__safetensors__index__json={"weight_map": weights},
    )
    assert encoder_files(found) == (
        *("b.safetensors", "c.safetensors", "config.json"),
        *("model.safetensors.index.json", "processor_config.json"),
    )


@pytest.mark.parametrize("model_type", ["pixtral", None])
def test_pixtrals_tokenizer_counts(tmp_path: Path, model_type: str | None) -> None:
    """It says which row of the embedding is a part of the projector."""
    vision = {"model_type": model_type} if model_type else {"patch_size": 1}
    found = files(
        tmp_path,
        config__json={"vision_config": vision},
        tokenizer__json="{}",
        model__safetensors="",
        consolidated__safetensors="",
    )
    assert encoder_files(found) == ("config.json", "model.safetensors", "tokenizer.json")


def test_pickled_shards_count_where_there_are_no_others(tmp_path: Path) -> None:
    """By the index of pickled weights; an adapter beside them is none of the model's."""
    weights = {
        "model.layers.0.mlp.up_proj.weight": "pytorch_model-00001-of-00002.bin",
        "vision_tower.proj.weight": "pytorch_model-00002-of-00002.bin",
    }
    found = files(
        tmp_path,
        config__json={"vision_config": {"model_type": "x"}},
        adapter_model__safetensors="",
        hf_quant_config__json={},
        **{f"pytorch_model-0000{n}-of-00002__bin": "" for n in (1, 2)},
        pytorch_model__bin__index__json={"weight_map": weights},
    )
    assert encoder_files(found) == (
        *("config.json", "hf_quant_config.json", "pytorch_model-00002-of-00002.bin"),
        "pytorch_model.bin.index.json",
    )


def test_the_steps_of_both_halves_run_together(tmp_path: Path) -> None:
    """One group, so that files are read once for their digests; keys of their own."""
    found = files(
        tmp_path,
        config__json={"audio_config": {"d_model": 1}},
        tokenizer__json="{}",
        model__safetensors="",
        preprocessor_config__json="{}",
    )
    source = CheckpointSource("m", found, None, encoder_files(found))
    text = ConvertCheckpoint(source, AUTO)
    beside = ConvertProjector(source, "f16", CheckpointOrigin(source, AUTO))
    assert text.group == beside.group
    assert ConvertProjector(source, "f16").group is None
    mine, others = beside.key_fields(), text.key_fields()
    assert mine is not None
    assert others is not None
    assert "preprocessor_config.json" in mine["files"]
    assert "tokenizer.json" not in mine["files"]
    assert "preprocessor_config.json" not in others["files"]
    assert (mine["outtype"], others["outtype"]) == ("f16", "auto")


def test_a_text_models_step_runs_alone(tmp_path: Path) -> None:
    """There is nothing to share."""
    found = files(tmp_path, config__json={}, model__safetensors="")
    source = CheckpointSource("m", found, None, encoder_files(found))
    assert ConvertCheckpoint(source, AUTO).group is None
