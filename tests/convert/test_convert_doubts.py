"""What a conversion warns of: output matrices, lost settings, names of what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hyper_parameters import hyper, lazy

from mbuild.convert.checks.head import check_head
from mbuild.convert.checks.origins import Origins
from mbuild.convert.checks.unsaid import two_ropes, unsaid
from mbuild.convert.families import find
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError

LLAMA = find("LlamaForCausalLM")
MATRIX = np.arange(6000, dtype=np.float32).reshape(60, 100)
SAME = lazy(MATRIX, origin="tensor 'lm_head.weight'")
OTHER = lazy(np.r_[MATRIX.reshape(-1)[:-1], 7].reshape(60, 100), origin="tensor 'lm_head.weight'")


# --- the output matrix ---


@pytest.mark.parametrize("kept", [True, False])
def test_an_output_matrix_equal_to_the_embedding_is_no_matter(kept: bool) -> None:
    """The same values, and a matrix that is not there, raise no doubt, whatever is said."""
    for tied in (True, False):
        hp = hyper(tie_word_embeddings=tied)
        assert [*check_head(hp, kept, SAME, lazy(MATRIX))] == []
        assert [*check_head(hp, kept, None, lazy(MATRIX))] == []


def test_an_output_matrix_that_differs_in_its_last_value_is_told() -> None:
    """A model that keeps it gets it with a warning if config.json says the two are one."""
    (said,) = check_head(hyper(tie_word_embeddings=True), True, OTHER, lazy(MATRIX))
    assert "tie_word_embeddings: true, but tensor 'lm_head.weight' differs from the" in said
    assert [*check_head(hyper(tie_word_embeddings=False), True, OTHER, lazy(MATRIX))] == []
    assert [*check_head(hyper(), True, OTHER, lazy(MATRIX))] == []


def test_an_output_matrix_that_the_model_has_no_place_for() -> None:
    """It is left out with a warning, and refused where it was trained apart."""
    (said,) = check_head(hyper("gemma"), False, OTHER, lazy(MATRIX))
    assert said.endswith("llama.cpp uses the embedding in its place in all gemma models")
    with pytest.raises(UnsupportedError, match="tie_word_embeddings: false") as caught:
        [*check_head(hyper("gemma", tie_word_embeddings=False), False, OTHER, lazy(MATRIX))]
    assert "tied" in str(caught.value.hint)


def test_matrices_are_compared_by_value_and_shape() -> None:
    """BF16 and F32 of one value are equal; another number of rows is another matrix."""
    brain = lazy((MATRIX.view(np.uint32) >> 16).astype(np.uint16), DType.BF16)
    exact = lazy((MATRIX.view(np.uint32) & 0xFFFF0000).view(np.float32))
    hp = hyper(tie_word_embeddings=True)
    assert [*check_head(hp, True, brain, exact)] == []
    assert len([*check_head(hp, True, lazy(MATRIX[:59]), lazy(MATRIX))]) == 1


# --- the checkpoint's name of what is not there ---


def _origins(**named: str) -> Origins:
    held = {name.replace("__", "."): f"tensor '{said}'" for name, said in named.items()}
    return Origins("llama", 3, held, "lm_head")


def test_a_missing_tensor_is_called_as_in_another_layer() -> None:
    """The names of a layer that is whole tell those of one that is not."""
    made = _origins(blk__0__attn_q__weight="model.decoder.layers.0.self_attn.q.weight")
    assert made.source("blk.2.attn_q.weight") == "model.decoder.layers.2.self_attn.q.weight"


def test_a_tensor_that_no_layer_has_is_called_as_the_others_are() -> None:
    """Of the names that the ``gguf`` package knows, the one that begins as those there do."""
    hugging_face = _origins(blk__0__attn_q__weight="model.layers.0.self_attn.q_proj.weight")
    assert hugging_face.source("blk.1.attn_k.weight") == "model.layers.1.self_attn.k_proj.weight"
    berts = _origins(blk__0__attn_q__weight="encoder.layer.0.attention.self.query.weight")
    assert berts.source("blk.1.attn_k.weight") == "encoder.layer.1.attention.self.key.weight"


def test_the_style_behind_the_layers_number_counts() -> None:
    """Families agree before the number and differ behind it: proj and w1 are two styles."""
    hugging_face = _origins(blk__0__attn_q__weight="model.layers.0.self_attn.q_proj.weight")
    assert hugging_face.source("blk.0.ffn_up.weight") == "model.layers.0.mlp.up_proj.weight"
    others = _origins(blk__0__ffn_gate__weight="model.layers.0.feed_forward.w1.weight")
    assert others.source("blk.0.ffn_up.weight") == "model.layers.0.feed_forward.w3.weight"


def test_the_output_matrix_has_the_familys_name() -> None:
    """It is like no other tensor, so the row says what it is called."""
    made = _origins(token_embd__weight="model.embed_tokens.weight")
    assert made.source("output.weight") == "lm_head.weight"


def test_a_name_that_nobody_knows_stays_ggufs() -> None:
    """Of a tensor without a table, or an architecture without one."""
    assert _origins().source("blk.0.strange.weight") == "blk.0.strange.weight"
    assert Origins("no-such", 1, {}, "lm_head").source("output.weight") == "output.weight"


# --- settings that the model does not have ---


def _said(keys: Any = (), tensors: Any = (), **config: Any) -> list[str]:
    return [*unsaid(LLAMA, hyper(**config), keys, tensors)]


def test_nothing_is_said_of_a_plain_config() -> None:
    """Neutral factors, no scaling, and silu by any of its names have nothing to lose."""
    assert _said(hidden_act="silu", logit_scale=1.0, rope_scaling=None, sliding_window=None) == []
    assert _said(hidden_act="swish", clip_qkv=None, embedding_multiplier=1) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("final_logit_softcapping", "llama.final_logit_softcapping"),
        ("logits_scaling", "llama.logit_scale"),
        ("residual_multiplier", "llama.residual_scale"),
        ("clip_qkv", "llama.attention.clamp_kqv"),
    ],
)
def test_a_factor_is_told_unless_the_model_has_its_key(name: str, key: str) -> None:
    """A setting that changes the results names itself and its value."""
    (said,) = _said(**{name: 30.0})
    assert f"{name} 30.0 is not in the model: llama has no place for it" in said
    assert _said([key], **{name: 30.0}) == []


def test_a_sliding_window_is_told_where_it_would_matter() -> None:
    """Not one that is longer than any text, is switched off, or stands in the model."""
    (said,) = _said(sliding_window=4096, max_position_embeddings=32768)
    assert "sliding_window 4096" in said
    assert _said(sliding_window=4096, max_position_embeddings=4096) == []
    assert _said(sliding_window=4096, use_sliding_window=False) == []
    assert _said(["llama.attention.sliding_window"], sliding_window=4096) == []


def test_a_stretching_of_rope_is_told_unless_written() -> None:
    """By a key, by the factors of LongRoPE, or by frequencies."""
    rope = {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}
    (said,) = _said(**rope)
    assert "the RoPE scaling 'dynamic' is not in the model" in said
    assert _said(["llama.rope.scaling.type"], **rope) == []
    for tensor in ("rope_freqs.weight", "rope_factors_long.weight"):
        assert _said((), [tensor], **rope) == []


def test_a_scaling_of_rope_beside_parameters_that_count_is_told() -> None:
    """llama.cpp's converter takes rope_parameters, wherever a scaling was added by hand."""
    scaling = {"type": "yarn", "factor": 4.0}
    (said,) = two_ropes({"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": scaling})
    assert "rope_scaling 'yarn' is not in the model" in said
    assert not [*two_ropes({"rope_scaling": scaling})]
    assert not [*two_ropes({"rope_parameters": scaling, "rope_scaling": scaling})]
    assert not [*two_ropes({"rope_parameters": {}, "rope_scaling": {"type": "default"}})]


def test_another_activation_than_silu_is_told_where_there_is_no_other() -> None:
    """Only of rows of which config.json may name another one."""
    hp = hyper("llama", hidden_act="gelu")
    silu = find("InternLM3ForCausalLM")
    assert silu.silu
    (said,) = unsaid(silu, hp, (), ())
    assert "hidden_act is 'gelu', but llama.cpp's llama computes silu" in said
