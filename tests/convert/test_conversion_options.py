"""The options of converting a checkpoint: one table, which everything that takes them follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from checkpoints import DATA, files_of, resized, write_checkpoint, write_shard
from test_convert import spec

from mbuild.build.request import BuildRequest, Target
from mbuild.cli.converting import conversion_of, converting_options
from mbuild.cli.main import WITH_VALUE
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.conversion import AS_IT_IS, CONVERSION, CONVERSION_NAMES, Conversion
from mbuild.convert.convert import BareModel, convert, convert_body, not_kept
from mbuild.convert.dense import dense_layers, dense_sizes
from mbuild.convert.families import find
from mbuild.convert.fusing import joined
from mbuild.convert.metadata.general import Parameters, general
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.pooling import dense_folders, unused_modules
from mbuild.core.errors import FormatError, SourceError, UnsupportedError, UsageError
from mbuild.core.names import ModelName
from mbuild.server.shapes import CREATE


def test_every_field_is_a_row_that_both_front_ends_take() -> None:
    """Flag, help, value, the API's field, the name in explanations: all from the table."""
    assert (*CONVERSION,) == Conversion._fields
    command = converting_options(click.Command("options"))
    asked = {name: param for param in command.params for name in param.opts}
    for option in CONVERSION.values():
        param = asked[option.flag]
        assert isinstance(param, click.Option)
        assert (param.name, param.help) == (option.name, option.help)
        assert (option.flag in WITH_VALUE) == bool(option.kind.metavar)
        assert option.name in CREATE.fields
        assert CONVERSION_NAMES["conversion", option.name] == option.flag


@pytest.mark.parametrize(
    ("given", "value", "flags"),
    (
        ({}, AS_IT_IS, []),
        ({"fp8_as_q8": True}, Conversion(fp8_as_q8=True), [("--fp8-as-q8", "")]),
        ({"keep_quantized": True}, Conversion(keep_quantized=True), [("--keep-quantized", "")]),
        ({"model_name": "Mario"}, Conversion(model_name="Mario"), [("--model-name", "Mario")]),
        ({"mtp": True}, Conversion(mtp=True), [("--mtp", "")]),
    ),
)
def test_options_are_read_and_written(
    given: dict[str, Any], value: Conversion, flags: list[tuple[str, str]]
) -> None:
    """From texts and JSON, and back; a request has them, and a command line gives them again."""
    assert Conversion.parse(given) == value
    nothing = {row.name: () if row.kind.repeats else None for row in CONVERSION.values()}
    assert conversion_of({**nothing, **given}) == value
    request = BuildRequest((Target((ModelName.parse("m"),)),), conversion=value)
    assert BuildRequest.from_json(request.to_json()) == request
    assert request.flags() == flags
    assert value.fields().keys() == ({"conversion"} if given else set())


@pytest.mark.parametrize(
    ("given", "says"),
    (
        ({"fp8_as_q8": 1}, "neither true nor false"),
        ({"keep": True}, "unknown option of a conversion 'keep'"),
        (
            {"keep_quantized": True, "dequantize": True},
            "--keep-quantized and --dequantize cannot be combined",
        ),
        ({"mtp": True, "no_mtp": True}, "--no-mtp and --mtp cannot be combined"),
        ({"metadata": "{"}, "the metadata is not JSON"),
        ({"metadata": []}, "the metadata is not a JSON object"),
        ({"metadata": {"llama.block_count": 3}}, "'llama.block_count' is not metadata"),
        ({"metadata": {"general.name": 3}}, "general.name cannot be 3"),
        ({"metadata": {"general.tags": "a"}}, "general.tags cannot be 'a'"),
        ({"metadata": {"general.sampling.temp": True}}, "general.sampling.temp cannot be True"),
    ),
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    """One error, which names the option or the value."""
    with pytest.raises(UsageError) as refused:
        Conversion.parse(given)
    assert says in refused.value.message


def test_fp8_weights_can_become_q8_0(tmp_path: Path) -> None:
    """Those that were FP8 and no others, whatever matrices become."""
    checkpoint = open_checkpoint("tiny", write_checkpoint(tmp_path, spec("llama_fp8")))
    body = convert_body(checkpoint, options=Conversion(fp8_as_q8=True))
    types = {tensor.name: tensor.type.name for tensor in body.tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0" and types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert DATA.is_dir() and not list(not_kept(checkpoint, Conversion(keep_quantized=True)))


def body_of(folder: Path, name: str, **options: Any) -> BareModel:
    place = folder / "-".join([name, *options])
    checkpoint = open_checkpoint("tiny", write_checkpoint(place, spec(name)))
    return convert_body(checkpoint, options=Conversion(**options))


def test_gate_and_up_of_experts_can_be_one(tmp_path: Path) -> None:
    """Gate above up, expert by expert, where the later one stood; else it is refused."""
    plain = {t.name: t for t in body_of(tmp_path, "qwen3_5_moe").tensors}
    fused = {t.name: t for t in body_of(tmp_path, "qwen3_5_moe", fuse_gate_up_exps=True).tensors}
    whole = fused["blk.0.ffn_gate_up_exps.weight"]
    gate, up = (plain[f"blk.0.ffn_{part}_exps.weight"] for part in ("gate", "up"))
    width, high, experts = gate.dims
    assert whole.dims == (width, 2 * high, experts) and gate.name not in fused
    size = gate.nbytes // experts
    parts = [bytes(tensor.load()) for tensor in (gate, up)]
    both = b"".join(part[n * size : (n + 1) * size] for n in range(experts) for part in parts)
    assert bytes(whole.load()) == both
    with pytest.raises(UnsupportedError, match="no place for fused experts in qwen3moe models"):
        body_of(tmp_path, "qwen3_moe", fuse_gate_up_exps=True)


@pytest.mark.parametrize("name", ("llama", "qwen2"))
def test_queries_keys_and_values_can_be_one(name: str, tmp_path: Path) -> None:
    """Weights and biases, one behind another."""
    plain = {t.name: t for t in body_of(tmp_path, name).tensors}
    fused = {t.name: t for t in body_of(tmp_path, name, fuse_qkv=True).tensors}
    for ending in ("weight", "bias"):
        parts = [plain.get(f"blk.1.attn_{part}.{ending}") for part in "qkv"]
        whole = fused.get(f"blk.1.attn_qkv.{ending}")
        assert (whole is None) == (None in parts)
        if whole is not None:
            assert bytes(whole.load()) == b"".join(bytes(p.load()) for p in parts if p)
    assert not any(".attn_k." in tensor for tensor in fused)


def test_a_model_whose_layers_cannot_be_fused_stays_as_it_is(tmp_path: Path) -> None:
    """llama.cpp's converter leaves architectures without a place for it alone."""
    plain = body_of(tmp_path, "deepseek_v2_lite").tensors
    fused = body_of(tmp_path, "deepseek_v2_lite", fuse_qkv=True).tensors
    assert [tensor.name for tensor in plain] == [tensor.name for tensor in fused]


def test_layers_ahead_can_be_left_out_or_be_all(tmp_path: Path) -> None:
    """Without them the metadata does not speak of them; alone they have the embedding and head."""
    whole = body_of(tmp_path, "glm4_moe")
    without = body_of(tmp_path, "glm4_moe", no_mtp=True)
    alone = body_of(tmp_path, "glm4_moe", mtp=True)
    last = whole.hyper.blocks - 1
    assert without.hyper.blocks == last
    assert not any(f"blk.{last}." in tensor.name for tensor in without.tensors)
    assert not any("nextn" in kv.key for kv in without.keys)
    assert {t.name for t in without.tensors} | {t.name for t in alone.tensors} == {
        t.name for t in whole.tensors
    }
    outside = {t.name for t in alone.tensors if not t.name.startswith(f"blk.{last}.")}
    assert outside == {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert [kv.key for kv in alone.keys] == [kv.key for kv in whole.keys]
    for options in ({"no_mtp": True}, {"mtp": True}):
        with pytest.raises(UnsupportedError, match="llama models have no layers"):
            body_of(tmp_path, "llama", **options)
    with pytest.raises(UnsupportedError, match="the checkpoint has no layers for"):
        saved = spec("glm4_moe")
        (shard,) = saved["tensors"].values()
        for gone in [n for n in shard if f".layers.{last}." in n]:
            del shard[gone]
        convert_body(
            open_checkpoint("tiny", write_checkpoint(tmp_path / "x", saved)),
            options=Conversion(mtp=True),
        )


@pytest.mark.parametrize("outtype", (OutType.TQ1_0, OutType.TQ2_0))
def test_matrices_can_be_ternary(outtype: OutType, tmp_path: Path) -> None:
    """But for embeddings, the head, and rows that are no whole blocks: those are F16."""
    case = resized(spec("llama"), {64: 256, 32: 128}, layers=1)
    checkpoint = open_checkpoint("tiny", write_checkpoint(tmp_path, case))
    body = convert_body(checkpoint, outtype)
    types = {tensor.name: tensor.type.name for tensor in body.tensors}
    assert types["blk.0.attn_q.weight"] == outtype.name
    assert types["token_embd.weight"] == types["blk.0.ffn_down.weight"] == "F16"
    assert next(kv.value for kv in body.keys if kv.key == "general.file_type") == (
        36 if outtype is OutType.TQ1_0 else 37
    )
    matrix = next(tensor for tensor in body.tensors if tensor.name == "blk.0.attn_q.weight")
    assert len(bytes(matrix.load())) == matrix.nbytes


def dense(folder: Path) -> dict[str, Path]:
    """An EmbeddingGemma with two dense layers behind it."""
    write_checkpoint(folder, spec("embedding_gemma"))
    kinds = [("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Dense", "3_Dense")]
    modules = [{"type": f"sentence_transformers.models.{k}", "path": p} for k, p in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    sizes = {"2_Dense": (64, 96), "3_Dense": (96, 64)}
    for name, (inner, outer) in sizes.items():
        (folder / name).mkdir(exist_ok=True)
        settings = {"in_features": inner, "out_features": outer}
        (folder / name / "config.json").write_text(json.dumps(settings))
        write_shard(folder / name / "model.safetensors", {"linear.weight": f"F32 {outer} {inner}"})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return files_of(folder)


def test_dense_layers_behind_an_embedding_model(tmp_path: Path) -> None:
    """First in the file, with their sizes before the pooling; a warning where they are left out."""
    files = dense(tmp_path / "x")
    checkpoint = open_checkpoint("tiny", files)
    options = Conversion(sentence_transformers_dense_modules=True)
    body = convert_body(checkpoint, options=options)
    first, second, *_ = body.tensors
    assert (first.name, first.dims) == ("dense_2.weight", (64, 96))
    assert (second.name, second.dims) == ("dense_3.weight", (96, 64))
    keys = [kv.key.partition(".")[2] for kv in body.keys]
    assert keys[-5:] == [
        "dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out", "pooling_type"
    ]  # fmt: skip
    (told,) = unused_modules(body.hyper)
    assert "--sentence-transformers-dense-modules" in told and dense_folders(body.hyper)
    del files["3_Dense/model.safetensors"]
    with pytest.raises(SourceError, match=r"3_Dense/model\.safetensors, which is"):
        convert_body(open_checkpoint("tiny", files), options=options)
    (tmp_path / "x" / "2_Dense" / "config.json").write_text("{}")
    fresh = convert_body(open_checkpoint("tiny", files)).hyper
    with pytest.raises(FormatError, match="in_features is None"):
        list(dense_sizes(fresh))
    with pytest.raises(UnsupportedError, match="no place for them in llama models"):
        list(dense_layers(body_of(tmp_path, "llama").hyper, {}))


def test_metadata_can_be_given(tmp_path: Path) -> None:
    """By its keys, as gguf-py's override has it; the name's own option counts before it."""
    said = {
        "general.name": "Other", "general.author": "Me", "general.quantized_by": "You",
        "general.size_label": "9B", "general.tags": ["a"], "general.sampling.top_k": 7,
        "general.base_models": [{"name": "Base", "unknown": "x"}],
    }  # fmt: skip
    options = Conversion.parse({"metadata": said, "model_name": "Mario"})
    entries = general(
        "tiny",
        {},
        "llama",
        Parameters(5),
        model_name=options.model_name,
        override=options.overrides,
    )
    found = {kv.key: kv.value for kv in entries}
    assert found["general.name"] == "Mario" and found["general.quantized_by"] == "You"
    assert found["general.size_label"] == "9B" and found["general.tags"] == ["a"]
    assert found["general.base_model.0.name"] == "Base" and found["general.sampling.top_k"] == 7
    keys = [kv.key for kv in entries]
    assert keys.index("general.quantized_by") < keys.index("general.size_label")


def test_the_command_line_reads_the_file_of_metadata(tmp_path: Path) -> None:
    """What is asked for is its content: another file of the same is the same build."""
    path = tmp_path / "meta.json"
    path.write_text('{"general.author": "Me"}')
    nothing = {row.name: () if row.kind.repeats else None for row in CONVERSION.values()}
    asked = conversion_of({**nothing, "metadata": str(path)})
    assert asked.overrides == {"general.author": "Me"}
    path.write_bytes(b"\xff")
    with pytest.raises(SourceError, match=r"meta\.json"):
        conversion_of({**nothing, "metadata": str(path)})


def test_an_unknown_class_can_be_converted_as_a_llama(tmp_path: Path) -> None:
    """If its tensors fit, with a warning; a class with a row of its own is that."""
    case = spec("llama")
    case["files"]["config.json"]["architectures"] = ["ZebraForCausalLM"]
    files = write_checkpoint(tmp_path / "a", case)
    with pytest.raises(UnsupportedError, match="'ZebraForCausalLM'") as caught:
        open_checkpoint("tiny", files)
    assert "--as llama" in caught.value.hint and "--converter PATH" in caught.value.hint
    checkpoint = open_checkpoint("tiny", files, like="llama")
    assert "only whoever made it knows" in checkpoint.warnings[-1]
    plain = open_checkpoint("tiny", write_checkpoint(tmp_path / "b", spec("llama")))
    assert [t.name for t in convert_body(checkpoint).tensors] == [
        t.name for t in convert_body(plain).tensors
    ]
    with pytest.raises(UnsupportedError, match="has a family of its own, llama"):
        open_checkpoint("tiny", write_checkpoint(tmp_path / "c", spec("llama")), like="llama")
    (shard,) = case["tensors"].values()
    shard["model.layers.0.self_attn.q_norm.weight"] = "BF16 16"
    other = open_checkpoint("tiny", write_checkpoint(tmp_path / "d", case), like="llama")
    with pytest.raises((FormatError, UnsupportedError), match="place"):
        convert(other, pre="llama-bpe")


@pytest.mark.parametrize(
    ("name", "near"),
    (
        ("LlamaForCausalLMX", "LlamaForCausalLM"),
        ("Qwen3ForCausalML", "Qwen3ForCausalLM"),
        ("Qwen33ForCausalLM", "Qwen3ForCausalLM"),
        ("ZebraForCausalLM", ""),
        ("PythiaForCausalLM", ""),
        ("ForCausalLM", ""),
    ),
)
def test_only_names_that_are_really_near_are_offered(name: str, near: str) -> None:
    """A common ending makes no two families alike."""
    with pytest.raises(UnsupportedError) as caught:
        find(name)
    assert near in caught.value.hint and ("did you mean" in caught.value.hint) == bool(near)


def test_tensors_one_behind_another() -> None:
    """Any part can be asked for; different types become F32."""
    halves = Lazy(DType.F16, (2, 3), lambda: np.ones((2, 3), np.float16), "a")
    whole = Lazy(DType.F32, (1, 3), lambda: np.zeros((1, 3), np.float32), "b")
    made = joined([halves, whole], 0)
    assert made.dtype is DType.F32 and made.load().tolist() == [[1] * 3] * 2 + [[0] * 3]
    flat = np.arange(6, dtype=np.float32)
    cut = Lazy(
        DType.F32,
        (2, 3),
        lambda: flat.reshape(2, 3),
        "c",
        part=lambda start, stop: flat[start:stop],
    )
    both = joined([cut, cut], 0)
    assert both.part is not None and both.part(4, 9).tolist() == [4, 5, 0, 1, 2]
