"""DRAFT: a small model beside the model, from a GGUF or a checkpoint, quantized on its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from gguf_files import tiny_gguf
from inprocess import in_process
from live_server import Server, lines_of, serving_here, upload_folder

from mbuild.gguf.reader import open_gguf

DRAFT = "application/vnd.ollama.image.draft"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of four layers, one of a single layer, and a Modelfile with both."""
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\nDRAFT ./small\nSYSTEM Hi\n")
    return write_chat(tmp_path / "small", LAYERS=1)


def built(mbuild: Run, tmp_path: Path, *arguments: str, name: str = "m") -> dict[str, str]:
    """The layers of a model, built: the last part of their type, and digest, in order."""
    done = mbuild("-t", name, *arguments)
    assert done.returncode == 0, done.stderr
    return layers(tmp_path / "store", name)


def layers(store: Path, name: str, tag: str = "latest") -> dict[str, str]:
    """The layers of a model of the store, in order."""
    path = store / "manifests/registry.ollama.ai/library" / name / tag
    rows = json.loads(path.read_text())["layers"]
    return {row["mediaType"].rpartition(".")[2]: row["digest"] for row in rows}


def alone(mbuild: Run, tmp_path: Path, *arguments: str) -> str:
    """The digest of the draft's checkpoint, built as a model."""
    (tmp_path / "Small").write_text("FROM ./small\n")
    return built(mbuild, tmp_path, "-f", "Small", *arguments, name="s")["model"]


def test_a_checkpoint_as_draft(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """It is converted as FROM would; its layer stands after the detected template."""
    made = built(mbuild, tmp_path)
    assert list(made) == ["model", "template", "draft", "system", "params"]
    assert made["draft"] == alone(mbuild, tmp_path)


def test_a_quantized_draft(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """--draft-quantize gives the bytes that -q gives of it; the model stays as it is."""
    plain = built(mbuild, tmp_path)
    quantized = built(mbuild, tmp_path, "--draft-quantize", "q8_0")
    assert quantized == {**plain, "draft": alone(mbuild, tmp_path, "-q", "q8_0")}
    done = mbuild("-t", "m", "--draft-quantize", "Q8_0")
    assert ": 0 steps run" in done.stderr


def test_the_config_describes_the_draft(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """Ollama's config has the format and the architecture of a draft; the model's own stay."""
    built(mbuild, tmp_path, "--draft-quantize", "q8_0")
    config = json.loads(mbuild("show", "m", "--json").stdout)["config"]
    assert config["draft"] == {"model_format": "gguf", "architecture": "llama"}
    assert config["file_type"] == "BF16"


def test_variants_have_one_draft(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """Each -q makes a model; the draft is made once and is in all of them."""
    done = mbuild("-t", "m", "-q", "q8_0", "-q", "q4_0", "--draft-quantize", "q4_0")
    assert done.returncode == 0, done.stderr
    first, second = (layers(tmp_path / "store", "m", tag) for tag in ("q8_0", "q4_0"))
    assert first["draft"] == second["draft"] == alone(mbuild, tmp_path, "-q", "q4_0")
    assert first["model"] != second["model"]
    assert done.stderr.count("quantizing BF16 model to Q4_0") == 2


def test_a_draft_of_a_stored_model(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """FROM a model of the store, DRAFT a GGUF file; what is built from that keeps both."""
    alone(mbuild, tmp_path)
    tiny_gguf(tmp_path / "d.gguf")
    (tmp_path / "Modelfile").write_text("FROM s\nDRAFT ./d.gguf\n")
    made = built(mbuild, tmp_path)
    with open_gguf(tmp_path / "store/blobs" / made["draft"].replace(":", "-")) as file:
        assert file.get("general.name") == "tiny"
    (tmp_path / "Modelfile").write_text("FROM m\nSYSTEM Hi\n")
    assert built(mbuild, tmp_path, name="n")["draft"] == made["draft"]
    assert "draft" in json.loads(mbuild("show", "n", "--json").stdout)["config"]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("FROM ./chat", ("--draft-quantize", "q8_0"), "--draft-quantize requires a DRAFT model"),
        ("FROM ./chat\nDRAFT ./small", ("--draft-quantize", "q9"), "q9"),
        ("FROM ./chat\nDRAFT ./lora.gguf", (), "DRAFT lora.gguf: it is a LoRA adapter"),
        ("FROM ./chat\nDRAFT ./lora.gguf", ("--draft-quantize", "q8_0"), "it is a LoRA adapter"),
        ("FROM ./chat\nDRAFT ./mm.gguf", ("--draft-quantize", "q8_0"), "it is a projector"),
        ("FROM ./lora.gguf", ("-q", "q8_0"), "use ADAPTER for it"),
        ("FROM ./mm.gguf", ("-q", "q8_0"), "it is a projector"),
        ("FROM ./chat\nDRAFT ./empty", (), "no model in that directory"),
    ],
)
def test_what_is_no_draft_is_refused(
    mbuild: Run,
    small: Path,
    tmp_path: Path,
    text: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """With the reason, and before anything is named."""
    tiny_gguf(tmp_path / "lora.gguf", kind="adapter")
    tiny_gguf(tmp_path / "mm.gguf", kind="projector")
    (tmp_path / "empty").mkdir()
    (tmp_path / "Modelfile").write_text(text + "\n")
    done = mbuild("-t", "m", *arguments)
    assert done.returncode in (1, 2) and message in done.stderr
    assert not (tmp_path / "store/manifests/registry.ollama.ai/library/m").exists()


def statuses(server: Server, **fields: object) -> list[str]:
    """The lines of a create but progress, which a slow machine has more of."""
    answer = server.create(model="m", **fields)
    assert answer.status_code == 200, answer.text
    return [line["status"] for line in lines_of(answer) if "total" not in line]


def test_draft_quantize_over_http(mbuild: Run, small: Path, tmp_path: Path) -> None:
    """The same model as by the command line; the lines are Ollama's, the second time too."""
    (tmp_path / "Modelfile").write_text("FROM ./d/m.gguf\nDRAFT ./small\n")
    (tmp_path / "d").mkdir()
    tiny_gguf(tmp_path / "d" / "m.gguf")
    expected = built(mbuild, tmp_path, "--draft-quantize", "q8_0")
    with serving_here(tmp_path / "other") as server:
        drafts = {f"small/{name}": d for name, d in upload_folder(server, small).items()}
        files = {"m.gguf": server.upload((tmp_path / "d" / "m.gguf").read_bytes())}
        fields = {"files": files, "draft_files": drafts, "draft_quantize": "Q8_0"}
        first, again = (sorted(statuses(server, **fields)) for _ in range(2))
        assert layers(tmp_path / "other", "m") == expected
        for said, word in ((first, "creating new"), (again, "using existing")):
            assert f"{word} layer {expected['draft']}" in said
            assert said.count("parsing GGUF") == said.count("converting model") == 1
            assert said.count("verifying conversion") == 2
        plain = statuses(server, files=files, draft_files=drafts)
        assert plain.count("converting model") == plain.count("verifying conversion") == 1


def test_draft_quantize_needs_a_draft(small: Path, tmp_path: Path) -> None:
    """In Ollama's words, streaming or not, for a request and for the text of a Modelfile."""
    with serving_here(tmp_path / "other") as server:
        files = {"m.gguf": server.upload(tiny_gguf(tmp_path / "m.gguf").read_bytes())}
        for stream in (True, False):
            for source in ({"files": files}, {"modelfile": f"FROM {files['m.gguf']}"}):
                answer = server.create(model="x", stream=stream, draft_quantize="q8_0", **source)
                assert answer.status_code == 400
                assert answer.json() == {"error": "'draft_quantize' requires a DRAFT model"}
