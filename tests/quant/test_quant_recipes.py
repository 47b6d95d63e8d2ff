"""Recipes: every tensor gets the type that llama-quantize gave it, and users' names are understood.

``data/quant/recipes.json`` holds, for models of many architectures, the tensors of
the unquantized file and what llama-quantize made of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.gguf.model import KV
from mbuild.gguf.types import BLOCKS, GGMLType, ValueType
from mbuild.quant.choose import metadata, rules
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.patterns import parse_tensor_type
from mbuild.quant.choose.recipes import (
    category,
    order,
    plan,
)
from mbuild.quant.choose.types import ALIASES, FILE_TYPES, file_type, tensor_type
from mbuild.quant.quantize import SOURCES
from mbuild.quant.table import supports

DATA = json.loads((Path(__file__).parents[1] / "data" / "quant" / "recipes.json").read_text())
CASES = [(model, quant) for model, held in DATA.items() for quant in held["types"]]
G = GGMLType


class Tensor(NamedTuple):
    name: str
    dims: tuple[int, ...]
    type: GGMLType = G.BF16


def _tensors(model: str) -> list[Tensor]:
    return [Tensor(name, tuple(dims), G[type_]) for name, dims, type_ in DATA[model]["tensors"]]


def _expanded(runs: str) -> list[GGMLType]:
    found: list[GGMLType] = []
    for run in runs.split():
        name, _, count = run.partition("*")
        found += [G[name]] * int(count or 1)
    return found


def _types(tensors: list[Tensor], quant: str, **options: Any) -> dict[str, GGMLType]:
    facts = {"general.architecture": "llama", "llama.block_count": 32}
    facts |= {"llama.attention.head_count": 32, "llama.attention.head_count_kv": 8}
    facts |= options.pop("facts", {})
    made = plan(tensors, facts.get, Quantization(file_type(quant), **options))
    return {tensor.name: type_ for tensor, type_ in made}


@pytest.mark.parametrize(("model", "quant"), CASES, ids=lambda x: str(x))
def test_a_recipe_equals_llama_quantize(model: str, quant: str) -> None:
    """All tensors of the quantized file have llama-quantize's types and order."""
    held = DATA[model]
    made = plan(_tensors(model), held["metadata"].get, Quantization(file_type(quant)))
    names = [name for name, _, _ in held["tensors"]]
    assert [tensor.name for tensor, _ in made] == [names[i] for i in held["order"]]
    assert [type_ for _, type_ in made] == _expanded(held["types"][quant])


def test_the_recorded_cases_are_many() -> None:
    """The comparison covers many models, every common file type and thousands of tensors."""
    assert len(CASES) >= 240
    assert len(DATA) >= 20
    assert sum(len(_expanded(r)) for held in DATA.values() for r in held["types"].values()) > 9000


def test_every_file_type_plans() -> None:
    """Each file type gives each tensor a type that fits its rows."""
    tensors = _tensors("mixtral")
    for kind in FILE_TYPES:
        made = plan(tensors, DATA["mixtral"]["metadata"].get, Quantization(kind, imatrix="m"))
        assert len(made) == len(tensors)
        assert all(t.dims[0] % BLOCKS[type_].weights == 0 for t, type_ in made)


@given(st.data())
def test_names_in_any_case(data: st.DataObject) -> None:
    """A file type is known in any mixture of upper and lower case, and by its number."""
    kind = data.draw(st.sampled_from(FILE_TYPES))
    upper = data.draw(st.lists(st.booleans(), min_size=len(kind.name), max_size=len(kind.name)))
    text = "".join(c.upper() if u else c.lower() for c, u in zip(kind.name, upper, strict=True))
    assert file_type(text) is kind
    assert file_type(str(kind.number)) is kind


def test_aliases_and_unknown_names() -> None:
    """Q4_K means Q4_K_M; what is no file type is refused with the nearest names."""
    assert {a: file_type(a.lower()).name for a in ALIASES} == ALIASES
    with pytest.raises(UsageError, match="unknown quantization 'q4_K_X'") as error:
        file_type("q4_K_X")
    assert "Q4_K_M" in error.value.hint
    for text in ("", "99", "²", "Q4_K_M" * 1000):
        with pytest.raises(UsageError):
            file_type(text)
    with pytest.raises(UsageError):
        tensor_type("q9_0")


LAYERS = [
    Tensor(f"blk.{i}.{name}.weight", (4096, 4096))
    for i in range(32)
    for name in ("attn_v", "attn_k", "attn_q", "attn_output", "ffn_down", "ffn_up", "attn_norm")
]
MODEL = [
    *LAYERS,
    Tensor("token_embd.weight", (4096, 32000)),
    Tensor("output.weight", (4096, 32000)),
]


def test_types_that_are_not_apart_are_named_each() -> None:
    """As ``-q`` or QUANTIZE take them: one by one."""
    for text in ("q4_k_m,q8_0", "q4_K_M q8_0", "Q4_K, q8_0"):
        with pytest.raises(UsageError, match="unknown quantization") as error:
            file_type(text)
        assert error.value.hint.startswith("name each type by itself: Q4_K")


def test_more_bits_in_a_real_depth() -> None:
    """With 32 layers Q4_K_M gives 4 + 4 + 8 of the value tensors, and of ffn_down, more bits."""
    types = _types(MODEL, "q4_k_m")
    for part in ("attn_v", "ffn_down"):
        six = [i for i in range(32) if types[f"blk.{i}.{part}.weight"] is G.Q6_K]
        assert six == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    small = _types(MODEL, "q4_k_s")
    assert [small[f"blk.{i}.attn_v.weight"] for i in range(5)] == [G.Q5_K] * 4 + [G.Q4_K]


def test_layers_that_are_passed_twice_count_twice() -> None:
    """For what counts the model's layers; value tensors are counted themselves."""
    types = _types(MODEL, "q4_k_m", facts={"llama.num_loops": 2})
    six = [i for i in range(32) if types[f"blk.{i}.ffn_down.weight"] is G.Q6_K]
    assert six == [*range(8), *range(10, 32, 3)]
    assert types["blk.31.attn_v.weight"] is G.Q6_K


def test_layers_are_numbered_not_spelled() -> None:
    """Layer 10 comes after layer 9, and tensors of no layer before all."""
    names = [t.name for t in order([Tensor(f"blk.{i}.x", (1,)) for i in (10, 9, 1)] + MODEL[-1:])]
    assert names == ["output.weight", "blk.1.x", "blk.9.x", "blk.10.x"]


def test_seventy_billion_and_eight_experts() -> None:
    """Llama 70B's values get more bits; with eight experts keys and values get Q8_0."""
    deep = {"llama.block_count": 80}
    assert _types(MODEL, "q4_k_m", facts=deep)["blk.10.attn_v.weight"] is G.Q5_K
    eight = _types(MODEL, "q4_k_m", facts={"llama.expert_count": 8})
    assert eight["blk.9.attn_k.weight"] is eight["blk.9.attn_v.weight"] is G.Q8_0
    assert eight["blk.9.attn_output.weight"] is G.Q5_K


def test_options_of_llama_quantize() -> None:
    """Types named by option come first: embeddings, output, patterns, pure, kept output."""
    types = _types(
        MODEL,
        "q4_k_m",
        output_tensor_type=G.Q8_0,
        token_embedding_type=G.Q5_0,
        tensor_types=(parse_tensor_type("ATTN_V=q8_0"), parse_tensor_type(r"blk\.3\.=f16")),
    )
    assert types["output.weight"] is G.Q8_0
    assert types["token_embd.weight"] is G.Q5_0
    assert types["blk.3.attn_v.weight"] is G.Q8_0
    assert types["blk.3.attn_k.weight"] is G.F16
    assert types["blk.3.attn_norm.weight"] is G.BF16
    pure = _types(MODEL, "q4_k_m", pure=True)
    assert {pure[t.name] for t in MODEL if "norm" not in t.name} == {G.Q4_K}
    assert _types(MODEL, "q4_k_m", leave_output_tensor=True)["output.weight"] is G.BF16


def test_named_types_count_beside_pure() -> None:
    """``--pure`` leaves patterns their tensors; a tied output takes even F32, whose number is 0."""
    named = (parse_tensor_type("attn_v=q8_0"),)
    pure = _types(MODEL, "q4_k_m", pure=True, tensor_types=named)
    assert pure["blk.3.attn_v.weight"] is G.Q8_0
    assert pure["blk.3.attn_q.weight"] is G.Q4_K
    tied = _types(MODEL[:-1], "q4_k_m", output_tensor_type=G.F32)
    assert tied["token_embd.weight"] is G.F32


def test_named_classes_in_patterns() -> None:
    """``[[:digit:]]`` means in a pattern what it means to llama-quantize."""
    named = (parse_tensor_type(r"^blk\.[[:digit:]]\.attn_v=q8_0"),)
    types = _types(MODEL, "q4_k_s", tensor_types=named)
    eight = [name for name, type_ in types.items() if type_ is G.Q8_0]
    assert eight == [f"blk.{i}.attn_v.weight" for i in range(10)]


def test_malformed_tensor_types() -> None:
    """A tensor type without name, sign or type, or with a bad expression, is refused."""
    for text in ("attn_v", "=q8_0", "attn_v=", "attn_v=q9", "(=q8_0", "*=q8_0"):
        with pytest.raises(UsageError):
            parse_tensor_type(text)


def test_ollamas_exceptions() -> None:
    """Ollama's recipe keeps some families' tensors larger, in Q4_K_S and Q4_K_M only."""
    tensors = [Tensor("blk.0.attn_k_b.weight", (512, 128, 16)), *MODEL[-2:]]
    facts = {"general.architecture": "deepseek2", "deepseek2.block_count": 1}
    asked: Any = {"facts": facts, "recipe": "ollama"}
    assert _types(tensors, "q4_k_m", **asked)["blk.0.attn_k_b.weight"] is G.Q8_0
    assert _types(tensors, "q5_k_m", **asked)["blk.0.attn_k_b.weight"] is G.Q5_K
    assert _types(tensors, "q4_k_m", facts=facts)["blk.0.attn_k_b.weight"] is G.Q4_K
    facts = {"general.architecture": "glm4", "glm4.block_count": 1}
    asked = {"facts": facts, "recipe": "ollama"}
    assert _types(tensors, "q4_k_s", **asked)["output.weight"] is G.F16
    with pytest.raises(UsageError, match="unknown recipe"):
        _types(tensors, "q4_k_s", recipe="mine")


def test_fall_back_where_rows_do_not_divide() -> None:
    """Rows that are no multiple of 256 or of 32 get the reference's other types."""
    rows = {"blk.0.ffn_up.weight": 4096 + 32, "blk.1.ffn_up.weight": 4096 + 2}
    tensors = [Tensor(name, (row, 64)) for name, row in rows.items()]
    found = {q: list(_types(tensors, q).values()) for q in ("q4_k_m", "q5_k_m", "q6_k", "q2_k")}
    assert [types[0] for types in found.values()] == [G.Q5_0, G.Q5_1, G.Q8_0, G.Q4_0]
    assert {types[1] for types in found.values()} == {G.F16}
    with pytest.raises(UnsupportedError, match="are not a multiple"):
        _types([Tensor("output.weight", (4098, 8))], "q8_0", output_tensor_type=G.Q4_K)


def test_quantized_models_are_refused() -> None:
    """A tensor that is quantized already is not changed unless that is allowed."""
    tensors = [Tensor("blk.0.ffn_up.weight", (4096, 64), G.Q8_0)]
    said = "quantization is only supported for F16, BF16 and F32 models"
    with pytest.raises(UnsupportedError, match=said):
        _types(tensors, "q4_k_m")
    assert _types(tensors, "q8_0") == {"blk.0.ffn_up.weight": G.Q8_0}
    allowed = _types(tensors, "q4_k_m", allow_requantize=True)
    assert allowed == {"blk.0.ffn_up.weight": G.Q4_K}


def test_types_that_need_importances_say_so() -> None:
    """IQ2 and Q2_K_S name the tensor and ask for an importance matrix."""
    for quant in ("iq2_xs", "iq1_m", "q2_k_s"):
        with pytest.raises(UnsupportedError, match="needs an importance matrix"):
            _types(MODEL, quant)
    assert _types(MODEL, "q2_k_s", imatrix="m")["blk.9.ffn_up.weight"] is G.Q2_K


def test_a_tensor_of_no_layer_among_experts() -> None:
    """Where layers count by name, a name without one is an error, not a guess."""
    with pytest.raises(UnsupportedError, match="does not name a layer"):
        _types([Tensor("ffn_down.weight", (256, 8))], "q4_k_m", facts={"llama.expert_count": 4})
    with pytest.raises(UnsupportedError, match="has 32 layers"):
        far = [Tensor("blk.99.ffn_down.weight", (256, 8))]
        _types(far, "q4_k_m", facts={"llama.expert_count": 4})


def test_the_tables_are_complete() -> None:
    """Rules name known file types, fall-backs have smaller blocks, categories are found."""
    known = {kind.name for kind in FILE_TYPES}
    for rows in rules.ROWS.values():
        assert all(set(names.split()) <= known for names, _, _ in rows)
    assert all(BLOCKS[to].weights < BLOCKS[of].weights for of, to in rules.FALLBACK.items())
    assert len({kind.number for kind in FILE_TYPES}) == len(FILE_TYPES)
    needed = {kind.default for kind in FILE_TYPES} - rules.NEEDS_IMPORTANCES
    assert all(supports(type_, weighted=False) for type_ in needed)
    assert category("blk.0.attn_qkv.weight") is category("blk.0.attn_kv_b.weight")
    assert set(SOURCES) == {G.F32, G.F16, G.BF16}


def test_metadata_as_llama_quantize_leaves_it() -> None:
    """Set keys move to the end, shards' keys go, an importance matrix is named."""
    before = [
        KV("general.file_type", ValueType.UINT32, 32),
        KV("general.quantization_version", ValueType.UINT32, 2),
        KV("split.count", ValueType.UINT16, 3),
        KV("general.name", ValueType.STRING, "x"),
    ]
    plain = metadata.quantized(before, file_type("q4_K_M"))
    assert [(kv.key, kv.value) for kv in plain] == [
        ("general.name", "x"),
        ("general.quantization_version", 2),
        ("general.file_type", 15),
    ]
    source = metadata.Importances("é" * 100, "wiki", 7, 40)
    more = metadata.quantized(before, file_type("q8_0"), source)[3:]
    assert [(kv.key, kv.type.name, kv.value) for kv in more] == [
        ("quantize.imatrix.file", "STRING", "é" * 63),
        ("quantize.imatrix.dataset", "STRING", "wiki"),
        ("quantize.imatrix.entries_count", "UINT32", 7),
        ("quantize.imatrix.chunks_count", "UINT32", 40),
    ]
