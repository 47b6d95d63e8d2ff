"""LoRA adapters: what the factors multiply to is what the whole weight becomes."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import write_torch_zip

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import hyper_parameters
from mbuild.convert.lora.adapter import convert_adapter, open_adapter
from mbuild.convert.lora.base import Base, base_of_model
from mbuild.convert.lora.factors import Pair, scaled
from mbuild.convert.lora.mlx import MLX_WEIGHTS
from mbuild.convert.lora.settings import LoraConfig
from mbuild.convert.model_tensors import model_tensors, source_tensors
from mbuild.convert.read.dtypes import OutType, to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.rules import each
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.core.values import replace
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType

Arrays = dict[str, np.ndarray[Any, Any]]
RANK, ALPHA = 3, 6.0

WIDTHS: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "vocab_size": 40,
}
ATTENTION = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.self_attn.k_proj": (8, 16),
    "model.layers.0.self_attn.v_proj": (8, 16),
    "model.layers.0.self_attn.o_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
}
EXPERT = "model.layers.0.mlp.experts"
MIXTRAL = "model.layers.0.block_sparse_moe.experts"

FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, int]]]] = {
    "LlamaForCausalLM": (WIDTHS, ATTENTION),
    "Qwen2ForCausalLM": (WIDTHS, ATTENTION),
    "Gemma2ForCausalLM": (WIDTHS | {"head_dim": 4}, ATTENTION),
    "FalconForCausalLM": (
        WIDTHS | {"num_kv_heads": 2, "new_decoder_architecture": True, "layer_norm_epsilon": 1e-5},
        {"transformer.h.0.self_attention.query_key_value": (32, 16)},
    ),
    "GPTNeoXForCausalLM": (WIDTHS, {"gpt_neox.layers.0.attention.query_key_value": (48, 16)}),
    "InternLM2ForCausalLM": (WIDTHS, {"model.layers.0.attention.wqkv": (32, 16)}),
    "MixtralForCausalLM": (
        WIDTHS | {"num_local_experts": 2, "num_experts_per_tok": 1},
        {f"{MIXTRAL}.{i}.{w}": (16, 24) if w == "w2" else (24, 16)
         for i in range(2) for w in ("w1", "w2", "w3")},
    ),
    "Qwen3MoeForCausalLM": (
        WIDTHS | {"num_experts": 2, "num_experts_per_tok": 1, "head_dim": 4,
                  "moe_intermediate_size": 8},
        {f"{EXPERT}.{i}.{p}_proj": (16, 8) if p == "down" else (8, 16)
         for i in range(2) for p in ("down", "gate", "up")},
    ),
}  # fmt: skip


def _save(path: Path, arrays: Arrays) -> Path:
    """A safetensors file of float32 and float16 arrays, or of bfloat16 as uint16."""
    kinds = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    header, data = {}, b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        place = [len(data), len(data) + len(raw)]
        dtype = kinds[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": place}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _integers(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(-5, 6, shape).astype(np.float32)


def _factors(shapes: dict[str, tuple[int, int]], rank: int = RANK) -> Arrays:
    """Factors of small whole numbers, so that products are exact."""
    arrays: Arrays = {}
    for seed, (name, (rows, columns)) in enumerate(shapes.items()):
        prefix = f"base_model.model.{name}"
        arrays[f"{prefix}.lora_A.weight"] = _integers((rank, columns), 2 * seed)
        arrays[f"{prefix}.lora_B.weight"] = _integers((rows, rank), 2 * seed + 1)
    return arrays


def _products(factors: Arrays) -> Arrays:
    """The weights that factors stand for, under the base's names."""
    pairs = {name.split(".lora_")[0] for name in factors}
    return {
        name.removeprefix("base_model.model.") + ".weight": (
            factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
        )
        for name in sorted(pairs)
    }


def _checkpoint(folder: Path, class_: str, config: dict[str, Any], arrays: Arrays) -> Base:
    folder.mkdir(parents=True)
    config_file = folder / "config.json"
    config_file.write_text(json.dumps({"architectures": [class_], **config}))
    files = {
        "config.json": config_file,
        "model.safetensors": _save(folder / "model.safetensors", arrays),
    }
    checkpoint = open_checkpoint(folder.name, files)
    row = checkpoint.family
    hp = hyper_parameters(checkpoint, OutType.F32)
    found = model_tensors(hp, row, source_tensors(checkpoint))
    return Base(row, hp, {name: tuple(reversed(item.shape)) for name, item, *_ in found})


def _whole(folder: Path) -> Arrays:
    """GGUF's tensors of a checkpoint, as float32."""
    files = {path.name: path for path in folder.iterdir()}
    checkpoint = open_checkpoint(folder.name, files)
    hp = hyper_parameters(checkpoint, OutType.F32)
    items = model_tensors(hp, checkpoint.family, source_tensors(checkpoint))
    found = {name: item for name, item, *_ in items if isinstance(item, Lazy)}
    return {name: to_f32(item.load(), item.dtype) for name, item in found.items()}


def _adapter_files(folder: Path, arrays: Arrays, **config: Any) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return {
        "adapter_config.json": folder / "adapter_config.json",
        "adapter_model.safetensors": _save(folder / "adapter_model.safetensors", arrays),
    }


def _convert(
    folder: Path, base: Base, arrays: Arrays, outtype: OutType = OutType.F32, **config: Any
) -> Model:
    adapter = open_adapter(folder.name, _adapter_files(folder, arrays, **config))
    return convert_adapter(adapter, base, outtype)


def _values(tensor: Tensor) -> np.ndarray[Any, Any]:
    assert tensor.type is GGMLType.F32
    return np.frombuffer(bytes(tensor.load()), np.float32).reshape(tensor.dims[::-1])


def _multiplied(model: Model) -> Arrays:
    """B A of every pair of a GGUF adapter, under the weights' names."""
    tensors = {tensor.name: _values(tensor) for tensor in model.tensors}
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    return {name: tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"] for name in names}


@pytest.mark.parametrize("class_", FAMILIES)
def test_factors_multiply_to_the_converted_weight(class_: str, tmp_path: Path) -> None:
    """Whatever a family's rules do to a weight, they do to B A: permute, regroup, split, stack."""
    config, shapes = FAMILIES[class_]
    factors = _factors(shapes)
    base = _checkpoint(tmp_path / "base", class_, config, _products(factors))
    got = _multiplied(_convert(tmp_path / "adapter", base, factors))
    expected = _whole(tmp_path / "base")
    assert got.keys() == expected.keys()
    for name, values in got.items():
        assert np.array_equal(values, expected[name]), name


def test_gpt2_factors_are_for_the_weight_as_it_is_used(tmp_path: Path) -> None:
    """GPT-2 stores its matrices transposed, and PEFT adds the transpose of B A to them."""
    config = WIDTHS | {"n_ctx": 32, "layer_norm_epsilon": 1e-5}
    factors = _factors({"transformer.h.0.attn.c_attn": (48, 16)})
    weights = {name: values.T.copy() for name, values in _products(factors).items()}
    base = _checkpoint(tmp_path / "base", "GPT2LMHeadModel", config, weights)
    got = _multiplied(_convert(tmp_path / "adapter", base, factors, fan_in_fan_out=True))
    assert np.array_equal(got["blk.0.attn_qkv.weight"], _whole(tmp_path / "base")[
        "blk.0.attn_qkv.weight"
    ])  # fmt: skip


@pytest.fixture
def llama(tmp_path: Path) -> Base:
    """A Llama of one layer, with an embedding and a norm."""
    weights = _products(_factors(ATTENTION)) | {
        "model.embed_tokens.weight": _integers((40, 16), 7),
        "model.norm.weight": _integers((16,), 8),
    }
    return _checkpoint(tmp_path / "base", "LlamaForCausalLM", WIDTHS, weights)


def test_metadata_and_order(llama: Base, tmp_path: Path) -> None:
    """Entries and tensors stand in llama.cpp's order; the file's order counts."""
    shapes = dict(reversed(ATTENTION.items()))
    model = _convert(tmp_path / "tiny-lora", llama, _factors(shapes))
    assert [(kv.key, kv.value) for kv in model.metadata] == [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.name", "Tiny Lora"),
        ("adapter.lora.alpha", ALPHA),
        ("general.quantization_version", 2),
    ]
    assert [(t.name, t.dims) for t in model.tensors][:4] == [
        ("blk.0.ffn_down.weight.lora_a", (24, RANK)),
        ("blk.0.ffn_down.weight.lora_b", (RANK, 16)),
        ("blk.0.attn_output.weight.lora_a", (16, RANK)),
        ("blk.0.attn_output.weight.lora_b", (RANK, 16)),
    ]


def test_activated_adapters_keep_their_tokens(llama: Base, tmp_path: Path) -> None:
    """alora_invocation_tokens become an array of uint32."""
    model = _convert(tmp_path / "a", llama, _factors(ATTENTION), alora_invocation_tokens=[5, 6])
    assert model.metadata[-2] == KV(
        "adapter.alora.invocation_tokens", ValueType.ARRAY, [5, 6], ValueType.UINT32
    )


def test_a_gguf_base_says_what_a_checkpoint_says(llama: Base, tmp_path: Path) -> None:
    """From a GGUF model's metadata come the same rules, heads and shapes."""
    entries = {"block_count": 1, "embedding_length": 16, "attention.head_count": 4}
    metadata = [KV("general.architecture", ValueType.STRING, "llama")]
    metadata += [KV(f"llama.{k}", ValueType.UINT32, v) for k, v in entries.items()]
    heads = KV("llama.attention.head_count_kv", ValueType.ARRAY, [2], ValueType.UINT32)
    metadata.append(heads)
    tensors = [Tensor(n, d, GGMLType.F32, bytes) for n, d in llama.tensors.items()]
    base = base_of_model(Model(tuple(metadata), tuple(tensors)))
    got = _convert(tmp_path / "1" / "a", base, _factors(ATTENTION))
    expected = _convert(tmp_path / "2" / "a", llama, _factors(ATTENTION))
    assert got.metadata == expected.metadata
    assert [(t.name, bytes(t.load())) for t in got.tensors] == [
        (t.name, bytes(t.load())) for t in expected.tensors
    ]


def test_an_unknown_gguf_base_is_refused() -> None:
    """Without a family's rules nothing is guessed."""
    entry = KV("general.architecture", ValueType.STRING, "magic")
    with pytest.raises(UnsupportedError, match="'magic'"):
        base_of_model(Model((entry,), ()))


@pytest.mark.parametrize("count", [None, 0, 10**9])
def test_a_gguf_base_with_an_impossible_depth_is_refused(count: int | None) -> None:
    """block_count decides how large tables become."""
    entries = [KV("general.architecture", ValueType.STRING, "llama")]
    if count is not None:
        entries.append(KV("llama.block_count", ValueType.UINT32, count))
    with pytest.raises(FormatError, match="block_count"):
        base_of_model(Model(tuple(entries), ()))


def _scale(model: Model) -> float:
    alpha = model.get("adapter.lora.alpha")
    assert isinstance(alpha, float)
    return alpha / RANK


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (ALPHA / RANK, ALPHA / RANK)),
        ({"use_rslora": True}, (ALPHA / math.sqrt(RANK), ALPHA / math.sqrt(RANK))),
        ({"alpha_pattern": {"q_proj": 9}}, (9 / RANK, ALPHA / RANK)),
        (
            {"alpha_pattern": {"layers.0.self_attn.q_proj": 9}, "use_rslora": True},
            (9 / math.sqrt(RANK), ALPHA / math.sqrt(RANK)),
        ),
        ({"alpha_pattern": {"proj": 9}}, (ALPHA / RANK, ALPHA / RANK)),
    ],
)
def test_every_module_keeps_its_scale(
    config: dict[str, Any], scales: tuple[float, float], llama: Base, tmp_path: Path
) -> None:
    """llama.cpp's alpha / rank times B A is what PEFT adds to the weight."""
    plain = _multiplied(_convert(tmp_path / "plain", llama, _factors(ATTENTION)))
    model = _convert(tmp_path / "a", llama, _factors(ATTENTION), **config)
    got = _multiplied(model)
    for name, scale in zip(("blk.0.attn_q.weight", "blk.0.attn_v.weight"), scales, strict=True):
        assert np.allclose(got[name] * _scale(model), plain[name] * scale, rtol=1e-6)


def test_a_uniform_adapter_is_stored_bit_for_bit(llama: Base, tmp_path: Path) -> None:
    """Without patterns no value is touched, rank-stabilized or not."""
    factors = {k: v * np.float32(0.1) for k, v in _factors(ATTENTION).items()}
    for config in ({}, {"use_rslora": True}):
        model = _convert(tmp_path / "a", llama, factors, **config)
        stored = next(t for t in model.tensors if t.name == "blk.0.attn_v.weight.lora_b")
        source = factors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"]
        assert bytes(stored.load()) == source.tobytes()


@pytest.mark.parametrize(
    ("outtype", "kind", "expected"),
    [
        (OutType.F16, "float32", (GGMLType.F16, GGMLType.F16)),
        (OutType.BF16, "float32", (GGMLType.BF16, GGMLType.BF16)),
        (OutType.Q8_0, "float32", (GGMLType.Q8_0, GGMLType.F16)),
        (OutType.AUTO, "float32", (GGMLType.F32, GGMLType.F32)),
        (OutType.AUTO, "float16", (GGMLType.F16, GGMLType.F16)),
        (OutType.AUTO, "uint16", (GGMLType.BF16, GGMLType.BF16)),
    ],
)
def test_types(outtype: OutType, kind: str, expected: tuple[GGMLType, ...], tmp_path: Path) -> None:
    """A is stored as asked; B, whose rows are no whole blocks, as F16 for Q8_0."""
    shapes = {"model.layers.0.self_attn.v_proj": (64, 64)}
    config = WIDTHS | {"hidden_size": 64, "num_key_value_heads": 4}
    base = _checkpoint(tmp_path / "b", "LlamaForCausalLM", config, _products(_factors(shapes)))
    bits = {n: (v.astype("f4").view("u4") >> 16).astype("u2") for n, v in _factors(shapes).items()}
    cast = {name: values.astype(kind) for name, values in _factors(shapes).items()}
    model = _convert(tmp_path / "a", base, bits if kind == "uint16" else cast, outtype)
    assert tuple(tensor.type for tensor in model.tensors) == expected
    for tensor in model.tensors:
        assert memoryview(tensor.load()).nbytes == tensor.nbytes


def test_an_embeddings_factor_is_looked_up_by_token(llama: Base, tmp_path: Path) -> None:
    """lora_a of the embedding has a row for each token; lora_b stays as it is."""
    prefix = "base_model.model.model.embed_tokens"
    a, b = _integers((RANK, 40), 1), _integers((16, RANK), 2)
    factors = {f"{prefix}.lora_embedding_A": a, f"{prefix}.lora_embedding_B": b}
    tensors = _convert(tmp_path / "a", llama, factors).tensors
    assert [t.name for t in tensors] == ["token_embd.weight.lora_a", "token_embd.weight.lora_b"]
    assert np.array_equal(_values(tensors[0]), a.T)
    assert np.array_equal(_values(tensors[1]), b)


def test_whole_norms_are_kept_and_go_through_the_rules(tmp_path: Path) -> None:
    """A norm in the adapter comes first, as F32, and Gemma's has one added."""
    shapes = {"model.layers.0.self_attn.v_proj": (8, 16)}
    name = "model.layers.0.input_layernorm.weight"
    weights = _products(_factors(shapes)) | {name: _integers((16,), 3)}
    config = WIDTHS | {"head_dim": 4}
    base = _checkpoint(tmp_path / "b", "Gemma2ForCausalLM", config, weights)
    norm = _integers((16,), 4)
    factors = _factors(shapes) | {f"base_model.model.{name}": norm}
    tensors = _convert(tmp_path / "a", base, factors, OutType.F16).tensors
    assert tensors[0].name == "blk.0.attn_norm.weight"
    assert np.array_equal(_values(tensors[0]), norm + 1)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.layers.0.self_attn.q_proj": (16, 12)}, r"attn_q.weight of shape \[16, 12\]"),
        ({"model.layers.0.self_attn.v_proj": (16, 16)}, r"attn_v.weight of shape \[16, 16\]"),
        ({"model.layers.0.mlp.up_proj": (24, 16)}, "no tensor blk.0.ffn_up.weight"),
        ({"lm_head": (40, 16)}, "no tensor output.weight"),
        ({"model.vision_tower.q_proj": (16, 16)}, "base model does not have"),
        ({"model.layers.0.self_attn.rotary_emb": (6, 16)}, "has no place"),
        ({"model.layers.1.self_attn.v_proj": (8, 16)}, "has no place"),
    ],
)
def test_an_adapter_for_another_model_is_refused(
    shapes: dict[str, tuple[int, int]], message: str, llama: Base, tmp_path: Path
) -> None:
    """The tensor that the base lacks, or has in another shape, is named."""
    with pytest.raises((FormatError, UnsupportedError), match=message):
        _convert(tmp_path / "a", llama, _factors(shapes))


def test_a_weight_that_is_taken_apart_is_refused(tmp_path: Path) -> None:
    """DeepSeek's kv_b becomes two three-dimensional tensors, which have no two factors."""
    config = WIDTHS | {
        "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4,
        "num_key_value_heads": 4, "n_routed_experts": 2, "q_lora_rank": None,
    }  # fmt: skip
    factors = _factors({"model.layers.0.self_attn.kv_b_proj": (32, 8)})
    base = _checkpoint(tmp_path / "b", "DeepseekV2ForCausalLM", config, _products(factors))
    with pytest.raises(UnsupportedError, match="in a different form"):
        _convert(tmp_path / "a", base, factors)


def test_incomplete_experts_are_refused(tmp_path: Path) -> None:
    """A stack of experts needs factors of all of them."""
    config, shapes = FAMILIES["MixtralForCausalLM"]
    factors = _factors(shapes)
    base = _checkpoint(tmp_path / "b", "MixtralForCausalLM", config, _products(factors))
    with pytest.raises(FormatError, match="w3 number 1"):
        _convert(tmp_path / "a", base, {k: v for k, v in factors.items() if ".1.w3." not in k})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no LoRA tensors"),
        ({f"{Q}.lora_A.weight": (3, 16)}, "only one of its two factors"),
        ({f"{Q}.lora_A.weight": (3, 16), f"{Q}.lora_B.weight": (16, 4)}, "cannot be multiplied"),
        ({f"{Q}.lora_A.weight": (3,), f"{Q}.lora_B.weight": (16, 3)}, "cannot be multiplied"),
        ({f"{Q}.lora_A.weight": (0, 16), f"{Q}.lora_B.weight": (16, 0)}, "cannot be multiplied"),
        ({f"{Q}.bias": (16,)}, "not a factor"),
        ({f"{Q}.lora_magnitude_vector": (16,)}, "not a factor"),
        ({"base_model.model.lm_head.weight": (40, 16)}, "not a factor"),
    ],
)
def test_malformed_adapters_are_refused(
    arrays: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    """Missing factors, shapes that do not fit and whole weights are named."""
    files = _adapter_files(tmp_path, {k: np.zeros(s, np.float32) for k, s in arrays.items()})
    with pytest.raises((FormatError, UnsupportedError), match=message):
        open_adapter("a", files)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "'IA3'"),
        ({"use_dora": True}, UnsupportedError, "DoRA"),
        ({"invocation_string": "x"}, UnsupportedError, "invocation_string"),
        ({"r": 0}, FormatError, "r is 0"),
        ({"r": "8"}, FormatError, "r is 8"),
        ({"r": 2**40}, FormatError, "r is"),
        ({"lora_alpha": None}, FormatError, "lora_alpha is None"),
        ({"lora_alpha": -1}, FormatError, "lora_alpha is -1"),
        ({"lora_alpha": float("nan")}, FormatError, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, FormatError, "lora_alpha"),
        ({"alpha_pattern": []}, FormatError, "alpha_pattern"),
        ({"alpha_pattern": {"(a+)+$": 1}}, UnsupportedError, "not a module's name"),
        ({"alpha_pattern": {"q_proj": 0}}, FormatError, "alpha_pattern is 0"),
        ({"alora_invocation_tokens": [-1]}, FormatError, "list of token ids"),
        ({"alora_invocation_tokens": "ab"}, FormatError, "list of token ids"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    config: dict[str, Any], error: type[SourceError], message: str, tmp_path: Path
) -> None:
    """The config is checked value by value; a pattern that could take forever is never run."""
    files = _adapter_files(tmp_path, _factors(ATTENTION), **config)
    with pytest.raises(error, match=message):
        open_adapter("a", files)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """No config, no weights, or pickled ones that are none."""
    files = _adapter_files(tmp_path, _factors(ATTENTION))
    weights = files.pop("adapter_model.safetensors")
    with pytest.raises(SourceError, match=r"mine has no adapter_model\.safetensors"):
        open_adapter("mine", files)
    with pytest.raises(FormatError, match=r"adapter_model\.bin is not a file of PyTorch"):
        open_adapter("mine", files | {"adapter_model.bin": weights})
    with pytest.raises(SourceError, match=r"mine has no adapter_config\.json"):
        open_adapter("mine", {"adapter_model.safetensors": weights})


def test_base_layers_are_passed_over(llama: Base, tmp_path: Path) -> None:
    """Weights of the base that an adapter carries along change nothing."""
    extra = {f"{Q}.base_layer.weight": _integers((16, 16), 1)}
    plain = _convert(tmp_path / "a", llama, _factors(ATTENTION))
    assert len(_convert(tmp_path / "b", llama, _factors(ATTENTION) | extra).tensors) == len(
        plain.tensors
    )


# --- other formats ---


def _mlx_files(folder: Path, factors: Arrays, **config: Any) -> dict[str, Path]:
    """The same adapter as MLX saves it: transposed factors, one scale for all."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": 20.0}}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    arrays = {
        name.removeprefix("base_model.model.")
        .replace(".lora_A.weight", ".lora_a")
        .replace(".lora_B.weight", ".lora_b"): values.T
        for name, values in factors.items()
    }
    path = _save(folder / MLX_WEIGHTS, arrays)
    return {"adapter_config.json": folder / "adapter_config.json", MLX_WEIGHTS: path}


def test_mlx_adapters_have_transposed_factors_and_a_whole_scale(
    llama: Base, tmp_path: Path
) -> None:
    """y = x W + scale (x A) B; llama.cpp divides alpha by the rank."""
    factors = _factors(ATTENTION)
    plain = _multiplied(_convert(tmp_path / "peft", llama, factors))
    model = convert_adapter(open_adapter("m", _mlx_files(tmp_path / "mlx", factors)), llama)
    found = _multiplied(model)
    assert found.keys() == plain.keys()
    assert all((found[name] == plain[name]).all() for name in plain)
    assert next(kv.value for kv in model.metadata if kv.key == "adapter.lora.alpha") == 20 * RANK


@pytest.mark.parametrize(
    ("config", "says"),
    (
        ({"fine_tune_type": "dora"}, "MLX's type 'dora'"),
        ({"fine_tune_type": "full"}, "MLX's type 'full'"),
        ({"lora_parameters": {"rank": 8}}, "scale is None"),
        ({"lora_parameters": {"scale": -1}}, "scale is -1"),
    ),
)
def test_other_adapters_of_mlx_are_named(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    """With the command that fuses them."""
    with pytest.raises((UnsupportedError, FormatError), match=says):
        open_adapter("m", _mlx_files(tmp_path, _factors(ATTENTION), **config))


def test_mlx_factors_that_are_none_or_do_not_fit_are_named(tmp_path: Path) -> None:
    """A whole weight, a stack of experts, one of two, another rank."""
    whole = "model.layers.0.x"
    for arrays, says in (
        ({f"{whole}.weight": _integers((4, 4), 1)}, "is not a factor"),
        ({f"{whole}.lora_a": _integers((2, 4, 4), 1)}, "is not a factor"),
        ({f"{whole}.lora_a": _integers((4, 4), 1)}, "cannot be multiplied"),
        (
            {f"{whole}.lora_a": _integers((4, 2), 1), f"{whole}.lora_b": _integers((3, 4), 1)},
            "cannot be multiplied",
        ),
        ({}, "no LoRA tensors"),
    ):
        files = _mlx_files(tmp_path, {})
        _save(files[MLX_WEIGHTS], arrays)
        with pytest.raises((UnsupportedError, FormatError), match=says):
            open_adapter("m", files)


def test_a_pickled_adapter_is_the_same(llama: Base, tmp_path: Path) -> None:
    """``adapter_model.bin``, as older versions of PEFT wrote it."""
    factors = _factors(ATTENTION)
    plain = _multiplied(_convert(tmp_path / "a", llama, factors))
    files = _adapter_files(tmp_path / "b", factors)
    del files["adapter_model.safetensors"]
    files["adapter_model.bin"] = tmp_path / "b" / "adapter_model.bin"
    parts = [(n, "F32", v.shape, np.ascontiguousarray(v).tobytes()) for n, v in factors.items()]
    write_torch_zip(files["adapter_model.bin"], parts)
    found = _multiplied(convert_adapter(open_adapter("b", files), llama))
    assert all((found[name] == plain[name]).all() for name in plain)


def test_an_adapter_that_changes_nothing_is_told(tmp_path: Path) -> None:
    """B is zero before the first step; one pair that is not is enough."""
    factors = _factors(ATTENTION)
    told: list[str] = []
    open_adapter("a", _adapter_files(tmp_path / "a", factors), told.append)
    assert not told
    zeros = {n: v * 0 if "lora_B" in n else v for n, v in factors.items()}
    open_adapter("b", _adapter_files(tmp_path / "b", zeros), told.append)
    assert len(told) == 1 and "changes nothing" in told[0]


def test_columns_that_a_family_moves_move_in_a(llama: Base, tmp_path: Path) -> None:
    """Qwen 3.5 tiles the columns of a matrix: B keeps its rows, A's columns follow."""
    swapped = each(
        r"o_proj\.weight$",
        lambda hp, lazy: lazy.reshape(16, 2, 8).transpose(0, 2, 1).reshape(16, 16),
    )
    base = replace(llama, row=replace(llama.row, rules=(*llama.row.rules, swapped)))
    name = "model.layers.0.self_attn.o_proj"
    factors = _factors({name: (16, 16)})
    plain = _multiplied(_convert(tmp_path / "a", llama, factors))
    found = _multiplied(_convert(tmp_path / "b", base, factors))
    key = "blk.0.attn_output.weight"
    assert (found[key] == plain[key].reshape(16, 2, 8).transpose(0, 2, 1).reshape(16, 16)).all()


def test_what_alpha_and_rank_do_not_say_of_the_scale_is_put_into_b() -> None:
    """llama.cpp scales by alpha / rank; an alpha of a module's own is a factor of its B."""
    b = np.arange(4 * RANK, dtype=np.float32).reshape(4, RANK)
    a = Lazy(DType.F32, (RANK, 5), lambda: np.ones((RANK, 5), np.float32), "a")
    pair = Pair(a, Lazy(DType.F32, b.shape, lambda: b, "b"), embedding=False)
    assert scaled(LoraConfig(RANK, ALPHA), "x.weight", pair) is pair
    own = LoraConfig(RANK, ALPHA, alphas={re.compile(r"x"): ALPHA / 4})
    changed = scaled(own, "x.weight", pair)
    assert changed.a is pair.a and changed.rank == RANK
    np.testing.assert_array_equal(changed.b.load(), b / 4)
