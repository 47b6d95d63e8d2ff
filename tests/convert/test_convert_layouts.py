"""The whole checkpoint is held against llama.cpp's layout before a weight is read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, Family, write_checkpoint, write_family, write_shard
from llama_runs import BPE, SPM, loadable

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.checks.layout import DescribedModel, check_layout, check_vocabulary
from mbuild.convert.convert import convert, convert_body
from mbuild.convert.families import rows
from mbuild.convert.read.safetensors import read_header
from mbuild.convert.rows.layout import in_layer
from mbuild.convert.rows.sizes import SIZES, Sizes
from mbuild.core.errors import FormatError, MbuildError, UnsupportedError
from mbuild.core.values import replace
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.types import GGMLType
from mbuild.gguf.writer import write

LAYOUTS = {row.gguf: row.layout for row in rows()}
CASES = sorted(path.stem for path in DATA.glob("*.json"))
UNLOADABLE = {
    "bert": "num_key_value_heads",
    "bert_classifier": "num_key_value_heads",
    "roberta": "num_key_value_heads",
    "roberta_classifier": "num_key_value_heads",
    "xlm_roberta": "num_key_value_heads",
    "ernie4_5_moe": "ffn_gate_shexp",
    "gemma3n": r"model\.layers\.2\.self_attn\.k_proj\.weight",
    "lfm2_old": "block_ff_dim",
    "olmoe": "attn_k_norm",
    "phi2": "num_key_value_heads",
}
"""Generated checkpoints that llama.cpp's converter writes and its loader refuses, and why."""

Shard = dict[str, str]


def spec(name: str = "llama") -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def refusal(folder: Path, case: dict[str, Any]) -> MbuildError:
    """What converting says, which must be before the vocabulary: there is none."""
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        convert(open_checkpoint("tiny", write_checkpoint(folder / "tiny", case)))
    return caught.value


def checked(folder: Path, case: dict[str, Any]) -> list[str]:
    body = convert_body(open_checkpoint("tiny", write_checkpoint(folder / "tiny", case)))
    return check_layout(body.described, body.hyper.optional_integer("vocab_size"))


# --- the table ---


def test_families_of_one_architecture_have_one_layout() -> None:
    """llama.cpp's loader knows the architecture only, and not the family."""
    for row in rows():
        assert row.layout == LAYOUTS[row.gguf], row.names


UNPUBLISHED_TENSORS = set((DATA.parent / "unpublished_tensors.txt").read_text().split())
"""Tensors of text models that llama.cpp's own ``gguf-py`` of 1 October 2026 has and the ``gguf``
package of PyPI does not."""


@pytest.mark.parametrize("arch", LAYOUTS)
def test_a_layout_names_tensors_and_sizes_that_exist(arch: str) -> None:
    """Names are the gguf package's; sizes are in the table of sizes."""
    import gguf

    known = {*gguf.TENSOR_NAMES.values(), *UNPUBLISHED_TENSORS}
    layout = LAYOUTS[arch]
    names = [(slot, slot.name) for slot in layout.model]
    names += [
        (slot, in_layer(slot.name, 0).replace("blk.0.", "blk.{bid}."))
        for group in layout.layers
        for slot in group.slots
    ]
    sizes = Sizes(arch, (), {}, own=layout.sizes)
    assert not layout.sizes.keys() & SIZES.keys()
    for slot, name in names:
        assert name in known or name.rpartition(".")[0] in known
        assert {name for dim in slot.dims for name in sizes.names(dim)} <= sizes.known.keys()


@pytest.mark.parametrize("name", sorted(set(CASES) - UNLOADABLE.keys()))
def test_reference_checkpoints_fit(name: str, tmp_path: Path) -> None:
    """What llama.cpp's converter and loader take passes."""
    case = spec(name)
    padded = case["arch"].startswith(("gemma3", "gemma4", "gemma-embedding"))
    body = convert_body(open_checkpoint("tiny", write_checkpoint(tmp_path / "tiny", case)))
    tokens = None if padded else body.hyper.optional_integer("vocab_size")
    warnings = check_layout(body.described, tokens)
    assert (name == "exaone") is any("rms_norm_eps" in warning for warning in warnings)


@pytest.mark.parametrize("name", UNLOADABLE)
def test_what_only_the_converter_takes_is_refused(name: str, tmp_path: Path) -> None:
    """llama.cpp's loader would find another shape than its own converter wrote."""
    with pytest.raises(FormatError, match=UNLOADABLE[name]):
        checked(tmp_path, spec(name))


# --- what is missing, what is too much, what has another shape ---


def test_a_missing_tensor_has_its_own_name_in_the_message(tmp_path: Path) -> None:
    """No index is needed; the name is the checkpoint's, taken from another layer or the table."""
    for number, name in enumerate(
        (
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.0.input_layernorm.weight",
            "model.embed_tokens.weight",
            "model.norm.weight",
        )
    ):
        case = spec()
        del case["tensors"]["model.safetensors"][name]
        error = refusal(tmp_path / str(number), case)
        assert repr(name) in error.message and "missing" in error.message
        assert "shard" in error.hint


def test_a_missing_head_is_missing_unless_the_embedding_is_tied(tmp_path: Path) -> None:
    """Silence of config.json is what transformers takes it for."""
    case = spec()
    config, shard = case["files"]["config.json"], case["tensors"]["model.safetensors"]
    del shard["lm_head.weight"]
    config["tie_word_embeddings"] = False
    error = refusal(tmp_path / "false", case)
    assert "'lm_head.weight'" in error.message
    assert "tie_word_embeddings: false" in error.message
    del config["tie_word_embeddings"]
    assert "does not say tie_word_embeddings" in refusal(tmp_path / "silent", case).message
    config["tie_word_embeddings"] = True
    assert checked(tmp_path / "true", case) == []
    config["tie_word_embeddings"] = False
    case["files"]["config.json"]["architectures"] = ["LlamaModel"]
    inner = {name.removeprefix("model."): type_ for name, type_ in shard.items()}
    case["tensors"]["model.safetensors"] = inner
    assert checked(tmp_path / "no head at all", case) == []


def built(folder: Path, family: str, tied: bool | None, head: str) -> tuple[list[str], Model]:
    """A family's model with a head that is ``own`` or ``equal`` to the embedding; its warnings."""
    directory = folder / f"{tied}-{head}"
    write_family(directory, Family(family, {}))
    config = json.loads((directory / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    config |= {} if tied is None else {"tie_word_embeddings": tied}
    (directory / "config.json").write_text(json.dumps(config))
    path = directory / "model.safetensors"
    shard = spec(family)["tensors"]["model.safetensors"]
    write_shard(path, {**shard, "lm_head.weight": shard["model.embed_tokens.weight"]})
    if head == "equal":
        tensors = {tensor.name: tensor for tensor in read_header(path, path.name)}
        data = bytearray(path.read_bytes())
        source, target = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
        data[target.offset : target.offset + target.nbytes] = data[
            source.offset : source.offset + source.nbytes
        ]
        path.write_bytes(data)
    said: list[str] = []
    checkpoint = open_checkpoint("m", {path.name: path for path in directory.iterdir()})
    return said, convert(checkpoint, pre="gpt-2", warn=said.append)


def test_a_head_beside_a_tied_embedding(tmp_path: Path) -> None:
    """Equal ones are one matrix twice; of others llama.cpp takes the head where it can."""
    for family, kept in (("llama", True), ("gemma", False), ("command_r", False)):
        folder = tmp_path / family
        said, model = built(folder, family, True, "equal")
        assert said == []
        assert ("output.weight" in {tensor.name for tensor in model.tensors}) is kept
        said, model = built(folder, family, True, "own")
        assert len(said) == 1 and "lm_head.weight" in said[0]
        assert ("it is kept" in said[0]) is kept
        assert ("output.weight" in {tensor.name for tensor in model.tensors}) is kept
        if kept:
            assert built(folder, family, False, "own")[0] == []
            assert built(folder, family, None, "own")[0] == []
        else:
            with pytest.raises(UnsupportedError, match="tie_word_embeddings: false"):
                built(folder, family, False, "own")


@pytest.mark.parametrize(
    ("family", "name", "says"),
    [
        ("qwen2", "model.layers.1.self_attn.q_proj.bias", "q_proj.bias"),
        ("starcoder2", "model.layers.0.self_attn.k_proj.bias", "k_proj.bias"),
        ("falcon_40b", "transformer.h.1.ln_mlp.weight", "ln_mlp.weight"),
        ("stablelm", "model.layers.1.post_attention_layernorm.bias", "post_attention_layernorm"),
    ],
)
def test_what_some_layers_have_all_have(family: str, name: str, says: str, tmp_path: Path) -> None:
    """llama.cpp would load such a model, and it would not be the one that was trained."""
    case = spec(family)
    del case["tensors"]["model.safetensors"][name]
    error = refusal(tmp_path, case)
    assert says in error.message and "is missing" in error.message


def test_biases_that_config_or_class_promise_are_there(tmp_path: Path) -> None:
    """In no layer is as wrong as in one less."""
    case = spec("qwen2")
    shard = case["tensors"]["model.safetensors"]
    case["tensors"]["model.safetensors"] = {
        name: type_ for name, type_ in shard.items() if not name.endswith("_proj.bias")
    }
    assert "every Qwen2ForCausalLM has it" in refusal(tmp_path / "class", case).message
    case = spec()
    case["files"]["config.json"]["attention_bias"] = True
    assert "attention_bias: true" in refusal(tmp_path / "flag", case).message


def _set(key: str, value: Any) -> Callable[[dict[str, Any], Shard], None]:
    return lambda config, shard: config.__setitem__(key, value)


def _shape(name: str, described: str) -> Callable[[dict[str, Any], Shard], None]:
    return lambda config, shard: shard.__setitem__(name, described)


L1 = "model.layers.1."
CONTRADICTIONS: list[tuple[str, str, Callable[[dict[str, Any], Shard], None], tuple[str, ...]]] = [
    ("a narrower layer", "qwen2", _shape(f"{L1}mlp.up_proj.weight", "BF16 64 64"),
     ("layers.1.mlp.up_proj", "[64, 64]", "[96, 64]", "intermediate_size 96")),
    ("feed-forward size", "llama", _set("intermediate_size", 128),
     ("gate_proj", "[96, 64]", "[128, 64]", "intermediate_size 128")),
    ("key-value heads", "llama", _set("num_key_value_heads", 1),
     ("k_proj", "num_key_value_heads 1")),
    ("head size", "qwen3", _set("head_dim", 8), ("_proj", "head_dim 8")),
    ("vocabulary", "llama", _set("vocab_size", 81), ("embed_tokens", "[80, 64]", "vocab_size 81")),
    ("head's rows", "llama", _shape("lm_head.weight", "BF16 96 64"),
     ("lm_head", "[96, 64]", "vocab_size 80")),
    ("experts' size", "qwen3_moe", _set("moe_intermediate_size", 64),
     ("ffn_gate_exps", "moe_intermediate_size 64")),
    ("norm", "llama", _shape(f"{L1}input_layernorm.weight", "BF16 32"),
     ("layers.1.input_layernorm", "[32]", "hidden_size 64")),
    ("layers", "llama", _set("num_hidden_layers", 1), ("layers.1.",)),
    ("latent rank", "deepseek_v3", _set("kv_lora_rank", 48), ("kv_a", "kv_lora_rank 48")),
    ("kernel", "lfm2", _set("conv_L_cache", 5), ("conv", "conv_L_cache 5")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [row[1:] for row in CONTRADICTIONS],
    ids=[row[0] for row in CONTRADICTIONS],
)
def test_a_contradiction_is_named_with_both_values(
    family: str,
    change: Callable[[dict[str, Any], Shard], None],
    says: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """The tensor and its shape, the config's key and its value."""
    case = spec(family)
    change(case["files"]["config.json"], case["tensors"]["model.safetensors"])
    message = refusal(tmp_path, case).message
    assert [text for text in says if text not in message] == []


def test_a_shape_that_no_rule_can_take_is_named_with_the_numbers_asked_for(tmp_path: Path) -> None:
    """Rules that take a tensor apart see a contradiction first."""
    for family, key, value in (
        ("deepseek_v3", "v_head_dim", 9),
        ("internlm2", "num_key_value_heads", 3),
        ("llama", "num_attention_heads", 5),
        ("gpt_neox", "num_attention_heads", 5),
    ):
        case = spec(family)
        case["files"]["config.json"][key] = value
        case["files"]["config.json"].pop("head_dim", None)
        assert f"{key} {value}" in refusal(tmp_path / family, case).hint


def test_a_transposed_matrix_is_called_so(tmp_path: Path) -> None:
    """Saved by a framework that keeps matrices the other way round."""
    case = spec()
    case["tensors"]["model.safetensors"][f"{L1}mlp.down_proj.weight"] = "BF16 96 64"
    assert refusal(tmp_path, case).hint == "the matrix is transposed"


def test_a_lost_number_of_key_value_heads_is_called_lost(tmp_path: Path) -> None:
    """As many as heads is what everybody takes then."""
    case = spec()
    del case["files"]["config.json"]["num_key_value_heads"]
    message = refusal(tmp_path, case).message
    assert "k_proj" in message and "num_key_value_heads 4 (not in config.json" in message


def test_a_config_without_a_needed_number_is_refused(tmp_path: Path) -> None:
    """llama.cpp stops before it looks at a tensor."""
    case = spec("minicpm")
    del case["files"]["config.json"]["rms_norm_eps"]
    assert "layer_norm_rms_epsilon" in refusal(tmp_path, case).message
    case = spec("mixtral")
    case["files"]["config.json"]["num_experts_per_tok"] = 99
    assert "num_experts_per_tok 99" in refusal(tmp_path / "experts", case).message


def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(tmp_path: Path) -> None:
    """llama.cpp counts the tokens, not config.json's vocab_size."""
    body = convert_body(open_checkpoint("tiny", write_checkpoint(tmp_path / "t", spec())))
    check_vocabulary(body.described, 80, None)
    with pytest.raises(FormatError, match=r"embed_tokens.*\[80, 64\].*\[82, 64\].*82"):
        check_vocabulary(body.described, 82, None)


# --- llama.cpp itself ---


def _mutants(model: Model, known: DescribedModel) -> Iterator[tuple[str, Model, DescribedModel]]:
    """The model, and it without each tensor of one layer and of none, and with a longer one."""
    yield "as it is", model, known
    for tensor in model.tensors:
        if tensor.name.startswith("blk.") and not tensor.name.startswith("blk.1."):
            continue
        others = [other for other in model.tensors if other is not tensor]
        shapes = {name: dims for name, dims in known.shapes.items() if name != tensor.name}
        less = Model(model.metadata, tuple(others))
        yield f"without {tensor.name}", less, replace(known, shapes=shapes)
        dims = (*tensor.dims[:-1], tensor.dims[-1] + 2)
        longer = Tensor(tensor.name, dims, GGMLType.F32, _Zeros(int(np.prod(dims))))
        shapes = {**known.shapes, tensor.name: tuple(reversed(dims))}
        more = Model(model.metadata, tuple(longer if t is tensor else t for t in model.tensors))
        yield f"longer {tensor.name}", more, replace(known, shapes=shapes)


@dataclass(frozen=True)
class _Zeros:
    count: int

    def __call__(self) -> Any:
        return np.zeros(4 * self.count, np.uint8)


def _passes(known: DescribedModel, tokens: int) -> bool:
    try:
        check_layout(known, tokens)
        check_vocabulary(known, tokens, None)
    except MbuildError:
        return False
    return True


@pytest.mark.oracle
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp"
)
@pytest.mark.parametrize("family", [*BPE, *SPM])
def test_what_passes_loads_in_llama_cpp(family: str, tmp_path: Path) -> None:
    """Of a family's model and of every way to spoil one tensor, what passes is what loads.

    Stricter than llama.cpp the check is only where a tensor is gone that the class must have.
    """
    files = write_family(tmp_path / "m", Family(family, {}))
    checkpoint = open_checkpoint("m", files)
    model, known = convert(checkpoint, pre="gpt-2"), convert_body(checkpoint).described
    labels, passes = {}, {}
    for number, (label, changed, described) in enumerate(_mutants(model, known)):
        path = tmp_path / f"{number}.gguf"
        with path.open("wb") as file:
            write(changed, file.write)
        labels[path], passes[path] = label, _passes(described, 80)
    loads = loadable(list(labels))
    assert [labels[path] for path in labels if passes[path] and not loads[path]] == []
    stricter = [labels[path] for path in labels if loads[path] and not passes[path]]
    assert [label for label in stricter if not label.startswith("without ")] == []
    assert loads[next(iter(labels))]


def test_checking_costs_little(tmp_path: Path) -> None:
    """A check of a model with ten thousand tensors takes a fraction of a second."""
    code = """
import time
from checkpoints import DATA, resized, write_checkpoint
import json, sys
from pathlib import Path
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert_body
from mbuild.convert.checks.layout import check_layout
spec = resized(json.loads((DATA / "qwen2.json").read_text()), {}, 500)
body = convert_body(open_checkpoint("t", write_checkpoint(Path(sys.argv[1]), spec)))
start = time.process_time()
check_layout(body.described, 80)
print(time.process_time() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1
