"""Checkpoints and PEFT adapters through the command line: what is built, rebuilt and refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run
from example_models import change_tensors, edit_json, generator, settle, write_chat
from inprocess import in_process
from torch_files import write_torch_zip

from mbuild.convert.read.safetensors import read_header
from mbuild.gguf.reader import open_gguf

BAD = Path(__file__).parents[1] / "data" / "bad_safetensors"
CARD = "---\nlicense: mit\n---\n# A model\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint with a model card, and a Modelfile FROM it."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    folder = write_chat(tmp_path / "chat")
    (folder / "README.md").write_text(CARD)
    (folder / "training.log").write_text("step 1\n")
    settle()
    return folder


def build(mbuild: Run, *arguments: str) -> list[str]:
    """Build ``m``; the labels of the steps that ran."""
    done = mbuild("--progress", "json", "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    finished = [event for event in events if event["event"] == "StepFinished"]
    return sorted(event["label"] for event in finished if not event["cached"])


def layers(folder: Path) -> dict[str, Path]:
    """The layers of ``m``: the last part of each media type, and the blob."""
    path = folder / "store/manifests/registry.ollama.ai/library/m/latest"
    return {
        layer["mediaType"].rpartition(".")[2]: folder
        / "store/blobs"
        / layer["digest"].replace(":", "-")
        for layer in json.loads(path.read_text())["layers"]
    }


def refused(mbuild: Run, folder: Path, *words: str, arguments: tuple[str, ...] = ()) -> None:
    """The build fails with one error line that has these words, and nothing is written."""
    started = time.monotonic()
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
    assert "Traceback" not in done.stderr
    store = folder / "store"
    assert not list((store / "blobs").glob("sha256-*"))
    assert not [p for p in store.rglob("*") if p.is_file() and p.stat().st_size > 1 << 20]
    assert time.monotonic() - started < 5


# What is built.


def test_a_checkpoint_becomes_a_model(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """The weights are the converter's file byte for byte; the template is found, with its stops."""
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    assert "converting model\n" in done.stderr
    assert "using autodetected template chatml\n" in done.stderr
    generator().write_gguf(chat, tmp_path / "expected.gguf")
    made = layers(tmp_path)
    assert list(made) == ["model", "template", "params"]
    assert made["model"].read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    assert json.loads(made["params"].read_text()) == {"stop": ["<|im_start|>", "<|im_end|>"]}


def test_a_template_of_the_modelfile_wins(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """TEMPLATE replaces the detected one; the stop parameters found stay, as in Ollama."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\nTEMPLATE {{ .Prompt }}\n")
    done = mbuild("-t", "m")
    assert "autodetected" not in done.stderr
    made = layers(tmp_path)
    assert made["template"].read_text() == "{{ .Prompt }}"
    assert json.loads(made["params"].read_text()) == {"stop": ["<|im_start|>", "<|im_end|>"]}


def test_own_stops_replace_the_templates(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """PARAMETER stop of the Modelfile wins over those that come with a detected template."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\nPARAMETER stop Arr!\n")
    build(mbuild)
    assert json.loads(layers(tmp_path)["params"].read_text()) == {"stop": ["Arr!"]}


def test_an_unknown_chat_template_is_said_and_kept(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """No near match: no template layer, a warning, and the Jinja text in the GGUF file."""
    text = "{% for m in messages %}<<{{ m.role|upper }}>> {{ m.content }};{% endfor %}"
    edit_json(chat / "tokenizer_config.json", chat_template=text)
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    assert "warning: no Go template matches this model's chat template" in (done.stderr)
    made = layers(tmp_path)
    assert "template" not in made
    with open_gguf(made["model"]) as file:
        assert file.get("tokenizer.chat_template") == text


@pytest.mark.parametrize("outtype", ["auto", "f32", "f16", "bf16", "q8_0"])
def test_outtypes(mbuild: Run, chat: Path, tmp_path: Path, outtype: str) -> None:
    """--outtype is the matrices' type; auto keeps that of the checkpoint."""
    build(mbuild, "--outtype", outtype)
    with open_gguf(layers(tmp_path)["model"]) as file:
        types = {tensor.name: tensor.type.name for tensor in file.model().tensors}
    assert types["blk.0.attn_q.weight"] == ("BF16" if outtype == "auto" else outtype.upper())
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert build(mbuild, "--outtype", outtype) == []


def test_a_snapshot_of_the_cache_is_a_checkpoint(mbuild: Run, tmp_path: Path) -> None:
    """A Hugging Face cache's snapshot, all links to ../../blobs, converts like a folder."""
    source = write_chat(tmp_path / "source" / "abc123")
    root = tmp_path / "hub" / "models--x--chat"
    (root / "blobs").mkdir(parents=True)
    (root / "snapshots" / "abc123").mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, root / "blobs" / str(number))
        (root / "snapshots" / "abc123" / path.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "Modelfile").write_text("FROM ./source/abc123\n")
    build(mbuild)
    expected = layers(tmp_path)["model"]
    (tmp_path / "Modelfile").write_text(f"FROM {root}/snapshots/abc123\n")
    build(mbuild)
    assert layers(tmp_path)["model"] == expected


# What is rebuilt.


def test_a_second_build_converts_nothing(mbuild: Run, chat: Path) -> None:
    """Nothing changed, so no step runs."""
    assert "convert chat" in build(mbuild)
    assert build(mbuild) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", CARD + "\nMore words.\n"),
        ("training.log", "step 2\n"),
        ("optimizer_state.json", "{}"),
        (".gitattributes", "*.safetensors filter=lfs\n"),
    ],
)
def test_files_that_a_conversion_does_not_read_rebuild_nothing(
    mbuild: Run, chat: Path, name: str, text: str
) -> None:
    """A model card's words, logs and the like are no input."""
    build(mbuild)
    (chat / name).write_text(text)
    assert build(mbuild) == []


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "tokenizer_config.json", "model.safetensors"]
)
def test_files_that_matter_rebuild(mbuild: Run, chat: Path, tmp_path: Path, name: str) -> None:
    """The card's front matter, the config, the tokenizer, a shard."""
    build(mbuild)
    before = layers(tmp_path)["model"]
    if name == "README.md":
        (chat / name).write_text(CARD.replace("license: mit", "license: apache-2.0"))
    elif name == "config.json":
        edit_json(chat / name, max_position_embeddings=1024)
    elif name == "tokenizer_config.json":
        edit_json(chat / name, add_bos_token=True)
    else:
        assert change_tensors(chat / name, "layers.1.mlp.up_proj")
    assert "convert chat" in build(mbuild)
    assert layers(tmp_path)["model"] != before


def test_touching_a_shard_reads_it_again_and_changes_nothing(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """New times, old content: the same model."""
    build(mbuild)
    before = layers(tmp_path)["model"]
    (chat / "model.safetensors").touch()
    build(mbuild)
    assert layers(tmp_path)["model"] == before


def test_a_moved_checkpoint_of_the_same_name_is_not_converted_again(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """The key has the folder's name, which general.name is made from, and not where it lies."""
    build(mbuild)
    before = layers(tmp_path)["model"]
    (tmp_path / "elsewhere").mkdir()
    chat.rename(tmp_path / "elsewhere" / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./elsewhere/chat\n")
    build(mbuild)
    assert build(mbuild) == []
    assert layers(tmp_path)["model"] == before


def test_a_plan_says_what_q8_0_would_take(
    mbuild: Run, chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the result is much larger than the files: their weights were quantized."""
    assert "--outtype q8_0 would write" not in mbuild("plan", "-t", "m").stdout
    monkeypatch.setattr("mbuild.build.steps.checkpoint._MUCH_LARGER", 0.5)
    said = mbuild("plan", "-t", "m").stdout
    assert "its weights are quantized in the files" in said
    assert "--outtype q8_0 would write 1." in said
    (step,) = [s for s in json.loads(mbuild("plan", "-t", "m", "--format", "json").stdout)["steps"]
               if s["kind"] == "convert"]  # fmt: skip
    assert 0.5 < step["eight_bits"] / step["writes"] < 0.6


# What is refused.


def test_an_unknown_family_is_refused_by_name(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """With near names, and nothing converted."""
    edit_json(chat / "config.json", architectures=["LlamaForCausalLMX"])
    refused(mbuild, tmp_path, "'LlamaForCausalLMX' are not supported")
    assert "LlamaForCausalLM," in mbuild("-t", "m").stderr


def test_a_pickle_is_not_run(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """It wants what is no tensor: refused, with what to do."""
    (chat / "model.safetensors").unlink()
    (chat / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n(X\x0b\0\0\0touch ownedtR.")
    refused(mbuild, tmp_path, "pytorch_model.bin", "'os.system'")
    assert "safetensors" in mbuild("-t", "m").stderr
    assert not (tmp_path / "owned").exists()


def test_pickled_weights_make_the_same_model(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """As safetensors with the same tensors; beside those they do not count."""
    stored = read_header(chat / "model.safetensors", "model.safetensors")
    parts = [(t.name, t.dtype.value, t.shape, t.read().tobytes()) for t in stored]
    (chat / "pytorch_model.bin").write_bytes(b"not read")
    build(mbuild)
    whole = layers(tmp_path)["model"]
    (chat / "model.safetensors").unlink()
    write_torch_zip(chat / "pytorch_model.bin", parts)
    build(mbuild)
    assert layers(tmp_path)["model"] == whole


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "config.json"])
def test_lfs_pointers_are_refused(mbuild: Run, chat: Path, tmp_path: Path, name: str) -> None:
    """A clone without git-lfs is told what to run."""
    (chat / name).write_text(LFS)
    refused(mbuild, tmp_path, name, "git-lfs pointer")
    assert "git lfs pull" in mbuild("-t", "m").stderr


def test_a_missing_shard_is_named(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """The index names it, and it is not there."""
    (chat / "model.safetensors").rename(chat / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (chat / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(mbuild, tmp_path, "model-00002-of-00002.safetensors", "is not there")


def test_a_tensor_that_the_index_promises_is_named(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """All shards are there, and one lacks a tensor."""
    index = {"weight_map": {"model.layers.9.x.weight": "model.safetensors"}}
    (chat / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(mbuild, tmp_path, "model.layers.9.x.weight")


def test_a_tensor_in_two_shards_is_named(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Nobody knows which one counts."""
    shutil.copy(chat / "model.safetensors", chat / "model-2.safetensors")
    refused(mbuild, tmp_path, "lm_head.weight", "two files")


def test_a_truncated_shard_is_refused(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A download that stopped."""
    shard = chat / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    refused(mbuild, tmp_path, "model.safetensors", "1000 bytes fewer")


def test_shapes_that_contradict_the_config_are_refused(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """Another model's config.json."""
    edit_json(chat / "config.json", hidden_size=512)
    refused(mbuild, tmp_path, "[345, 256]", "512")


@pytest.mark.parametrize(("count", "words"), [(3, "layer 2 has no tensors"), (1, "layers.1.")])
def test_layers_that_contradict_the_config_are_refused(
    mbuild: Run, chat: Path, tmp_path: Path, count: int, words: str
) -> None:
    """More or fewer layers than config.json says: nothing could load such a model."""
    edit_json(chat / "config.json", num_hidden_layers=count)
    refused(mbuild, tmp_path, words)


def test_a_link_that_leads_out_is_refused(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A checkpoint from somebody else must not read other files."""
    (chat / "config.json").rename(tmp_path / "outside.json")
    (chat / "config.json").symlink_to("../outside.json")
    refused(mbuild, tmp_path, "config.json", "outside the directory")


def test_quantizing_refuses_the_same(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Streamed into the quantizer, a broken checkpoint leaves nothing either."""
    (chat / "model.safetensors").write_text(LFS)
    refused(mbuild, tmp_path, "git-lfs pointer", arguments=("-q", "q8_0"))


EXPECTED = json.loads((BAD / "index.json").read_text())


@pytest.mark.parametrize("name", [n for n, case in EXPECTED.items() if case["expect"] == "refuse"])
def test_bad_safetensors_files(mbuild: Run, chat: Path, tmp_path: Path, name: str) -> None:
    """A hostile shard beside the good one: its name in one line, nothing written."""
    shutil.copy(BAD / name, chat / "model-2.safetensors")
    refused(mbuild, tmp_path, "model-2.safetensors")


@pytest.mark.parametrize("name", [n for n, case in EXPECTED.items() if case["expect"] != "refuse"])
def test_odd_safetensors_files_end_well(mbuild: Run, chat: Path, name: str) -> None:
    """What the format allows is read; its tensors then belong to no Llama, or there are none."""
    shutil.copy(BAD / name, chat / "model-2.safetensors")
    done = mbuild("-t", "m")
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr


# Adapters.


@pytest.fixture
def lora(chat: Path, tmp_path: Path) -> Path:
    """A PEFT adapter for the checkpoint, and a Modelfile with both."""
    generator().write_lora(tmp_path / "lora")
    settle()
    (tmp_path / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\n")
    return tmp_path / "lora"


def test_an_adapter_becomes_a_layer(mbuild: Run, lora: Path, tmp_path: Path) -> None:
    """Of its own, once: changing the adapter does not convert the model again."""
    assert [label for label in build(mbuild) if "convert" in label] == [
        "convert adapter lora",
        "convert chat",
    ]
    made = layers(tmp_path)
    with open_gguf(made["adapter"]) as file:
        assert file.get("adapter.type") == "lora"
        assert len(file.model().tensors) == 8
    assert build(mbuild) == []
    edit_json(lora / "adapter_config.json", lora_alpha=32)
    assert "convert chat" not in build(mbuild)
    assert layers(tmp_path)["adapter"] != made["adapter"]
    assert layers(tmp_path)["model"] == made["model"]


def test_an_adapter_for_a_stored_model(mbuild: Run, lora: Path, tmp_path: Path) -> None:
    """FROM a model of the store gives the same adapter layer as FROM its checkpoint."""
    build(mbuild)
    expected = layers(tmp_path)["adapter"]
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    assert mbuild("-t", "base").returncode == 0
    (tmp_path / "Modelfile").write_text("FROM base\nADAPTER ./lora\n")
    build(mbuild)
    assert layers(tmp_path)["adapter"] == expected


def test_several_adapters_are_several_layers(mbuild: Run, lora: Path, tmp_path: Path) -> None:
    """Each ADAPTER line has its own."""
    shutil.copytree(lora, tmp_path / "second")
    edit_json(tmp_path / "second" / "adapter_config.json", lora_alpha=99)
    (tmp_path / "Modelfile").write_text("FROM ./chat\nADAPTER ./lora\nADAPTER ./second\n")
    build(mbuild)
    path = tmp_path / "store/manifests/registry.ollama.ai/library/m/latest"
    kinds = [layer["mediaType"] for layer in json.loads(path.read_text())["layers"]]
    assert sum(kind.endswith(".adapter") for kind in kinds) == 2


def test_an_adapter_that_does_not_fit_is_refused(mbuild: Run, lora: Path, tmp_path: Path) -> None:
    """The tensor that the base lacks, or whose shape is another, is named."""
    generator(LAYERS=3).write_lora(lora)
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert re.search(r"^error: .*layers\.2\.|^error: .*blk\.2\.", done.stderr, re.MULTILINE)
    generator(WIDTH=128, HEADS=4).write_lora(lora)
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert re.search(r"^error: .*(layers|blk)\.0\..*(q_proj|attn_q)", done.stderr, re.MULTILINE)
    assert not (tmp_path / "store/manifests/registry.ollama.ai/library/m").exists()


def test_quantizing_leaves_adapters_alone(mbuild: Run, lora: Path, tmp_path: Path) -> None:
    """-q is for the model; the adapter is the one of the unquantized model."""
    build(mbuild)
    adapter = layers(tmp_path)["adapter"].name
    done = mbuild("-t", "m", "-q", "q8_0")
    assert done.returncode == 0, done.stderr
    assert layers(tmp_path)["adapter"].name == adapter


def test_memory_is_not_the_models(tmp_path: Path) -> None:
    """Converting 200 MB more takes no more memory."""
    # Not ru_maxrss alone: on Linux a child inherits its parent's.
    code = """
import os, re, resource, sys
from mbuild.cli.main import run
assert run(sys.argv[1:]) == 0
if os.path.exists("/proc/self/status"):
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (40, 88):  # both are large enough to be digested where they are read
        write_chat(tmp_path / "chat", LAYERS=count, WIDTH=512, HIDDEN=1024)
        (tmp_path / "Modelfile").write_text("FROM ./chat\n")
        command = [sys.executable, "-c", code, "--store", "store", "-t", "m", "--progress", "plain"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
        )
        peaks.append(int(done.stdout))
    assert (tmp_path / "chat" / "model.safetensors").stat().st_size > 360 << 20
    assert peaks[1] - peaks[0] < 100 << 20, peaks
