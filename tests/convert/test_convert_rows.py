"""What rows of families are made of: layouts, conditions, rules, pooling, RoPE's factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hyper_parameters import hyper, lazy

from mbuild.convert.families import config_class
from mbuild.convert.rows import parts, rules
from mbuild.convert.rows.layout import Group, Slot, TensorLayout, ahead, slots
from mbuild.convert.rows.pooling import POOLING, pooling, unused_modules
from mbuild.convert.rows.rope import MAX_HEAD, llama3_factors, long_factors
from mbuild.convert.rows.row import NO_HF_CONFIG, TOWERS, Family
from mbuild.convert.rows.sizes import SIZES, Sizes
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType


def _sizes(**given: int) -> Sizes:
    return Sizes("llama", (), {}, given)


# --- layouts ---


def test_a_line_of_a_layout_is_a_slot() -> None:
    """``.weight`` is understood, a question mark makes optional, F32 keeps a matrix whole."""
    assert slots("a width tokens\n? b.bias width\n?set c width/2\nd.weight width experts F32") == (
        Slot("a.weight", ("width", "tokens")),
        Slot("b.bias", ("width",), together="b.bias"),
        Slot("c.weight", ("width/2",), together="set"),
        Slot("d.weight", ("width", "experts"), whole=True),
    )


def test_every_dimension_is_made_of_sizes_that_are_known() -> None:
    """A misspelled size would make a shape that no tensor has."""
    text = [value for value in vars(parts).values() if isinstance(value, tuple)]
    found = [slot for group in text for slot in group if isinstance(slot, Slot)]
    found += [*parts.fused(), *parts.separate(), *parts.experts(), *parts.shared_experts()]
    assert len(found) > 40
    for slot in found:
        for dim in slot.dims:
            assert set(_sizes().names(dim)) <= SIZES.keys(), slot


def test_a_layout_knows_its_names_and_whether_it_is_tied() -> None:
    """Without a slot for an output matrix the embedding is it."""
    tied = TensorLayout(parts.TIED, (Group(parts.experts()),), parts.RMS)
    assert tied.tied
    assert {"token_embd.weight", "ffn_up_exps.weight"} <= tied.names
    assert not parts.DENSE.tied
    assert "output.weight" in parts.DENSE.names


def test_layers_ahead_are_the_last_ones_and_may_be_missing() -> None:
    """Of four layers the last predicts; a checkpoint saved without it has no tensors there."""
    layout = TensorLayout((), (Group(slots("a width")), parts.NEXTN), ())
    whole = _sizes(layers=4, nextn=1, predicts=1)
    assert [ahead(whole, layer) for layer in range(4)] == [False, False, False, True]
    assert [slot.name for slot in layout.at(whole, 0)] == ["a.weight"]
    assert "nextn.eh_proj.weight" in [slot.name for slot in layout.at(whole, 3)]
    assert layout.at(_sizes(layers=4, nextn=1, predicts=0), 3) == []


# --- conditions and groups of tensors ---


def test_conditions_tell_layers_apart() -> None:
    """Dense ones come first; every n-th layer is the second of each n; a size is there or not."""
    dense = _sizes(dense=2)
    assert [parts.leading(dense, layer) for layer in range(4)] == [True, True, False, False]
    assert [parts.following(dense, layer) for layer in range(4)] == [False, False, True, True]
    two, one = _sizes(every=2), _sizes(every=1)
    assert [parts.alternate(two, layer) for layer in range(4)] == [False, True, False, True]
    assert [parts.alternate(one, layer) for layer in range(2)] == [True, True]
    assert not any(parts.alternate(_sizes(every=0), layer) for layer in range(3))
    assert all(parts.not_alternate(two, layer) != parts.alternate(two, layer) for layer in range(5))
    assert parts.some("dense")(dense, 0) and not parts.none("dense")(dense, 0)


def test_attention_is_one_matrix_or_three() -> None:
    """Both have as many rows altogether, and biases that are there as a set."""
    sizes = _sizes(width=64, heads=4, kv=2, key=16, value=16)
    one = {slot.name: slot for slot in parts.fused("heads*key")}
    three = {slot.name: slot for slot in parts.separate()}
    rows = [sizes.dim(three[f"attn_{part}.weight"].dims[1], 0) for part in "qkv"]
    assert rows == [64, 32, 32]
    assert sizes.dim(one["attn_qkv.weight"].dims[1], 0) == sum(r or 0 for r in rows)
    assert {slot.together for slot in three.values() if slot.name.endswith("bias")} == {"qkv"}
    assert not any(slot.together for slot in parts.required(parts.fused()))


def test_dense_layers_come_before_those_with_experts() -> None:
    """The shared expert is there only where config.json counts one."""
    layout = TensorLayout((), parts.dense_then_experts(), ())
    several, none = _sizes(layers=2, nextn=0, dense=1, shared=2), _sizes(layers=2, nextn=0, dense=1)

    def names(sizes: Sizes, layer: int) -> set[str]:
        return {slot.name for slot in layout.at(sizes, layer)}

    assert names(several, 0) == {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}
    assert {"ffn_up_exps.weight", "ffn_up_shexp.weight", "exp_probs_b.bias"} <= names(several, 1)
    assert "ffn_up_shexp.weight" not in names(none, 1)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [("mt5", "decoder_start_token_id", 0), ("umt5", "decoder_start_token_id", 0),
     ("t5", "decoder_start_token_id", None), ("qwen3_vl_text", "max_position_embeddings", 128000),
     ("qwen3_vl_moe_text", "num_local_experts", 60), ("qwen3_moe", "num_local_experts", 128)],
)  # fmt: skip
def test_what_a_file_does_not_say_is_what_the_class_says(
    model_type: str, key: str, value: int | None
) -> None:
    """The classes are those of transformers 4.57.6."""
    full = config_class(model_type).complete({"model_type": model_type})
    assert full.get(key) == value


def test_rope_parameters_of_kinds_of_layers_get_no_base_of_the_class() -> None:
    """They are of a later transformers, which writes every base; the class knows no such kinds."""
    kinds = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_theta": 5.0}}
    config = {"model_type": "gpt_oss", "layer_types": list(kinds), "rope_parameters": kinds}
    assert config_class("gpt_oss").complete(config)["rope_parameters"] == kinds


_SHARES = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LONG = {"short_factor": [1.0], "long_factor": [1.0]}


@pytest.mark.parametrize(
    ("kind", "more", "said", "wanted"),
    [("yarn", {}, {}, 777), ("longrope", _LONG, {}, 777),
     ("llama3", {**_SHARES, "original_max_position_embeddings": 60}, {}, 60),
     ("longrope", _LONG, {"original_max_position_embeddings": 50}, 50),
     ("linear", {}, {"original_max_position_embeddings": 50}, 50)],
)  # fmt: skip
def test_the_context_before_it_was_stretched(
    kind: str, more: dict[str, Any], said: dict[str, int], wanted: int
) -> None:
    """The configuration's own counts where the scaling has none."""
    scaling = {"rope_type": kind, "factor": 2.0, **more}
    config = {
        "model_type": "llama",
        "max_position_embeddings": 777,
        "rope_scaling": scaling,
        **said,
    }
    rope = config_class("llama").complete(config)["rope_parameters"]
    assert rope.get("original_max_position_embeddings") == wanted


@pytest.mark.parametrize("said", [{}, {"original_max_position_embeddings": 50}])
@pytest.mark.parametrize(("kind", "more"), [("llama3", {}), ("llama3", _SHARES), ("longrope", {})])
def test_a_scaling_without_what_it_needs_adds_nothing(
    kind: str, more: dict[str, Any], said: dict[str, int]
) -> None:
    """The class refuses it (transformers 4.57.6: KeyError); then the file is taken as it is."""
    scaling = {"rope_type": kind, "factor": 2.0, **more}
    config = {"model_type": "llama", "rope_scaling": scaling, **said}
    assert config_class("llama").complete(config) == config


@pytest.mark.parametrize("model_type", ["chameleon", "olmo", "olmo2"])
def test_a_class_that_refuses_a_scaling_adds_nothing(model_type: str) -> None:
    """They take the type and the factor alone; else the file is taken as it is."""
    other = {"model_type": model_type, "rope_scaling": {"type": "yarn", "factor": 2.0}}
    assert config_class(model_type).complete(other) == other
    plain = {"model_type": model_type, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config_class(model_type).complete(plain)["rope_parameters"]["rope_theta"] == 10000.0


def test_olmo_3_takes_every_scaling() -> None:
    """Its class warns of what it does not know, unlike those of OLMo 1 and 2."""
    config = {"model_type": "olmo3", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}
    assert config_class("olmo3").complete(config)["rope_parameters"]["rope_theta"] == 10000.0


def test_gemmas_full_layers_have_the_context_before_it_was_stretched() -> None:
    """Where it stands in the configuration itself; the sliding ones are never stretched."""
    scaling = {"rope_type": "yarn", "factor": 4.0}
    config = {"model_type": "gemma3_text", "rope_scaling": scaling}
    config |= {"original_max_position_embeddings": 32, "max_position_embeddings": 999}
    rope = config_class("gemma3_text").complete(config)["rope_parameters"]
    assert rope["full_attention"]["original_max_position_embeddings"] == 32
    assert "original_max_position_embeddings" not in rope["sliding_attention"]


def test_a_row_has_defaults_that_add_nothing() -> None:
    """BPE, no rules and no class of transformers; towers are found by their names alone."""
    row = Family("llama", ("X",), (), parts.DENSE)
    assert (row.vocabulary, row.hf, row.rules, row.head) == (BPE, NO_HF_CONFIG, (), "lm_head")
    assert NO_HF_CONFIG.complete({"a": 1}) == {"a": 1}
    for name in ("vision_tower.x", "mlp.0.weight", "model.audio.x", "talker.y", "vit.z"):
        assert TOWERS.search(name), name
    for name in ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"):
        assert not TOWERS.search(name), name


# --- rules ---


HP = hyper(num_attention_heads=4, num_key_value_heads=2, hidden_size=16, num_experts=2)


def _applied(rule: rules.Rule, name: str, values: Any) -> dict[str, list[Any]]:
    made = rules.apply_rules(rule, HP, name, lazy(values))
    for _, tensor in made:
        assert tensor.load().shape == tensor.shape
    return {name: tensor.load().tolist() for name, tensor in made}


def test_a_rule_renames_changes_drops_or_divides() -> None:
    """One tensor becomes none, one or several, under names that the rule makes."""
    plus = rules.rename("norm", "old", "new", rules.plus_one)
    assert _applied(plus, "old.norm", [1, 2]) == {"new.norm": [2, 3]}
    assert _applied(rules.NORM_PLUS_ONE, "a.norm.weight", [0.5]) == {"a.norm.weight": [1.5]}
    assert _applied(rules.drop("x"), "x", [1]) == {}
    kept = rules.drop("x", lambda hp, name: name == "xx")
    assert _applied(kept, "xx", [1]) == {}
    assert _applied(kept, "x", [1]) == {"x": [1]}
    two = rules.parts("gate_up", "gate_up", ("gate", "up"), rules.halves(0))
    assert _applied(two, "a.gate_up", [[1], [2], [3], [4]]) == {
        "a.gate": [[1], [2]], "a.up": [[3], [4]],
    }  # fmt: skip
    turned = rules.each("w", rules.transposed)
    assert _applied(turned, "w", [[1, 2, 3], [4, 5, 6]]) == {"w": [[1, 4], [2, 5], [3, 6]]}


def test_pairs_of_rope_come_side_by_side() -> None:
    """Of each head's rows the first half and the second take turns; keys have their own heads."""
    rows = [[i] for i in range(16)]
    (query,) = _applied(rules.ROTARY[0], "q_proj.weight", rows).values()
    assert [row[0] for row in query[:8]] == [0, 2, 1, 3, 4, 6, 5, 7]
    (key,) = _applied(rules.ROTARY[1], "k_proj.weight", rows).values()
    assert [row[0] for row in key[:8]] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert rules.ROTARY[0].pattern.search("a.q_proj.bias")
    assert not rules.ROTARY_WEIGHTS[0].pattern.search("a.q_proj.bias")


def test_rows_in_groups_become_all_queries_all_keys_all_values() -> None:
    """Two groups of two queries, a key and a value, one row each."""
    made = rules.regrouped(2, (2, 1, 1), lazy([[i] for i in range(8)]))
    assert made.load()[:, 0].tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    with pytest.raises(FormatError, match="9 rows are not 2 groups of 4 heads"):
        rules.regrouped(2, (2, 1, 1), lazy([[0]] * 9))


def test_a_shape_that_contradicts_the_config_names_its_numbers() -> None:
    """The hint has what the rule asked for, so that the wrong number can be found."""
    with pytest.raises(FormatError, match="6 rows are not 4 heads of an even width") as caught:
        rules.apply_rules(rules.ROTARY[0], HP, "q_proj.weight", lazy([[0]] * 6))
    assert "num_attention_heads 4" in str(caught.value.hint)
    with pytest.raises(FormatError, match="a matrix is needed"):
        rules.apply_rules(rules.each("w", rules.transposed), HP, "w", lazy([1, 2]))


def _expert(layer: int, index: int, part: str) -> str:
    return f"model.layers.{layer}.mlp.experts.{index}.{part}_proj.weight"


def test_experts_of_a_layer_become_one_tensor_when_the_last_is_there() -> None:
    """In the order of their numbers, whatever the order in which they came."""
    stacker = rules.Stacker((rules.EXPERTS,), HP)
    made: Any = []
    for part in ("up", "gate", "down"):
        for index in (1, 0):
            assert made == []
            made = stacker.take(_expert(3, index, part), lazy([index]))
    assert [name for name, _ in made] == [
        f"model.layers.3.mlp.experts.{part}_proj.weight" for part in ("down", "gate", "up")
    ]
    assert made[0][1].load().tolist() == [[0], [1]]
    assert stacker.take("model.norm.weight", lazy([1])) is None
    stacker.finish()


def test_an_expert_too_many_or_too_few_is_named() -> None:
    """A number beyond config.json's, and the first one that never came."""
    stacker = rules.Stacker((rules.EXPERTS, rules.MIXTRAL_EXPERTS), HP)
    with pytest.raises(FormatError, match=r"number 2 \(from 0\), but config\.json has 2"):
        stacker.take(_expert(0, 2, "up"), lazy([1]))
    stacker.take(_expert(0, 1, "down"), lazy([1]))
    with pytest.raises(FormatError, match="layer 0 has no down_proj number 0 of 2"):
        stacker.finish()
    assert rules.experts(HP) == 2


# --- pooling ---


def _pooled(folder: Path, modules: Any, settings: Any = None) -> list[KV]:
    (folder / "modules.json").write_text(json.dumps(modules))
    files = {"modules.json": folder / "modules.json"}
    if settings is not None:
        (folder / "pooling.json").write_text(json.dumps(settings))
        files["1_Pooling/config.json"] = folder / "pooling.json"
    return [*pooling(hyper("bert", files))]


MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_the_kind_of_pooling_is_llama_cpps_number(
    settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """By one of the older flags or by its name."""
    (made,) = _pooled(tmp_path, MODULES, settings)
    assert made == KV("bert.pooling_type", ValueType.UINT32, POOLING[kind])
    assert POOLING == {"mean": 1, "cls": 2, "lasttoken": 3}


def test_pooling_that_cannot_be_told_is_refused_by_its_file(tmp_path: Path) -> None:
    """A kind without a number, a file that is missing, modules that are no list of objects."""
    with pytest.raises(UnsupportedError, match=r"1_Pooling/config\.json") as caught:
        _pooled(tmp_path, MODULES, {"pooling_mode_max_tokens": True})
    assert "mean, cls, lasttoken" in str(caught.value.hint)
    with pytest.raises(FormatError, match=r"1_Pooling/config\.json, which is missing"):
        _pooled(tmp_path, MODULES)
    damaged: list[Any] = [{}, ["x"], [{"type": "x.Pooling"}]]
    for wrong in damaged:
        with pytest.raises(FormatError, match=r"modules\.json"):
            _pooled(tmp_path, wrong)
    assert _pooled(tmp_path, MODULES[:1]) == []
    assert [*pooling(hyper("bert"))] == []


def test_layers_behind_the_model_are_named(tmp_path: Path) -> None:
    """GGUF files of sentence-transformers end before their dense layers, and say so."""
    path = tmp_path / "modules.json"
    path.write_text(json.dumps([*MODULES, {"type": "models.Dense", "path": "2_Dense"}]))
    (said,) = unused_modules(hyper("bert", {"modules.json": path}))
    assert said.startswith("modules.json: 2_Dense is left out")
    path.write_text(json.dumps(MODULES))
    assert [*unused_modules(hyper("bert", {"modules.json": path}))] == []


# --- RoPE ---


SMALL: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 1}


def _llama3(**more: Any) -> Any:
    scaling = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
    }  # fmt: skip
    return hyper(**SMALL, head_dim=64, rope_scaling=scaling | more)


def test_llama3_stretches_long_wavelengths_alone() -> None:
    """Short ones stay, those beyond the original context get all of it, between is smooth."""
    ((name, tensor),) = llama3_factors(_llama3(), {})
    factors = tensor.load()
    assert name == "rope_freqs.weight"
    assert factors.dtype == np.float32
    assert factors.shape == (32,)
    waves = 2 * np.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
    assert set(factors[waves < 8192 / 4]) == {1.0}
    assert set(factors[waves > 8192]) == {32.0}
    smooth = (8192 / waves - 1) / 3
    between = (waves >= 8192 / 4) & (waves <= 8192)
    assert between.sum() >= 3
    wanted = 1 / ((1 - smooth) / 32 + smooth)
    assert np.allclose(factors[between], wanted[between], rtol=1e-5)
    assert [*llama3_factors(_llama3(rope_type="yarn"), {})] == []


def test_impossible_numbers_of_llama3_are_refused() -> None:
    """A factor of zero, and a head that would make a table without end."""
    with pytest.raises(FormatError, match="zero"):
        [*llama3_factors(_llama3(factor=0), {})]
    hp = hyper(**SMALL, head_dim=MAX_HEAD + 2, rope_scaling={"rope_type": "llama3"})
    with pytest.raises(FormatError, match="head_dim"):
        [*llama3_factors(hp, {})]


def test_longrope_has_two_lists_of_half_the_rotary_width() -> None:
    """Both as they stand in config.json, or none; another length is refused by its name."""
    hp = hyper(rope_scaling={"long_factor": [1.5, 2], "short_factor": [1, 1]})
    made = {name: tensor.load().tolist() for name, tensor in long_factors(hp, 4)}
    assert made == {
        "rope_factors_long.weight": [1.5, 2], "rope_factors_short.weight": [1, 1],
    }  # fmt: skip
    assert [*long_factors(hyper(), 4)] == []
    with pytest.raises(FormatError, match="long_factor is not a list of 3 numbers"):
        [*long_factors(hp, 6)]
    half = hyper(rope_scaling={"long_factor": [1.5, 2]})
    with pytest.raises(FormatError, match="short_factor"):
        [*long_factors(half, 4)]
