"""A checkpoint that cannot be converted is refused before the conversion, with a clear message."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from pace import at_most

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert, convert_body
from mbuild.convert.families import by_name, config_class, find, rows
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import Key
from mbuild.core.errors import FormatError, MbuildError, SourceError, UnsupportedError

DATA = Path(__file__).parents[1] / "data" / "convert"
CASES = sorted(path.stem for path in DATA.glob("*.json"))


def spec(name: str = "llama") -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def opened(directory: Path, case: dict[str, Any]) -> Any:
    return open_checkpoint("tiny", write_checkpoint(directory / "tiny", case))


# --- the table ---


def test_every_class_name_stands_in_one_row() -> None:
    """A name that two rows claim would convert by chance."""
    names = [name for row in rows() for name in row.names]
    assert len(names) == len(set(names)) == len(by_name())


UNPUBLISHED = {
    *("dflash", "dots3note", "eagle3", "graniteswitch", "hy_v4", "qwen4exp"),
    *("bailingmoe3", "cohere2moe", "deepseek32", "deepseek4", "gemma4-assistant", "glm5-next"),
    *("granite_swa", "hrm_text", "hy_v3", "kimi-k3", "laguna", "maple", "mellum", "minimax-01"),
    *("minimax-m3", "muse-glimmer", "nanbeige", "spark2_5", "talkie"),
}
"""Architectures that llama.cpp has and the ``gguf`` package of PyPI does not."""


@pytest.mark.parametrize("row", [*rows()], ids=lambda row: (*row.names, row.gguf)[0])
def test_a_row_is_complete(row: Any) -> None:
    """GGUF knows the architecture; keys are typed and named; the defaults belong to one class."""
    import gguf

    assert (row.gguf in gguf.MODEL_ARCH_NAMES.values()) is (row.gguf not in UNPUBLISHED)
    keys = [key for key in row.keys if isinstance(key, Key)]
    assert keys
    for key in keys:
        assert key.name and (key.names or key.compute or key.default is not None), key
        assert not (key.required and not key.names), key
    assert isinstance(row.hf, HFConfig)
    covered = {json.loads((DATA / f"{c}.json").read_text())["arch"] for c in CASES}
    # llama.cpp's converter takes PLaMo 1 in its own size alone (test_families.py).
    assert row.gguf in covered | {"plamo"}, "no reference result for this family"


def test_a_model_type_has_one_set_of_defaults() -> None:
    """A checkpoint's defaults go by its model_type, whatever class it names."""
    for row in rows():
        assert not row.hf.model_type or config_class(row.hf.model_type) == row.hf, row.names


def test_only_the_family_that_is_needed_is_loaded() -> None:
    """A module whose name the class begins with is looked at first, with what it builds on."""
    code = """
import sys
from mbuild.convert.families import config_class, find
find("Qwen3ForCausalLM"), config_class("qwen3")
print(*sorted(name.split(".")[3] for name in sys.modules if "convert.families." in name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["qwen"]


def test_an_unknown_family_is_refused_by_name_with_near_ones(tmp_path: Path) -> None:
    """Before any shard is opened: there is none here."""
    case = {"files": {"config.json": {"architectures": ["LlamaForCausalLMX"]}}, "tensors": {}}
    with pytest.raises(UnsupportedError, match="LlamaForCausalLMX") as caught:
        opened(tmp_path, case)
    assert "LlamaForCausalLM" in caught.value.hint
    with pytest.raises(UnsupportedError, match="Zzz"):
        find("Zzz")


# --- files ---


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """With an index and without one."""
    case = spec()
    shard = case["tensors"].pop("model.safetensors")
    case["tensors"]["model-00001-of-00002.safetensors"] = shard
    with pytest.raises(SourceError, match="model-00002-of-00002"):
        opened(tmp_path / "a", case)
    weight_map = dict.fromkeys(shard, "model-00003-of-00003.safetensors")
    case["files"]["model.safetensors.index.json"] = {"weight_map": weight_map}
    with pytest.raises(SourceError, match="model-00003-of-00003"):
        opened(tmp_path / "b", case)


def indexed(change: Any) -> dict[str, Any]:
    case = spec()
    index = {"weight_map": dict.fromkeys(case["tensors"]["model.safetensors"], "model.safetensors")}
    change(index, case)
    case["files"]["model.safetensors.index.json"] = index
    return case


def test_the_index_and_the_shards_must_agree(tmp_path: Path) -> None:
    """A promised tensor that no shard has, and one that the index does not name."""
    promised = indexed(lambda i, c: i["weight_map"].update(ghost="model.safetensors"))
    with pytest.raises(FormatError, match="'ghost'"):
        opened(tmp_path / "a", promised)
    extra = indexed(lambda i, c: i["weight_map"].pop("lm_head.weight"))
    with pytest.raises(FormatError, match=r"lm_head\.weight"):
        opened(tmp_path / "b", extra)


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", 7, None]
)
def test_an_index_names_only_plain_shards(shard: Any, tmp_path: Path) -> None:
    """A name that leaves the folder, or is no shard's, is refused."""
    case = indexed(lambda i, c: i["weight_map"].update({"lm_head.weight": shard}))
    with pytest.raises(FormatError, match=r"index\.json"):
        opened(tmp_path, case)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": [1]}])
def test_an_index_has_a_weight_map(index: Any, tmp_path: Path) -> None:
    """An index without its map is damaged."""
    case = spec()
    case["files"]["model.safetensors.index.json"] = index
    with pytest.raises(FormatError, match="weight_map"):
        opened(tmp_path, case)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    """Without an index nothing says which one counts."""
    case = spec()
    case["tensors"]["model2.safetensors"] = {"lm_head.weight": "BF16 80 64"}
    with pytest.raises(FormatError, match="two files"):
        opened(tmp_path, case)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "pytorch_model-00001.bin"])
def test_a_pickle_that_is_no_file_of_weights_is_refused(name: str, tmp_path: Path) -> None:
    """It is read as data; the hint has a way to other weights."""
    files = write_checkpoint(tmp_path, {"files": spec()["files"], "tensors": {}})
    (tmp_path / name).write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(UnsupportedError, match=r"wants 'os\.system'") as caught:
        open_checkpoint("tiny", {**files, name: tmp_path / name})
    assert "save_pretrained" in caught.value.hint


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    """The commonest mistake: a clone without git-lfs."""
    files = write_checkpoint(tmp_path, spec())
    files["model.safetensors"].write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(FormatError, match="git-lfs") as caught:
        open_checkpoint("tiny", files)
    assert "git lfs pull" in caught.value.hint


def test_a_folder_without_config_or_weights_says_so(tmp_path: Path) -> None:
    """What a checkpoint is made of is in the hint."""
    with pytest.raises(SourceError, match=r"config\.json"):
        open_checkpoint("tiny", {})
    with pytest.raises(SourceError, match="safetensors"):
        opened(tmp_path, {"files": spec()["files"], "tensors": {}})


@pytest.mark.parametrize("method", ["eetq", "hqq", "torchao", "mxfp4", 3])
def test_unknown_quantizations_are_refused(method: Any, tmp_path: Path) -> None:
    """MXFP4 is known for GPT-OSS only."""
    case = spec()
    case["files"]["config.json"]["quantization_config"] = {"quant_method": method}
    shard = case["tensors"]["model.safetensors"]
    shard["model.layers.0.mlp.up_proj.weight"] = "U8 96 32"
    with pytest.raises(UnsupportedError, match=str(method)):
        opened(tmp_path, case)


# --- config and shapes ---


def test_shapes_that_contradict_the_config_are_refused(tmp_path: Path) -> None:
    """Another hidden size, vocabulary or number of heads than the tensors have."""
    for number, (key, value) in enumerate(
        [("hidden_size", 32), ("vocab_size", 81), ("num_attention_heads", 5)]
    ):
        case = spec()
        case["files"]["config.json"][key] = value
        case["files"]["config.json"].pop("head_dim", None)
        with pytest.raises(FormatError) as caught:
            convert(opened(tmp_path / str(number), case))
        assert "safetensors" in caught.value.message


def test_too_many_layers_are_refused_quickly(tmp_path: Path) -> None:
    """A layer has a tensor at least, so the config cannot ask for a huge table of names."""
    case = spec()
    case["files"]["config.json"]["num_hidden_layers"] = 10**9
    checkpoint = opened(tmp_path, case)
    with at_most(1), pytest.raises(FormatError, match="layers"):
        convert_body(checkpoint)


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    """A stack that lacks one of its tensors does not vanish silently."""
    case = spec("qwen3_moe")
    del case["tensors"]["model.safetensors"]["model.layers.1.mlp.experts.2.up_proj.weight"]
    with pytest.raises(FormatError, match="layer 1 has no up_proj number 2"):
        convert_body(opened(tmp_path, case))


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    """Nothing of a checkpoint is left out silently."""
    case = spec()
    case["tensors"]["model.safetensors"]["model.layers.0.surprise.weight"] = "BF16 4 4"
    with pytest.raises(UnsupportedError, match="surprise"):
        convert_body(opened(tmp_path, case))


HOSTILE: tuple[Any, ...] = (
    *(0, -1, 2**40, 10**400, 1.5, float("nan"), "64", None, [], {}, [{}], True),
    *([1, 2], {"a": 1}, -0.5, 1e39),
)
ADDED = ("rope_scaling", "layer_types", "rope_theta", "id2label", "head_dim", "text_config")
MIXED = ("bert", "deepseek_v3_fp8", "gemma3n", "gpt2", "lfm2_old", "nomic_bert_moe", "phi3_long")


def survives_hostile_values(name: str, directory: Path, step: int) -> None:
    case = spec(name)
    files = write_checkpoint(directory, case)
    config = case["files"]["config.json"]
    for number, key in enumerate(dict.fromkeys((*config, *ADDED))):
        for value in HOSTILE[number % step :: step]:
            changed = {**config, key: value}
            text = json.dumps(changed) if value != 10**400 else big(config, key)
            (directory / "config.json").write_text(text)
            with at_most(1, f"{key} = {value}"), suppress(MbuildError):
                convert_body(open_checkpoint("tiny", files))


@pytest.mark.parametrize("name", MIXED)
def test_hostile_hyper_parameters_never_surprise(name: str, tmp_path: Path) -> None:
    """Values of the config, replaced: a result or an error of ours, never another one."""
    survives_hostile_values(name, tmp_path, 4)


def big(config: dict[str, Any], key: str) -> str:
    """json.dumps refuses integers of this length, files need not."""
    return json.dumps({**config, key: "@"}).replace('"@"', "1" + "0" * 400)


@pytest.mark.parametrize("inner", [0, -1, float("nan"), "x", None, [], {}])
@pytest.mark.parametrize(
    "name", ["llama3", "mistral", "phi3_long", "deepseek_v2_lite", "gemma3_old"]
)
def test_hostile_rope_parameters_never_surprise(name: str, inner: Any, tmp_path: Path) -> None:
    """The same inside the nested object."""
    case = spec(name)
    files = write_checkpoint(tmp_path, case)
    config = case["files"]["config.json"]
    scaling = config["rope_scaling"]
    for key in (*scaling, "full_attention", "sliding_attention", "mrope_section"):
        changed = {**config, "rope_scaling": {**scaling, key: inner}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        try:
            convert_body(open_checkpoint("tiny", files))
        except MbuildError:
            pass


def test_files_of_a_pooling_module_are_checked(tmp_path: Path) -> None:
    """A module list that is not one, and a folder that is not there."""
    case = spec("bert")
    for number, modules in enumerate(
        [{"a": 1}, [3], [{"type": "x.Pooling"}], [{"type": "x.Pooling", "path": "9_No"}]]
    ):
        case["files"]["modules.json"] = modules
        with pytest.raises(FormatError, match=r"modules\.json"):
            convert_body(opened(tmp_path / str(number), case))
    assert "modules.json" in CheckpointFiles(write_checkpoint(tmp_path / "x", case))
