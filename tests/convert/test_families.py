"""Families: what single rows decide, beyond what the reference checkpoints show."""

from __future__ import annotations

import ast
import json
import statistics
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, weights, write_checkpoint
from vocab_cases import BY_NAME, case_files, write_files

from mbuild.convert import families
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.checks.layout import check_layout
from mbuild.convert.convert import BareModel, convert_body
from mbuild.convert.families import find, rows
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.core.errors import FormatError, MbuildError, UnsupportedError
from mbuild.gguf.encoding import encode_entry

CASES = sorted(path.stem for path in DATA.glob("*.json"))
NEXTN = (
    *("glm4_moe", "glm4_moe_lite", "exaone_moe", "glm_moe_dsa", "deepseek_v32", "hy_v3"),
    *("bailing_moe_v2", "qwen3_next", "qwen3_5", "qwen3_5_moe", "nemotron_h_ahead"),
)


BY_FORMULA = ("PlamoForCausalLM",)
"""llama.cpp's converter takes no other matrices of this family than those of 5120 by 5120; what it
does to them is compared with numpy here."""


def spec(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def body_of(folder: Path, case: dict[str, Any]) -> BareModel:
    return convert_body(open_checkpoint("tiny", write_checkpoint(folder / "tiny", case)))


def shard(case: dict[str, Any]) -> dict[str, str]:
    (tensors,) = case["tensors"].values()
    return tensors  # type: ignore[no-any-return]


def is_ahead(case: dict[str, Any], name: str) -> bool:
    config = case["files"]["config.json"]
    layers = config.get("text_config", config)["num_hidden_layers"]
    return name.startswith(("mtp.", f"model.layers.{layers}."))


OTHER_FORMAT = "mistral_format"
"""Mistral's own format, whose files are others: ``test_mistral_format.py`` has its cases."""


def test_every_file_of_families_has_a_row_that_the_reference_shows(tmp_path: Path) -> None:
    """Each checkpoint that is compared with the reference is converted by one row, none is left."""
    used = {
        id(open_checkpoint("tiny", write_checkpoint(tmp_path / name, spec(name))).family)
        for name in CASES
    }
    for module in iter_modules(families.__path__):
        held = {id(row) for row in import_module(f"{families.__name__}.{module.name}").ROWS}
        if module.name == OTHER_FORMAT:
            used |= held
        assert used & held, module.name
    assert [row.names for row in rows() if id(row) not in used] == [BY_FORMULA]


@pytest.mark.parametrize("name", NEXTN)
def test_a_checkpoint_may_lack_its_layers_for_multi_token_prediction(
    name: str, tmp_path: Path
) -> None:
    """Many fine-tunes are saved without them, and llama.cpp loads the model all the same."""
    case = spec(name)
    tensors = shard(case)
    for tensor in [tensor for tensor in tensors if is_ahead(case, tensor)]:
        del tensors[tensor]
    body = body_of(tmp_path, case)
    assert not any(".nextn." in tensor.name for tensor in body.tensors)
    assert check_layout(body.described, 80) == []


@pytest.mark.parametrize("name", NEXTN)
def test_layers_for_multi_token_prediction_are_there_as_a_whole(name: str, tmp_path: Path) -> None:
    """Half of one is a damaged checkpoint, as for every other layer."""
    case = spec(name)
    values = (".v_proj.weight", ".kv_b_proj.weight", ".query_key_value.weight")
    ahead = [t for t in shard(case) if is_ahead(case, t) and t.endswith(values)]
    del shard(case)[ahead[0]]
    body = body_of(tmp_path, case)
    with pytest.raises(FormatError, match="missing"):
        check_layout(body.described, 80)


def test_a_model_that_shares_another_ones_class_goes_by_its_type(tmp_path: Path) -> None:
    """Mistral 4 has Mistral 3's class name and other tensors: these have no place then."""
    case = spec("mistral3")
    case["files"]["config.json"]["text_config"] |= {
        **{"model_type": "mistral4", "qk_nope_head_dim": 16, "qk_rope_head_dim": 16},
        **{"v_head_dim": 32, "moe_intermediate_size": 32, "n_shared_experts": 1},
    }
    with pytest.raises(UnsupportedError, match="no place in mistral4 models"):
        body_of(tmp_path, case)


def test_heads_of_plamo_lie_beside_their_keys(tmp_path: Path) -> None:
    """Heads 0, 5, 10 ... share a key in the checkpoint; ggml wants them side by side."""
    case = spec("llama")
    case["files"]["config.json"] |= {
        **{"architectures": ["PlamoForCausalLM"], "model_type": "plamo", "num_attention_heads": 10},
        **{"hidden_size": 80, "tie_word_embeddings": False},
    }
    layer = {
        **{"input_layernorm": "80", "self_attn.q_proj": "80 80", "self_attn.o_proj": "80 80"},
        **{"self_attn.k_proj": "40 80", "self_attn.v_proj": "40 80", "mlp.gate_proj": "96 80"},
        **{"mlp.up_proj": "96 80", "mlp.down_proj": "80 96"},
    }
    names = {f"model.layers.layers.{n}.{k}.weight": d for n in range(2) for k, d in layer.items()}
    names = {name.replace("input_layernorm", "norm"): d for name, d in names.items()}
    ends = {"model.embed_tokens.weight": "80 80", "model.norm.weight": "80"}
    tensors = names | ends | {"lm_head.weight": "80 80"}
    case["tensors"] = {"model.safetensors": {name: f"F32 {d}" for name, d in tensors.items()}}
    body = body_of(tmp_path, case)
    assert check_layout(body.described, 80) == []
    for name, ours in (("self_attn.q_proj", "attn_q"), ("self_attn.o_proj", "attn_output")):
        source = f"model.layers.layers.1.{name}.weight"
        values = np.frombuffer(weights(source, "F32", [80, 80]), "<f4").reshape(80, 80)
        values = values if ours == "attn_q" else values.T
        turned = np.concatenate([values.reshape(10, 8, 80)[key::5] for key in range(5)])
        turned = turned.reshape(80, 80)
        (tensor,) = [t for t in body.tensors if t.name == f"blk.1.{ours}.weight"]
        loaded = np.asarray(tensor.load()).view("<f2").reshape(80, 80)
        expected = (turned if ours == "attn_q" else turned.T).astype("<f2")
        assert loaded.tobytes() == expected.tobytes()


def test_an_output_matrix_that_is_to_be_normed_is_refused(tmp_path: Path) -> None:
    """It would be another model without the division, and nobody would see it."""
    case = spec("bailing_moe")
    case["files"]["config.json"]["norm_head"] = True
    with pytest.raises(UnsupportedError, match="norm_head") as caught:
        body_of(tmp_path, case)
    assert "divide" in caught.value.hint


def test_a_character_map_can_be_written(tmp_path: Path) -> None:
    """The compiled map of a Unigram tokenizer is an array of bytes, as GGUF's writer takes it."""
    contents = case_files(BY_NAME["xlm_roberta_json"])
    files = write_files(tmp_path, contents)
    rule = find("XLMRobertaModel").vocabulary
    entries = vocabulary(files, contents["config.json"], rule, pre="test-pre")
    (charsmap,) = [kv for kv in entries if kv.key.endswith("precompiled_charsmap")]
    data = encode_entry(charsmap.key, charsmap.type, charsmap.element, charsmap.value)
    assert data.endswith(bytes(charsmap.value))


@pytest.mark.parametrize("name", ("mtp.x", "mtp.layers.x.y.weight", f"mtp.layers.{'9' * 5000}.a.b"))
def test_a_strange_name_of_a_layer_ahead_has_no_place(name: str, tmp_path: Path) -> None:
    """Names come from the file: any text is refused with a message, not with a traceback."""
    case = spec("exaone_moe")
    shard(case)[name] = "BF16 64"
    with pytest.raises(MbuildError):
        check_layout(body_of(tmp_path, case).described, 80)


def test_more_layers_ahead_than_tensors_are_refused_at_once(tmp_path: Path) -> None:
    """A hostile number makes no table of four thousand million layers."""
    case = spec("glm4_moe")
    case["files"]["config.json"]["num_nextn_predict_layers"] = 4_000_000_000
    with pytest.raises(FormatError, match="layers"):
        body_of(tmp_path, case)


@pytest.mark.parametrize("alpha", (-1.0, 0.0, 1e30))
def test_an_impossible_stretching_of_rope_is_refused(alpha: float, tmp_path: Path) -> None:
    """A power of it would be complex, or larger than any number."""
    case = spec("hunyuan_dense")
    case["files"]["config.json"]["rope_scaling"]["alpha"] = alpha
    with pytest.raises(FormatError, match="alpha"):
        body_of(tmp_path, case)


def test_a_row_is_short() -> None:
    """Of all rows half are shorter than 25 lines; what they share are parts and rules."""
    lengths = []
    for module in iter_modules(families.__path__):
        loaded = import_module(f"{families.__name__}.{module.name}")
        held = {id(row) for row in loaded.ROWS}
        for node in ast.parse(Path(str(loaded.__file__)).read_text()).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and id(getattr(loaded, target.id)) in held:
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    assert len(lengths) == len([*rows()])
    assert statistics.median(lengths) < 25
