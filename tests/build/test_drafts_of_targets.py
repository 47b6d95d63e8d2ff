"""DRAFT of a model that has no tokenizer of its own: that of the checkpoint which FROM names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import DATA, files_of, write_checkpoint
from conftest import Run
from example_models import write_chat
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.sources.encoders import needs_target
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.convert.drafting import target_vocabulary
from mbuild.convert.families import find, rows
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.keys import MASK_OF_DRAFT
from mbuild.convert.rows.target import draft_tokens
from mbuild.core.errors import FormatError
from mbuild.gguf.reader import open_gguf


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A checkpoint, an EAGLE-3 draft for it, and a Modelfile with both."""
    chat = json.loads((write_chat(tmp_path / "chat") / "config.json").read_text())
    spec = json.loads((DATA / "eagle3.json").read_text())
    config = spec["files"]["config.json"]
    config |= {"vocab_size": chat["vocab_size"], "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    spec["files"] = {"config.json": config}
    width = spec["tensors"]["model.safetensors"]["fc.weight"].split()[1]
    spec["tensors"]["model.safetensors"]["fc.weight"] = f"BF16 {width} {3 * chat['hidden_size']}"
    write_checkpoint(tmp_path / "eagle3", spec)
    (tmp_path / "Modelfile").write_text("FROM ./chat\nDRAFT ./eagle3\n")
    return tmp_path / "eagle3"


def layers(folder: Path) -> dict[str, Path]:
    path = folder / "store/manifests/registry.ollama.ai/library/m/latest"
    rows = json.loads(path.read_text())["layers"]
    return {
        row["mediaType"].rpartition(".")[2]: folder
        / "store/blobs"
        / row["digest"].replace(":", "-")
        for row in rows
    }


def entries(path: Path) -> dict[str, Any]:
    with open_gguf(path) as file:
        return {kv.key: kv.value for kv in file.model().metadata}


def test_a_draft_has_its_target_s_tokens(mbuild: Run, draft: Path, tmp_path: Path) -> None:
    """Every tokenizer entry is the target's, and the hidden states are counted from its layers."""
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    made = layers(tmp_path)
    model, own = entries(made["model"]), entries(made["draft"])
    assert own["general.architecture"] == "eagle3"
    tokens = {key for key in model if key.startswith("tokenizer.")}
    assert tokens and all(own[key] == model[key] for key in tokens)
    assert own["eagle3.target_layers"] == [0, 1, 2]
    assert own["eagle3.target_hidden_size"] == model["llama.embedding_length"]


def test_the_target_s_tokenizer_rebuilds_the_draft(
    mbuild: Run, draft: Path, tmp_path: Path
) -> None:
    """Its small files are part of the draft's key; its weights are not."""
    assert mbuild("-t", "m").returncode == 0
    path = tmp_path / "chat" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "chat_template": "{{ messages[0].content }}"}))
    done = mbuild("-t", "m")
    assert "ran convert draft eagle3: target/tokenizer_config.json" in done.stderr, done.stderr
    template = entries(layers(tmp_path)["draft"])["tokenizer.chat_template"]
    assert template == "{{ messages[0].content }}"


@pytest.mark.parametrize("modelfile", ["FROM ./eagle3", "FROM ./tiny.gguf\nDRAFT ./eagle3"])
def test_a_draft_without_its_target_s_folder_is_refused(
    modelfile: str, mbuild: Run, draft: Path, tmp_path: Path
) -> None:
    """With the class, and what to name."""
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text(modelfile + "\n")
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "eagle3 is a draft model (LlamaForCausalLMEagle3)" in done.stderr
    assert "checkpoint in FROM, and this one with DRAFT" in done.stderr


def test_the_names_of_drafts_are_those_of_the_rows(tmp_path: Path) -> None:
    """What the planner takes for a draft is what a conversion takes for one."""
    for row in rows():
        for name in row.names:
            folder = tmp_path / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({"architectures": [name]}))
            path = folder / "config.json"
            file = SourceFile("config.json", path, FileStamp.of(path.stat()), None)
            assert needs_target({"config.json": file}) is row.drafts, name


def test_a_mask_token_stands_behind_the_target_s_tokens(tmp_path: Path) -> None:
    """The target's family says how its vocabulary is read; the draft says which token masks."""
    files = files_of(write_chat(tmp_path / "chat"))
    config = json.loads(files["config.json"].read_text())
    own: dict[str, Any] = {"vocab_size": config["vocab_size"], MASK_OF_DRAFT: 3}
    row = find("DFlashDraftModel")
    paths = {f"target/{name}": path for name, path in files.items()}
    found = target_vocabulary(paths, own, row, pre=None, warn=lambda text: None)
    assert (found[-1].key, found[-1].value) == ("tokenizer.ggml.mask_token_id", 3)
    assert len(found[2].value) == config["vocab_size"]


@pytest.mark.parametrize(
    ("differences", "says"), [([0, 79], "leads to token 80"), ([1, 0], "twice"), ([-1, 0], "token")]
)
def test_tokens_that_the_target_does_not_have_are_refused(
    differences: list[int], says: str
) -> None:
    """The table says for each token of the draft how far the target's is from it."""
    values = np.array(differences, "<i8")
    lazy = Lazy(DType.I64, values.shape, lambda: values, "d2t")
    with pytest.raises(FormatError, match=says):
        list(draft_tokens(None, {"d2t": lazy}, 80))  # type: ignore[arg-type]
