"""Models in several layers of weights, on the command line: made, kept, found again, refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from example_models import edit_json, write_chat
from gguf_files import gguf_bytes, tensor, tiny_gguf, tiny_model, tiny_shards
from hostile_shards import HOSTILE, shards
from inprocess import in_process
from killed_build import end_build
from safetensors.numpy import save_file
from stores import check_promise

from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import GGMLType

LAYERS = 3
WARNING = "Ollama before 0.35.0 lists the model, but cannot run it"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process; how full the disk is makes no difference."""
    monkeypatch.setenv("MBUILD_KEEP", "1GB")
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint of a few layers, and a Modelfile FROM it."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    return write_chat(tmp_path / "chat", LAYERS=LAYERS)


def build(mbuild: Run, *arguments: str | Path, name: str = "m") -> str:
    """Build a model; what was said."""
    done = mbuild("-t", name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def from_text(mbuild: Run, text: str, *arguments: str, name: str = "m") -> str:
    """Build a model from a Modelfile's text; what was said."""
    done = mbuild("-f", "-", "-t", name, *arguments, input=text)
    assert done.returncode == 0, done.stderr
    return done.stderr


def manifest(name: str = "m") -> dict[str, Any]:
    """The manifest of a model."""
    model, _, tag = name.partition(":")
    root = Path(os.environ["OLLAMA_MODELS"]) / "manifests/registry.ollama.ai/library"
    return json.loads((root / model / (tag or "latest")).read_text())  # type: ignore[no-any-return]


def weights(name: str = "m", kind: str = "model") -> list[str]:
    """The digests of a model's layers of weights, in order."""
    layers = manifest(name)["layers"]
    return [each["digest"] for each in layers if each["mediaType"].endswith(f".{kind}")]


def config(name: str = "m") -> dict[str, Any]:
    """The config of a model."""
    return json.loads(blob(manifest(name)["config"]["digest"]).read_bytes())  # type: ignore[no-any-return]


def blob(digest: str) -> Path:
    return Path(os.environ["OLLAMA_MODELS"]) / "blobs" / digest.replace(":", "-")


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


# What is made.


def test_llama_cpp_gives_the_tokens_of_the_whole_file(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """The shards, under their names in a folder, are the model that one file is."""
    pytest.importorskip("xllamacpp")
    from llama_runs import generate

    build(mbuild, "-q", "q8_0", name="whole")
    build(mbuild, "-q", "q8_0", "--split-layers", "1", name="cut")
    assert mbuild("export", "cut", "-o", "cut/").returncode == 0
    first = tmp_path / f"cut/cut-00001-of-{LAYERS + 1:05d}.gguf"
    assert len(list((tmp_path / "cut").glob("*.gguf"))) == LAYERS + 1
    assert generate(first) == generate(blob(weights("whole")[0]))


@pytest.mark.parametrize("options", [(), ("-q", "q4_K_M")], ids=["converted", "quantized"])
def test_another_template_changes_the_first_shard_alone(
    mbuild: Run, chat: Path, options: tuple[str, ...]
) -> None:
    """It holds all metadata and no tensor, so it is small, and the weights keep their digests."""
    build(mbuild, *options, "--split-layers", "1")
    before = weights()
    edit_json(chat / "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}")
    build(mbuild, *options, "--split-layers", "1")
    after = weights()
    assert len(before) == LAYERS + 1
    assert before[0] != after[0] and before[1:] == after[1:]
    assert blob(after[0]).stat().st_size < 20_000
    with open_gguf(blob(after[0])) as first, open_gguf(blob(after[1])) as second:
        assert not first.tensors
        assert set(second.kvs) == {"split.no", "split.count", "split.tensors.count"}


def test_nothing_is_made_twice(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """The second build runs no step; another system message makes no shard."""
    build(mbuild, "--split", "1MB", "-q", "q8_0")
    before = weights()
    assert "0 steps run" in build(mbuild, "--split", "1MB", "-q", "q8_0")
    (tmp_path / "Modelfile").write_text("FROM ./chat\nSYSTEM Be brief.\n")
    said = build(mbuild, "--split", "1MB", "-q", "q8_0")
    assert ("quantizing" not in said and "2 steps run" in said) or "3 steps run" in said
    assert weights() == before


def test_every_source_gives_the_same_shards(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A checkpoint, its GGUF file, its shards and a stored model, cut at the same places."""
    build(mbuild, "--split-layers", "2")
    wanted = weights()
    assert len(wanted) == 3
    build(mbuild, name="whole")
    whole = weights("whole")
    (tmp_path / "model.gguf").write_bytes(blob(whole[0]).read_bytes())
    from_text(mbuild, "FROM ./model.gguf\n", "--split-layers", "2", name="file")
    from_text(mbuild, "FROM whole\n", "--split-layers", "2", name="stored")
    assert mbuild("export", "whole", "--raw", "--split-layers", "1", "-o", "a.gguf").returncode == 0
    from_text(mbuild, "FROM ./a-*.gguf\n", "--split-layers", "2", name="shards")
    from_text(mbuild, "FROM ./a-*.gguf\n", "--keep-split", name="kept")
    from_text(mbuild, "FROM kept\n", "--split-layers", "2", name="again")
    for name in ("file", "stored", "shards", "again"):
        assert weights(name) == wanted, name
    assert mbuild("export", "kept", "--raw", "--merge", "-o", "merged.gguf").returncode == 0
    assert digest_of(tmp_path / "merged.gguf") == whole[0]
    from_text(mbuild, "FROM ./a-00001-of-00004.gguf\n", name="merged")
    assert weights("merged") == whole


def test_quantized_from_shards_or_whole_the_weights_are_the_same(mbuild: Run, chat: Path) -> None:
    """-q of a stored split model; the result is in one file, or kept, or cut anew."""
    build(mbuild, "-q", "q4_0", name="one")
    build(mbuild, "--split-layers", "1", name="base")
    from_text(mbuild, "FROM base\n", "-q", "q4_0", name="a")
    assert weights("a") == weights("one")
    from_text(mbuild, "FROM base\n", "-q", "q4_0", "--keep-split", name="b")
    for old, new in zip(weights("base"), weights("b"), strict=True):
        with open_gguf(blob(old)) as a, open_gguf(blob(new)) as b:
            assert [t.name for t in a.tensors] == [t.name for t in b.tensors]
    from_text(mbuild, "FROM base\n", "-q", "q4_0", "--split-layers", "2", name="c")
    assert len(weights("c")) == 3


def test_variants_are_each_cut_by_their_own_sizes(mbuild: Run, chat: Path) -> None:
    """Several types from one read: each has the layers that it has when built alone."""
    split = ("--split", "600KB")
    build(mbuild, "-q", "q8_0", "-q", "q4_0", *split, name="both")
    for type_ in ("q8_0", "q4_0"):
        build(mbuild, "-q", type_, *split, "--no-cache", name=type_)
        assert weights(f"both:{type_}") == weights(type_)
    assert len(weights("q8_0")) > len(weights("q4_0")) > 2


def test_shards_are_kept_byte_for_byte(mbuild: Run, tmp_path: Path) -> None:
    """With --keep-split each file is a layer, in order; its facts are the whole model's."""
    paths = tiny_shards(tmp_path, "x", [2, 0, 3])
    (tmp_path / "Modelfile").write_text("FROM ./x-00001-of-00003.gguf\n")
    said = build(mbuild, "--keep-split")
    assert said.count(WARNING) == 1
    assert weights() == [digest_of(path) for path in paths]
    tiny_gguf(tmp_path / "whole.gguf")
    from_text(mbuild, "FROM ./whole.gguf\n", name="whole")
    assert config() == {**config("whole"), "requires": "0.35.0"}
    assert "0 steps run" in build(mbuild, "--keep-split")
    build(mbuild, name="merged")
    assert weights("merged") == weights("whole")


def test_a_checkpoint_has_no_files_to_keep(mbuild: Run, chat: Path) -> None:
    """Whoever asks for that is told what to ask for instead; shards of a GGUF need no word."""
    assert chat.is_dir()
    said = from_text(mbuild, "FROM ./chat\n", "--keep-split")
    assert said.count("warning: --keep-split keeps the files of a split GGUF;") == 1
    assert "use --split SIZE" in said and len(weights()) == 1


def test_a_draft_keeps_its_shards(mbuild: Run, tmp_path: Path) -> None:
    """Ollama takes several layers of a draft as well."""
    tiny_gguf(tmp_path / "m.gguf")
    paths = tiny_shards(tmp_path, "d", [2, 3], seed=4)
    from_text(mbuild, "FROM ./m.gguf\nDRAFT ./d-*.gguf\n", "--keep-split")
    assert weights(kind="draft") == [digest_of(path) for path in paths]
    assert len(weights()) == 1
    assert config()["requires"] == "0.35.0"
    assert config()["draft"] == {"model_format": "gguf", "architecture": "llama"}


# What goes on from there.


def test_a_model_from_a_split_one_inherits_its_layers(mbuild: Run, tmp_path: Path) -> None:
    """FROM name: the same layers; REQUIRES cannot be less than what they need."""
    tiny_gguf(tmp_path / "m.gguf")
    from_text(mbuild, "FROM ./m.gguf\n", "--split-layers", "1", name="base")
    from_text(mbuild, "FROM base\nSYSTEM Hi\nREQUIRES 0.20.0\n", name="low")
    from_text(mbuild, "FROM base\nREQUIRES 0.40.1\n", name="high")
    from_text(mbuild, "FROM ./m.gguf\nREQUIRES 0.35.0-rc1\n", "--split-layers", "1", name="rc")
    assert weights("low") == weights("high") == weights("base")
    needed = [config(name)["requires"] for name in ("base", "low", "high", "rc")]
    assert needed == ["0.35.0", "0.35.0", "0.40.1", "0.35.0"]
    assert "requires" not in (from_text(mbuild, "FROM ./m.gguf\n", name="one"), config("one"))[1]


def test_one_file_made_from_a_split_model_does_not_need_a_newer_ollama(
    mbuild: Run, chat: Path
) -> None:
    """What only the shards of the base needed is no longer said; what REQUIRES says stays."""
    assert chat.is_dir()
    from_text(mbuild, "FROM ./chat\n", name="whole")
    from_text(mbuild, "FROM ./chat\n", "--split-layers", "1", name="cut")
    from_text(mbuild, "FROM ./chat\nREQUIRES 0.40.1\n", "--split-layers", "1", name="newer")
    for name in ("whole", "cut", "newer"):
        from_text(mbuild, f"FROM {name}\n", "-q", "q8_0", name=f"{name}-q")
    assert weights("cut-q") == weights("whole-q")
    assert config("cut-q") == config("whole-q")
    assert config("newer-q") == {**config("whole-q"), "requires": "0.40.1"}
    from_text(mbuild, "FROM cut\n", "-q", "q8_0", "--keep-split", name="kept-q")
    from_text(mbuild, "FROM cut\nREQUIRES 0.35.0\n", "-q", "q8_0", name="said-q")
    assert config("kept-q")["requires"] == config("said-q")["requires"] == "0.35.0"


def test_an_adapter_is_checked_against_all_shards(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Its base's tensors lie in several layers, made now or stored."""
    (tmp_path / "adapter").mkdir()

    with open_gguf(_whole(mbuild)) as file:
        width = file.get("llama.embedding_length")
    name = f"base_model.model.model.layers.{LAYERS - 1}.mlp.gate_proj"
    with open_gguf(_whole(mbuild)) as file:
        wide = next(t.dims for t in file.tensors if t.name == "blk.0.ffn_gate.weight")
    parts = {
        "lora_A": np.zeros((2, width), np.float32),
        "lora_B": np.ones((wide[1], 2), np.float32),
    }
    save_file({f"{name}.{k}.weight": v for k, v in parts.items()},
              tmp_path / "adapter/adapter_model.safetensors")  # fmt: skip
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["gate_proj"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    text = "FROM ./chat\nADAPTER ./adapter\n"
    from_text(mbuild, text, name="one")
    from_text(mbuild, text, "--split-layers", "1", name="cut")
    build(mbuild, "--split-layers", "1", name="base")
    from_text(mbuild, "FROM base\nADAPTER ./adapter\n", name="stored")
    adapters = [weights(name, "adapter") for name in ("one", "cut", "stored")]
    assert len(adapters[0]) == 1 and adapters[0] == adapters[1] == adapters[2]


def _whole(mbuild: Run) -> Path:
    build(mbuild, name="plain")
    return blob(weights("plain")[0])


def test_a_modelfile_that_show_wrote_gives_the_same_layers(mbuild: Run, tmp_path: Path) -> None:
    """It names each shard by its blob, in any order; without --keep-split they are kept too."""
    tiny_gguf(tmp_path / "m.gguf")
    from_text(mbuild, "FROM ./m.gguf\nSYSTEM Hi\n", "--split-layers", "1", name="base")
    text = mbuild("show", "base", "--modelfile").stdout
    lines = [line for line in text.splitlines() if line.startswith("FROM ")]
    assert len(lines) == len(weights("base")) == 3
    from_text(mbuild, text, name="again")
    assert manifest("again")["layers"] == manifest("base")["layers"]
    turned = "\n".join(lines[::-1]) + "\nSYSTEM Hi\n"
    from_text(mbuild, turned, name="turned")
    assert weights("turned") == weights("base")
    assert "0 steps run" in from_text(mbuild, turned, name="turned")
    done = mbuild("-f", "-", "-t", "part", input="\n".join(lines[:2]))
    assert done.returncode == 1 and "missing shard 3 of 3" in done.stderr


def test_a_split_model_is_shown_compared_and_checked_as_one(mbuild: Run, tmp_path: Path) -> None:
    """All tensors of all layers, in the order of the whole file; the same weights do not differ."""
    tiny_gguf(tmp_path / "m.gguf")
    from_text(mbuild, "FROM ./m.gguf\n", name="one")
    from_text(mbuild, "FROM ./m.gguf\n", "--split-layers", "1", name="cut")
    one, cut = (
        json.loads(mbuild("show", name, "--tensors", "--format", "json").stdout)
        for name in ("one", "cut")
    )
    assert [row["shard"] for row in cut[0]["tensors"]] == [2, 2, 2, 3, 3]
    assert cut[0]["shards"] == weights("cut")
    assert [(t["name"], t["type"], t["bytes"]) for t in cut[0]["tensors"]] == [
        (t["name"], t["type"], t["bytes"]) for t in one[0]["tensors"]
    ]
    keys = [
        [row["key"] for row in json.loads(
            mbuild("show", name, "--metadata", "--format", "json").stdout)[0]["metadata"]]
        for name in ("one", "cut")
    ]  # fmt: skip
    assert keys[0] == keys[1]
    text = mbuild("diff", "one", "cut").stdout
    assert "the same tensors, in 1 and 3 files" in text
    (found,) = json.loads(mbuild("diff", "m.gguf", "cut", "--format", "json").stdout)["weights"]
    assert found["identical"] and found["files"] == [1, 3]
    assert mbuild("verify").returncode == 0
    used = {
        row["name"]: row for row in json.loads(mbuild("du", "--format", "json").stdout)["models"]
    }
    size = sum(layer["size"] for layer in (manifest("cut")["config"], *manifest("cut")["layers"]))
    assert used["cut:latest"]["total"] == size
    assert mbuild("rm", "cut").returncode == 0
    assert "0 steps run" in from_text(mbuild, "FROM ./m.gguf\n", "--split-layers", "1", name="cut")


def test_verify_finds_a_shard_that_the_manifest_does_not_name(mbuild: Run, tmp_path: Path) -> None:
    """Each blob is good, and the model is not whole."""
    tiny_gguf(tmp_path / "m.gguf")
    from_text(mbuild, "FROM ./m.gguf\n", "--split-layers", "1")
    path = tmp_path / "store/manifests/registry.ollama.ai/library/m/latest"
    value = manifest()
    del value["layers"][2]
    path.write_text(json.dumps(value))
    done = mbuild("verify", "m")
    assert done.returncode == 1
    assert "missing shard 3 of 3" in done.stdout


def test_history_lock_plan_and_rebuild_know_how_it_is_split(mbuild: Run, tmp_path: Path) -> None:
    """The option is kept, explained by its flag, and used when the model is built again."""
    tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
    build(mbuild)
    plan = json.loads(mbuild("plan", "-t", "m", "--split-layers", "1", "--format", "json").stdout)
    build(mbuild, "--split-layers", "1")
    made = sum(blob(digest).stat().st_size for digest in weights())
    assert [row["writes"] for row in plan["steps"] if row["kind"] == "split"] == [made]
    why = mbuild("explain", "-t", "m", "--split-layers", "2").stdout
    assert "--split-layers 1 -> 2" in why
    why = mbuild("explain", "-t", "m", "--no-cache").stdout
    assert "no longer split (--split)" in why
    assert mbuild("verify", "m", "--rebuild").returncode == 0
    assert mbuild("lock", "-t", "m", "--split", "1KB").returncode == 0
    assert json.loads((tmp_path / "Modelfile.lock").read_text())["options"]["split"] == "1KB"
    build(mbuild, "--locked")
    assert len(weights()) == 3
    done = mbuild("build", "--locked", "-t", "m", "--split", "2KB")
    assert '--split changed: "1KB" in the lock file, "2KB" now' in done.stderr


# What is refused, and what is said.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--split", "1GB", "--split-layers", "1"),
            "--split and --split-layers cannot be combined",
        ),
        (("--split", "1GB", "--keep-split"), "--split and --keep-split cannot be combined"),
        (("--split", "lots"), "'lots' is not a size such as 50GB"),
        (("--split", "0"), "is too small a size"),
        (("--split-layers", "0"), "'0' is not a whole number of at least 1"),
        (("--split-layers", "x"), "'x' is not a whole number of at least 1"),
    ],
)
def test_options_that_cannot_be(
    mbuild: Run, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """Nothing is built, and the message says what is wrong."""
    tiny_gguf(tmp_path / "m.gguf")
    done = mbuild("-f", "-", "-t", "m", *options, input="FROM ./m.gguf\n")
    assert done.returncode != 0
    assert says in done.stderr


def test_a_tensor_larger_than_a_shard_is_said(mbuild: Run, tmp_path: Path) -> None:
    """It has a shard of its own; headers and the names of types count for nothing."""
    tensors = [tensor(f"blk.{n}.ffn_up.weight", (64, 64), GGMLType.F32) for n in range(3)]
    tiny_gguf(tmp_path / "m.gguf", tensors=tensors)
    said = from_text(mbuild, "FROM ./m.gguf\n", "--split", "10KB")
    assert "tensor blk.0.ffn_up.weight takes 16 KB and cannot be divided" in said
    assert len(weights()) == 4
    assert "divided" not in from_text(mbuild, "FROM ./m.gguf\n", "--split", "17KB", name="other")


def test_more_shards_than_a_model_can_have(mbuild: Run, tmp_path: Path) -> None:
    """1,024 are what Ollama takes; one more is refused before anything is written."""
    tensors = [tensor(f"blk.{n}.x", (32,), GGMLType.F32) for n in range(1024)]
    tiny_gguf(tmp_path / "m.gguf", tensors=tensors)
    done = mbuild("-f", "-", "-t", "m", "--split", "1", input="FROM ./m.gguf\n")
    assert done.returncode == 2
    assert "the model would have 1025 shards; Ollama takes at most 1024" in done.stderr
    assert "choose a larger SIZE" in done.stderr


def other_name(folder: Path) -> None:
    shards(folder)[0].rename(folder / "model.gguf")


WAYS = [(), ("--keep-split",), ("--split-layers", "1"), ("-q", "q8_0")]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize(("make", "says", "remedy"), HOSTILE)
def test_hostile_sets_are_refused_by_name(
    mbuild: Run,
    tmp_path: Path,
    make: Callable[[Path], None],
    says: str,
    remedy: str,
    options: tuple[str, ...],
) -> None:
    """Whatever is to be done with them: the file is named, and what to do; no blob is left."""
    make(tmp_path)
    done = mbuild("-f", "-", "-t", "m", *options, input="FROM ./x-*.gguf\n")
    assert done.returncode == 1
    assert says in done.stderr and remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert mbuild("list", "--json").stdout.strip() == "[]"
    store = tmp_path / "store"
    assert not list(store.glob("blobs/sha256-*"))


def test_one_shard_under_another_name_is_refused(mbuild: Run, tmp_path: Path) -> None:
    """Alone it is no model, with --keep-split neither."""
    other_name(tmp_path)
    for options in ((), ("--keep-split",)):
        done = mbuild("-f", "-", "-t", "m", *options, input="FROM ./model.gguf\n")
        assert done.returncode == 1
        assert "model.gguf is one shard of a split GGUF, under another name" in done.stderr


def test_a_wildcard_stands_for_one_model(mbuild: Run, tmp_path: Path) -> None:
    """For all its shards, or for its only file; several models and none are refused."""
    tiny_shards(tmp_path, "a", [2, 3])
    tiny_gguf(tmp_path / "c.gguf")
    from_text(mbuild, "FROM ./a-*.gguf\n", "--keep-split")
    assert len(weights()) == 2
    from_text(mbuild, "FROM ./c*.gguf\n", name="one")
    tiny_shards(tmp_path, "ab", [2, 3])
    done = mbuild("-f", "-", "-t", "n", input="FROM ./a*.gguf\n")
    assert (
        "the files belong to 2 models: a-00001-of-00002.gguf, a-00002-of-00002.gguf" in done.stderr
    )
    assert "name the file, or the first shard, of the one that you mean" in done.stderr
    done = mbuild("-f", "-", "-t", "n", input="FROM ./z-*.gguf\n")
    assert "FROM ./z-*.gguf: no file matches" in done.stderr
    (tmp_path / "lit*.gguf").write_bytes((tmp_path / "c.gguf").read_bytes())
    from_text(mbuild, "FROM ./lit*.gguf\n", name="literal")
    assert weights("literal") == weights("one")


# A build that is killed.


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("threads", [2, 8])
def test_a_killed_build_resumes(mbuild: Run, tmp_path: Path, how: str, threads: int) -> None:
    """Finished shards and the begun ones are found again, and nothing of them is left over."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    write_chat(tmp_path / "chat", LAYERS=8)
    total, at = 8 * 7 + 2, 45
    options = ("-t", "m", "-q", "q8_0", "--split-layers", "2")
    done = end_build(tmp_path, how, at, total // 4 + 1, *options, threads=threads)
    assert done.returncode == (-9 if how == "SIGKILL" else 130), done.stderr
    store = tmp_path / "store"
    assert not (store / "manifests/registry.ollama.ai/library/m").exists()
    shards = [p for p in store.glob("blobs/sha256-*") if p.read_bytes().startswith(b"GGUF")]
    assert not shards, "a shard was published before the others"
    said = build(mbuild, "-q", "q8_0", "--split-layers", "2")
    found = re.search(r"^reused (\d+) of \d+ quantized tensors$", said, re.MULTILINE)
    assert found and total // 4 < int(found[1]) <= at + 8  # threads end what they began
    made = weights()
    assert len(made) == 5
    build(mbuild, "-q", "q8_0", "--split-layers", "2", "--no-cache", name="again")
    assert weights("again") == made
    assert check_promise(store) == 2
    assert not [p for p in (store / ".mbuild").rglob("*") if p.is_file() and "partial" in str(p)]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_many_shards_fit_into_few_open_files(mbuild: Run, tmp_path: Path) -> None:
    """With a soft limit of 128 files a model of 400 shards is written, kept and exported."""
    tensors = [tensor(f"blk.{n}.x", (32,), GGMLType.F32) for n in range(399)]
    tiny_gguf(tmp_path / "m.gguf", tensors=tensors)
    code = """
        import resource, sys
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        from mbuild.cli.main import run
        sys.exit(run(sys.argv[1:]))
    """
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
    (tmp_path / "Kept").write_text("FROM ./out/m-*.gguf\n")
    for arguments in (
        ("-t", "m", "--split", "1"),
        ("export", "m", "--raw", "-o", "out/"),
        ("-f", "Kept", "-t", "kept", "--keep-split"),
        ("export", "kept", "--raw", "--merge", "-o", "again.gguf"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(weights()) == 400
    assert weights("kept") == weights()
    assert (tmp_path / "again.gguf").read_bytes() == gguf_bytes(tiny_model(tensors=tensors))
