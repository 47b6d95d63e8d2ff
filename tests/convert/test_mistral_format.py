"""Mistral's own format: other names, another vocabulary; equal to llama.cpp's converter."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import DATA, files_of, write_checkpoint, write_shard

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert, convert_body
from mbuild.convert.mistral import is_mistral_format, mistral_config
from mbuild.convert.projector import convert_projector, open_towers
from mbuild.convert.vocabulary.tekken import tekken_vocabulary
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.gguf.model import Model
from mbuild.gguf.writer import write

PARAMS = {
    **{"dim": 64, "n_layers": 1, "head_dim": 16, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2},
    **{"rope_theta": 1e9, "norm_eps": 1e-05, "vocab_size": 264, "max_position_embeddings": 4096},
}
YARN = {
    "yarn": {
        **{"original_max_position_embeddings": 16384, "factor": 16, "apply_scale": False},
        **{"beta": 32, "alpha": 1},
    },
    "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
}


def token(rank: int, data: bytes) -> dict[str, Any]:
    return {"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": None}


def tekken(**changed: Any) -> dict[str, Any]:
    """Four special tokens, 256 bytes, ``ab``, ``abc``, ``bc``, `` a``."""
    words = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"bc", b" a"]
    special = ["<unk>", "<s>", "</s>"]
    return {
        "config": {"default_vocab_size": 264, "default_num_special_tokens": 4, "version": "v7"},
        "special_tokens": [{"rank": r, "token_str": t} for r, t in enumerate(special)],
        "vocab": [token(rank, data) for rank, data in enumerate(words)],
        **changed,
    }


def tensors(fp8: bool = False) -> dict[str, str]:
    layer = "layers.0."
    matrices = {
        f"{layer}attention.wq": "64 64",
        f"{layer}attention.wk": "32 64",
        f"{layer}attention.wv": "32 64",
        f"{layer}attention.wo": "64 64",
        f"{layer}feed_forward.w1": "96 64",
        f"{layer}feed_forward.w2": "64 96",
        f"{layer}feed_forward.w3": "96 64",
    }
    found = {"tok_embeddings.weight": "BF16 264 64", "output.weight": "BF16 264 64"}
    for name in ("norm", f"{layer}attention_norm", f"{layer}ffn_norm"):
        found[f"{name}.weight"] = "BF16 64"
    for name, shape in matrices.items():
        found[f"{name}.weight"] = f"{'F8_E4M3' if fp8 else 'BF16'} {shape}"
        if fp8:
            found |= {f"{name}.qscale_weight": "F32", f"{name}.qscale_act": "F32"}
    return found


def converted(folder: Path, *, fp8: bool = False, **params: Any) -> Model:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps({**PARAMS, **params}))
    (folder / "tekken.json").write_text(json.dumps(tekken()))
    write_shard(folder / "consolidated.safetensors", tensors(fp8))
    return convert(open_checkpoint("tiny", files_of(folder)))


def told(model: Model) -> dict[str, Any]:
    return {kv.key: kv.value for kv in model.metadata}


def test_a_model_in_mistrals_format_is_a_llama(tmp_path: Path) -> None:
    """No row is permuted for RoPE; the keys and their order are those of llama.cpp."""
    model = converted(tmp_path)
    keys = told(model)
    assert keys["general.architecture"] == "llama" and keys["llama.context_length"] == 4096
    assert keys["llama.feed_forward_length"] == 96 and keys["llama.rope.dimension_count"] == 16
    names = [key for key in keys if key.startswith("tokenizer.") or key == "llama.vocab_size"]
    assert [name.removeprefix("tokenizer.ggml.") for name in names] == [
        "model", "pre", "merges", "bos_token_id", "eos_token_id", "unknown_token_id",
        "padding_token_id", "tokens", "scores", "token_type", "llama.vocab_size", "add_bos_token",
        "add_eos_token",
    ]  # fmt: skip
    query = next(tensor for tensor in model.tensors if tensor.name == "blk.0.attn_q.weight")
    stored = (tmp_path / "consolidated.safetensors").read_bytes()
    assert bytes(query.load()) in stored
    digests = [hashlib.sha256(bytes(t.load())).hexdigest()[:8] for t in model.tensors]
    assert len(digests) == 12


def test_tokens_and_merges_of_tekken(tmp_path: Path) -> None:
    """Special tokens first, those without a text by their number; merges in the order of ranks."""
    keys = told(converted(tmp_path))
    tokens = keys["tokenizer.ggml.tokens"]
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<SPECIAL_3>"]
    assert tokens[4 + 97] == "a" and tokens[-4:] == ["ab", "abc", "bc", "\u0120a"]
    assert keys["tokenizer.ggml.merges"] == ["a b", "a bc", "ab c", "b c", "\u0120 a"]
    assert keys["tokenizer.ggml.padding_token_id"] == 2, "there is no <pad>"
    assert list(keys["tokenizer.ggml.token_type"][:5]) == [3, 3, 3, 3, 1]


def test_newer_models_have_yarn_and_a_temperature(tmp_path: Path) -> None:
    """They are ``mistral3``, whose loader knows the temperature."""
    keys = told(converted(tmp_path, **YARN))
    assert keys["general.architecture"] == "mistral3"
    assert keys["mistral3.rope.scaling.type"] == "yarn"
    assert keys["mistral3.rope.scaling.yarn_beta_fast"] == 32
    assert keys["mistral3.rope.scaling.yarn_log_multiplier"] == 1.0
    assert keys["mistral3.rope.scaling.original_context_length"] == 16384
    assert keys["mistral3.attention.temperature_scale"] == 0.1


def test_its_fp8_is_dequantized(tmp_path: Path) -> None:
    """``qscale_weight`` beside each weight; other formats are refused."""
    said = {"quantization": {"qformat_weight": "fp8_e4m3"}}
    model = converted(tmp_path, fp8=True, **said)
    assert {t.type.name for t in model.tensors} == {"BF16", "F32"}
    with pytest.raises(UnsupportedError, match="'int4'"):
        mistral_config({**PARAMS, "quantization": {"qformat_weight": "int4"}})


def test_a_folder_with_both_formats_is_read_as_hugging_faces(tmp_path: Path) -> None:
    """So the reference does; params.json alone is Mistral's."""
    here = tmp_path / "x"
    assert is_mistral_format({"params.json": here})
    assert not is_mistral_format({"params.json": here, "config.json": here})


def test_what_is_not_mistrals_or_not_whole_is_named(tmp_path: Path) -> None:
    """No sizes, experts that are no object, no weights."""
    with pytest.raises(FormatError, match="has no dim"):
        mistral_config({"lr": 1})
    with pytest.raises(FormatError, match="moe is not an object"):
        mistral_config({**PARAMS, "moe": 3})
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS))
    with pytest.raises(SourceError, match=r"no consolidated\*\.safetensors"):
        open_checkpoint("tiny", {"params.json": path})


@pytest.mark.parametrize(
    ("changed", "says"),
    (
        ({"config": {"default_vocab_size": 10}}, "its sizes are"),
        ({"config": {"default_vocab_size": 900, "default_num_special_tokens": 4}}, "has 260 tok"),
        ({"vocab": [token(0, b"\1")] * 260}, "token 0 is not that byte"),
        ({"vocab": [token(9, b"\0")] * 260}, "its rank is another"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}] * 260}, "token 0"),
        ({"vocab": [*tekken()["vocab"][:-1], token(259, b"xyz")]}, "nothing merges to token 259"),
        ({"vocab": [*tekken()["vocab"][:-1], token(259, b"ab")]}, "a token twice"),
        ({"special_tokens": [{"rank": 0}]}, "special_tokens has"),
        ({"special_tokens": [{"rank": 7, "token_str": "x"}]}, "more special tokens"),
        ({"special_tokens": []}, "'<s>' is missing"),
    ),
)
def test_a_damaged_vocabulary_is_named(changed: dict[str, Any], says: str) -> None:
    """Numbers and bytes come from a stranger."""

    class Files(dict[str, Any]):
        def json_object(self, name: str, limit: int = 0) -> Any:
            return self.get(name)

    files: Any = Files({"tekken.json": tekken(**changed)})
    with pytest.raises(FormatError, match=says):
        tekken_vocabulary(files, "llama.vocab_size")


def test_older_files_list_no_special_tokens() -> None:
    """Then they are those that every Tekken had."""

    class Files(dict[str, Any]):
        def json_object(self, name: str, limit: int = 0) -> Any:
            return self.get(name)

    older = tekken(special_tokens=None)
    older["config"] = {"default_vocab_size": 280, "default_num_special_tokens": 20}
    files: Any = Files({"tekken.json": older})
    found = {kv.key: kv.value for kv in tekken_vocabulary(files, "llama.vocab_size").list()}
    assert found["tokenizer.ggml.padding_token_id"] == 11
    assert found["tokenizer.ggml.tokens"][17] == "[SYSTEM_PROMPT]"


def case(name: str) -> dict[str, Any]:
    """A specification with the digest of what llama.cpp's converter made of it."""
    path = DATA.parent / "mistral" / f"{name}.json"
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_experts_become_a_deepseek(tmp_path: Path) -> None:
    """Keys and tensors are llama.cpp's, whose converter needs a config.json beside params.json."""
    spec = case("experts")
    body = convert_body(open_checkpoint("tiny", write_checkpoint(tmp_path / "tiny", spec)))
    keys = {kv.key.removeprefix("deepseek2."): kv.value for kv in body.keys}
    assert keys["expert_count"] == 4 and keys["expert_gating_func"] == 1
    assert keys["rope.scaling.yarn_log_multiplier"] == 0.1
    assert keys["attention.temperature_length"] == 8192
    listed = [
        [t.name, t.type.name, list(t.dims), hashlib.sha256(t.load()).hexdigest()[:12]]
        for t in body.tensors
    ]
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16] == spec["digest"]


@pytest.mark.parametrize("name", ["merger", "break_token"])
def test_the_encoder_becomes_a_projector(name: str, tmp_path: Path) -> None:
    """The whole file is llama.cpp's; a token's number may stand in tekken.json alone."""
    spec = case(name)
    towers = open_towers("tiny", write_checkpoint(tmp_path / "tiny", spec))
    assert towers is not None
    digest = hashlib.sha256()
    write(convert_projector(towers), digest.update)
    assert digest.hexdigest()[:16] == spec["digest"]


def test_an_unknown_token_of_a_row_is_named(tmp_path: Path) -> None:
    """Without it rows of patches would run into each other."""
    spec = case("break_token")
    spec["files"]["tekken.json"] = {"special_tokens": []}
    towers = open_towers("tiny", write_checkpoint(tmp_path / "tiny", spec))
    assert towers is not None
    with pytest.raises(FormatError, match="IMG_BREAK"):
        convert_projector(towers)
