"""Adapters folded into weights, against the same sum made with numpy in float64.

The reference never sees mbuild's merging: it adds to the checkpoint's own tensors, rounds
once, and the merged checkpoint is converted as any other.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, save, write_mlx, write_peft
from checkpoints import DATA, files_of, write_checkpoint
from llama_runs import write_vocabulary

from mbuild.convert.changing.taking import grown
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert, convert_body
from mbuild.convert.lora.adapter import convert_adapter, open_adapter
from mbuild.convert.lora.base import base_of_model
from mbuild.convert.lora.folding import changes_of_folder, changes_of_gguf
from mbuild.convert.lora.merging import MergedRows, merged_model, rounded
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.safetensors import DType, read_header
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV, Model
from mbuild.gguf.types import GGMLType, ValueType

Array = np.ndarray[Any, Any]

FAMILIES = {
    "llama": r"(q|k|v|o|up|gate|down)_proj\.weight",
    "llama_linear": r"(q|k|down)_proj\.weight",
    "qwen2": r"(q|k|v|o|up|gate|down)_proj\.weight",
    "gemma2": r"(q|k|v|o|up|gate|down)_proj\.weight",
    "mixtral": r"(q_proj|w1|w2|w3)\.weight",
    "bert": r"(query|key|value|dense)\.weight",
    "falcon_7b": r"(query_key_value|dense)\.weight",
    "phi3": r"(qkv_proj|o_proj|gate_up_proj|down_proj)\.weight",
    "starcoder2": r"(q|k|v|o)_proj\.weight",
}
"""The tensors that an adapter of each family changes here."""


def loaded(folder: Path) -> dict[str, tuple[DType, Array]]:
    """The tensors of a checkpoint: the type, and the elements (BF16 as uint16)."""
    views = {DType.F32: "<f4", DType.F16: "<f2", DType.BF16: "<u2", DType.I64: "<i8"}
    return {
        tensor.name: (tensor.dtype, tensor.read().view(views[tensor.dtype]).reshape(tensor.shape))
        for path in sorted(folder.glob("*.safetensors"))
        for tensor in read_header(path, path.name)
    }


def doubles(dtype: DType, values: Array) -> Array:
    """The values as float64."""
    if dtype is DType.BF16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def nearest(values: Array, dtype: DType) -> Array:
    """Doubles rounded once to nearest, to even: of BF16 by the bits of the double itself."""
    if dtype is DType.BF16:
        bits = np.ascontiguousarray(values).view(np.uint64)
        half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
        cut = (bits + half) >> np.uint64(45) << np.uint64(45)
        single = cut.view(np.float64).astype(np.float32)
        return (single.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype("<f2" if dtype is DType.F16 else "<f4")


def converted(folder: Path, outtype: OutType = OutType.AUTO) -> Model:
    """The checkpoint as a GGUF model, without a vocabulary."""
    body = convert_body(open_checkpoint("m", files_of(folder)), outtype)
    arch = KV("general.architecture", ValueType.STRING, body.hyper.arch)
    return Model((arch, *body.early, *body.keys), body.tensors)


def bytes_of(model: Model) -> dict[str, bytes]:
    """Every tensor's bytes."""
    return {tensor.name: bytes(memoryview(tensor.load())) for tensor in model.tensors}


def merged(
    model: Model,
    *adapters: tuple[Path, float],
    warn: Callable[[str], None] = lambda text: None,
) -> Model:
    """The model with adapters of folders in it."""
    base = base_of_model(model)
    changes = [changes_of_folder(f.name, files_of(f), base, w, warn) for f, w in adapters]
    return merged_model(model, changes)


def reference(
    folder: Path, target: Path, deltas: Mapping[str, Array], **further: tuple[DType, Array]
) -> Path:
    """A copy of a checkpoint with deltas added to its tensors, rounded once."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    arrays = {}
    for name, (dtype, values) in loaded(folder).items():
        if name in deltas:
            values = nearest(doubles(dtype, values) + deltas[name], dtype)
        arrays[name] = values
    arrays |= {name: values for name, (_, values) in further.items()}
    save(target / "model.safetensors", arrays)
    return target


def shapes_of(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """The modules (without ``.weight``) whose weights a pattern names, with their shapes."""
    return {
        name.removesuffix(".weight"): (values.shape[0], values.shape[1])
        for name, (_, values) in loaded(folder).items()
        if re.search(pattern, name) and values.ndim == 2
    }


def product(pair: tuple[Array, Array], scale: float) -> Array:
    """The change of a weight, in float64."""
    a, b = (each.astype(np.float64) for each in pair)
    return b @ a * scale


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A small checkpoint of each family, and what is changed in it."""
    spec = json.loads((DATA / f"{request.param}.json").read_text())
    write_checkpoint(tmp_path / "base", spec)
    yield tmp_path / "base", FAMILIES[request.param]


def test_two_adapters_are_added_and_rounded_once(family: tuple[Path, str], tmp_path: Path) -> None:
    """Every tensor is that of the checkpoint into which numpy merged, in either order."""
    folder, pattern = family
    shapes = shapes_of(folder, pattern)
    assert len(shapes) >= 3
    one, two = factors(shapes, 4, 1), factors(shapes, 3, 2)
    first = write_peft(tmp_path / "one", one, rank=4, alpha=8)
    second = write_peft(tmp_path / "two", two, rank=3, alpha=5)
    deltas = {
        f"{name}.weight": product(one[name], 8 / 4 * 0.5) + product(two[name], 5 / 3 * -1.25)
        for name in shapes
    }
    whole = any(dtype is DType.F32 for dtype, _ in loaded(folder).values())
    outtype = OutType.F32 if whole else OutType.AUTO  # the reference rounds to the checkpoint's
    wanted = bytes_of(converted(reference(folder, tmp_path / "merged", deltas), outtype))
    warned: list[str] = []
    base = converted(folder, outtype)
    made = bytes_of(merged(base, (first, 0.5), (second, -1.25), warn=warned.append))
    assert len(warned) == (2 if "pooler.dense" in shapes else 0)
    again = bytes_of(merged(base, (second, -1.25), (first, 0.5)))
    assert made == again
    assert wanted.keys() == made.keys()
    assert [name for name in wanted if wanted[name] != made[name]] == []
    assert made != bytes_of(base)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A small Llama checkpoint."""
    write_checkpoint(tmp_path / "base", json.loads((DATA / "llama.json").read_text()))
    return tmp_path / "base"


@pytest.mark.parametrize("outtype", [OutType.F32, OutType.F16, OutType.BF16])
def test_the_sum_is_rounded_to_the_type_that_is_asked_for(
    llama: Path, tmp_path: Path, outtype: OutType
) -> None:
    """The checkpoint's own values and the adapter's are added, and rounded once."""
    shapes = shapes_of(llama, "down_proj")
    pairs = factors(shapes, 4, 3)
    adapter = write_peft(tmp_path / "l", pairs, rank=4, alpha=4)
    dtype = {OutType.F32: DType.F32, OutType.F16: DType.F16, OutType.BF16: DType.BF16}[outtype]
    made = bytes_of(merged(converted(llama, outtype), (adapter, 1.0)))
    name = next(iter(pairs))
    sums = doubles(*loaded(llama)[f"{name}.weight"]) + product(pairs[name], 1.0)
    assert made["blk.0.ffn_down.weight"] == nearest(sums, dtype).tobytes()


@pytest.mark.parametrize("stabilized", [False, True])
def test_patterns_of_ranks_and_alphas_keep_their_scale(
    llama: Path, tmp_path: Path, stabilized: bool
) -> None:
    """Each module has its own rank and alpha; rank-stabilized ones divide by the root."""
    shapes = shapes_of(llama, r"\.0\..*(q|o)_proj")
    pairs = {
        name: next(iter(factors({name: shape}, 4 if "q" in name[-6:] else 2, 5).values()))
        for name, shape in shapes.items()
    }
    adapter = write_peft(
        *(tmp_path / "l", pairs),
        **{"rank": 4, "alpha": 8, "use_rslora": stabilized, "rank_pattern": {"o_proj": 2}},
        alpha_pattern={"o_proj": 3},
    )
    scales = {"q_proj": (8, 4), "o_proj": (3, 2)}
    deltas = {}
    for name, pair in pairs.items():
        alpha, rank = scales[name.rpartition(".")[2]]
        scale = alpha / (math.sqrt(rank) if stabilized else rank)
        deltas[f"{name}.weight"] = product(pair, scale)
    wanted = bytes_of(converted(reference(llama, tmp_path / "merged", deltas)))
    assert bytes_of(merged(converted(llama), (adapter, 1.0))) == wanted


def test_a_gguf_adapter_is_what_the_folder_is(llama: Path, tmp_path: Path) -> None:
    """An adapter that was converted merges to the same bytes."""
    pairs = factors(shapes_of(llama, r"(q|k|v|down)_proj"), 4, 6)
    folder = write_peft(tmp_path / "l", pairs, rank=4, alpha=8)
    model = converted(llama)
    base = base_of_model(model)
    adapter = convert_adapter(open_adapter("l", files_of(folder)), base)
    made = merged_model(model, [changes_of_gguf(adapter, "l.gguf", base, 0.5)])
    assert bytes_of(made) == bytes_of(merged(model, (folder, 0.5)))


def test_an_adapter_of_mlx_has_its_factors_transposed(llama: Path, tmp_path: Path) -> None:
    """Its scale is the one number that the config names."""
    pairs = factors(shapes_of(llama, r"(q|v)_proj"), 4, 7)
    mlx = write_mlx(tmp_path / "mlx", pairs, scale=2.5)
    peft = write_peft(tmp_path / "peft", pairs, rank=4, alpha=10)
    model = converted(llama)
    assert bytes_of(merged(model, (mlx, 1.0))) == bytes_of(merged(model, (peft, 1.0)))


@pytest.mark.parametrize("old", [False, True], ids=["three axes", "two axes"])
@pytest.mark.parametrize(
    ("spec", "block", "names"),
    [
        ("mixtral", "block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
        ("qwen2_moe", "mlp", {part: f"{part}_proj" for part in ("gate", "up", "down")}),
    ],
)
def test_an_adapter_of_mlx_has_the_experts_in_one(
    spec: str, block: str, names: Mapping[str, str], old: bool, tmp_path: Path
) -> None:
    """Factors of a ``switch_mlp`` are those of its experts, one after another, as PEFT has them."""
    base = tmp_path / "base"
    write_checkpoint(base, json.loads((DATA / f"{spec}.json").read_text()))
    shapes = shapes_of(base, rf"layers\.1\.{block}\.experts\.\d+\.\w+\.weight")
    pairs = factors(shapes, 4, 12)
    peft = write_peft(tmp_path / "peft", pairs, rank=4, alpha=8)
    arrays = {}
    for part, name in names.items():
        experts = [f"model.layers.1.{block}.experts.{n}.{name}" for n in range(len(pairs) // 3)]
        a, b = (np.stack([pairs[expert][kind] for expert in experts]) for kind in (0, 1))
        module = f"model.layers.1.{block}.switch_mlp.{part}_proj"
        arrays[f"{module}.lora_a"] = a.reshape(-1, a.shape[-1]) if old else a
        arrays[f"{module}.lora_b"] = b
    mlx = write_mlx(tmp_path / "mlx", {}, scale=2.0)
    save(mlx / "adapters.safetensors", arrays)
    model = converted(base)
    made = bytes_of(merged(model, (mlx, 1.0)))
    assert made == bytes_of(merged(model, (peft, 1.0)))
    assert len([name for name, data in bytes_of(model).items() if data != made[name]]) == 3


def test_whole_weights_take_the_place_of_the_bases(llama: Path, tmp_path: Path) -> None:
    """modules_to_save and trained norms; with a weight they go a part of the way."""
    name = "model.layers.0.post_attention_layernorm.weight"
    dtype, old = loaded(llama)[name]
    new = np.full(old.shape, 2.0, np.float32)
    pairs = factors(shapes_of(llama, "q_proj"), 2, 8)
    adapter = write_peft(
        *(tmp_path / "l", pairs),
        **{"rank": 2, "alpha": 2, "whole": {name: new}, "modules_to_save": ["norm"]},
    )
    made = bytes_of(merged(converted(llama), (adapter, 1.0)))
    assert made["blk.0.ffn_norm.weight"] == new.tobytes()
    half = bytes_of(merged(converted(llama), (adapter, 0.5)))["blk.0.ffn_norm.weight"]
    wanted = (doubles(dtype, old) + 0.5 * (2.0 - doubles(dtype, old))).astype(np.float32)
    assert half == wanted.tobytes()


def test_tokens_that_training_added_come_into_the_vocabulary(llama: Path, tmp_path: Path) -> None:
    """Embeddings with more rows bring their tokens, which the adapter's tokenizer names."""
    _, old = loaded(llama)["model.embed_tokens.weight"]
    new = np.random.default_rng(9).normal(0, 1, (old.shape[0] + 2, old.shape[1]))
    names = ("model.embed_tokens.weight", "lm_head.weight")
    adapter = write_peft(
        *(tmp_path / "l", factors(shapes_of(llama, "q_proj"), 2, 8)),
        **{"rank": 2, "alpha": 2, "whole": dict.fromkeys(names, new.astype(np.float32))},
    )
    write_vocabulary(llama, "llama", old.shape[0])
    model = convert(open_checkpoint("m", files_of(llama)))
    made = merged(model, (adapter, 1.0))
    count = len(model.read("tokenizer.ggml.tokens"))
    longer = grown(made, old.shape[0], {count: ("<|tool|>", True)})
    assert {t.name: t.dims for t in longer.tensors}["token_embd.weight"][-1] == old.shape[0] + 2
    tokens = longer.read("tokenizer.ggml.tokens")
    assert len(tokens) == old.shape[0] + 2
    assert tokens[count] == "<|tool|>"
    assert longer.read("tokenizer.ggml.token_type")[count] == 3
    with pytest.raises(FormatError, match="more rows than the base"):
        merged(model, (adapter, 0.5))


def test_a_tied_output_that_is_changed_becomes_its_own(llama: Path, tmp_path: Path) -> None:
    """The embeddings stay as they are: the adapter was trained on the output alone."""
    folder = reference(llama, tmp_path / "tied", {})
    arrays = {n: v for n, (_, v) in loaded(folder).items() if n != "lm_head.weight"}
    save(folder / "model.safetensors", arrays)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    dtype, embeddings = loaded(folder)["model.embed_tokens.weight"]
    pairs = factors({"lm_head": (embeddings.shape[0], embeddings.shape[1])}, 2, 4)
    adapter = write_peft(tmp_path / "l", pairs, rank=2, alpha=2)
    made = bytes_of(merged(converted(folder), (adapter, 1.0)))
    wanted = nearest(doubles(dtype, embeddings) + product(pairs["lm_head"], 1.0), dtype)
    assert made["token_embd.weight"] == embeddings.tobytes()
    assert made["output.weight"] == wanted.tobytes()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "an adapter whose B has a bias"),
        ({"peft_type": "IA3"}, "adapters of type 'IA3'"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused_by_name(
    llama: Path, tmp_path: Path, config: Mapping[str, Any], message: str
) -> None:
    """With the way to do it elsewhere."""
    pairs = factors(shapes_of(llama, "q_proj"), 2, 1)
    adapter = write_peft(tmp_path / "l", pairs, rank=2, alpha=2, **config)
    with pytest.raises(UnsupportedError, match=message):
        merged(converted(llama), (adapter, 1.0))


def test_dora_of_mlx_is_refused_by_name(llama: Path, tmp_path: Path) -> None:
    """As of PEFT."""
    pairs = factors(shapes_of(llama, "q_proj"), 2, 1)
    adapter = write_mlx(tmp_path / "l", pairs, scale=2.0, fine_tune_type="dora")
    with pytest.raises(UnsupportedError, match="DoRA"):
        merged(converted(llama), (adapter, 1.0))


def test_an_adapter_for_another_base_is_refused(llama: Path, tmp_path: Path) -> None:
    """By the tensor's name and both shapes."""
    name, (rows, columns) = next(iter(shapes_of(llama, "down_proj").items()))
    pairs = factors({name: (rows, columns + 1)}, 2, 1)
    adapter = write_peft(tmp_path / "l", pairs, rank=2, alpha=2)
    with pytest.raises(FormatError, match="ffn_down"):
        merged(converted(llama), (adapter, 1.0))


def test_pieces_are_the_whole(llama: Path, tmp_path: Path) -> None:
    """However a merged tensor is cut into ranges of rows, the bytes are the same."""
    pairs = factors(shapes_of(llama, "down_proj"), 3, 1)
    model = merged(converted(llama), (write_peft(tmp_path / "l", pairs, rank=3, alpha=2), 1.0))
    tensor = next(t for t in model.tensors if t.name == "blk.0.ffn_down.weight")
    assert isinstance(tensor.load, MergedRows)
    row = tensor.nbytes // tensor.dims[1]
    pieces = list(tensor.load.pieces(3 * row, row))
    assert len(pieces) > 2
    assert sum(piece.count for piece in pieces) == tensor.nbytes
    assert b"".join(bytes(piece()) for piece in pieces) == bytes(tensor.load())


def test_doubles_are_rounded_once() -> None:
    """A way over F32 would round 1 + 2^-8 + 2^-30 to even twice, and down."""
    values = np.array([[1 + 2**-8 + 2**-30, 1 + 2**-8, -(1 + 2**-8 + 2**-30), 3 * 2.0**-127]])
    assert rounded(values, GGMLType.BF16, "t").tolist() == [[0x3F81, 0x3F80, 0xBF81, 0x00C0]]
    rest = np.random.default_rng(0).normal(0, 1, (64, 64))
    assert (rounded(rest, GGMLType.BF16, "t") == nearest(rest, DType.BF16)).all()


@pytest.mark.parametrize(
    ("value", "type_"), [(1e6, GGMLType.F16), (math.nan, GGMLType.F32), (3.4e38, GGMLType.BF16)]
)
def test_what_a_type_cannot_hold_is_refused(value: float, type_: GGMLType) -> None:
    """By the tensor's name, never written."""
    with pytest.raises(FormatError, match=f"t: merging gives .*{type_.name}"):
        rounded(np.array([[0.0, value]]), type_, "t")
