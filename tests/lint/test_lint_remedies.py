"""A name that leads nowhere gets a hint that leads on: in builds, in commands, over HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from gguf_files import tiny_gguf
from inprocess import in_process
from live_server import serving, serving_here
from stores import copy_tiny_store

from mbuild.core.digest import Digest
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.suggest import near_models


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint."""
    return write_chat(tmp_path_factory.mktemp("chat") / "chat")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in a folder with a model, a projector, an adapter, and a store."""
    (tmp_path / "sub").mkdir()
    tiny_gguf(tmp_path / "sub" / "m.gguf")
    tiny_gguf(tmp_path / "mm.gguf", kind="projector")
    copy_tiny_store(tmp_path / "store")
    return in_process(tmp_path, monkeypatch)


def refused(run: Run, text: str, *arguments: str) -> str:
    """What is said of a Modelfile that does not build."""
    done = run("-f", "-", "-t", "x", "--pull", "never", *arguments, input=text)
    assert done.returncode == 1, done.stderr
    return str(done.stderr)


MISSING = [
    ("FROM .\\sub\\m.gguf", "did you mean ./sub/m.gguf?"),
    ("FROM .\\\\sub\\\\m.gguf", "did you mean ./sub/m.gguf?"),
    ("FROM sub\\m.gguf", "did you mean sub/m.gguf?"),
    ("FROM tiny\nADAPTER .\\sub\\m.gguf", "did you mean ./sub/m.gguf?"),
    ("FROM C:\\models\\m.gguf", "drive letter"),
    ("FROM ./sub/M.GGUF", "did you mean m.gguf?"),
    ("FROM ./sub/m.gguf AS base", "write FROM ./sub/m.gguf"),
    ("FROM ./sub/m.gguf  # mine", "write FROM ./sub/m.gguf"),
    ("FROM tiny AS base", "write FROM tiny"),
    ("FROM ./sub/m", "did you mean m.gguf?"),
    ("FROM https://huggingface.co/o/M-GGUF/resolve/main/m-Q4_K_M.gguf", "hf.co/o/M-GGUF:Q4_K_M?"),
    ("FROM https://huggingface.co/o/M/blob/main/small.gguf?x=1", "hf.co/o/M:small.gguf?"),
    ("FROM hf.co/o/M-GGUF/m-Q4_K_M.gguf", "hf.co/o/M-GGUF:Q4_K_M?"),
    ("FROM https://huggingface.co/o/M/resolve/main/model.safetensors", "mean hf.co/o/M?"),
    ("FROM https://huggingface.co/o/M/blob/main/config.json", "mean hf.co/o/M?"),
    ("FROM hf.co/o/M?library=mbuild", "mean hf.co/o/M?"),
    ("FROM hf://o/M", "mean hf.co/o/M?"),
    ("FROM https://ollama.com/library/phi3:mini", "did you mean phi3:mini?"),
    ("# syntax=mbuild/1\nFROM tiny\nMERGE ./sub/l:0.5", "MERGE ./sub/l WEIGHT 0.5"),
    ("# syntax=mbuild/1\nFROM tiny\nSYSTEM @./sub/n.gguf", "did you mean m.gguf?"),
    ("# syntax=mbuild/1\nFROM ./sub/m.gguf AS tuned\nFROM tunde AS x", "the stage tuned?"),
    ("FROM https://example.com/m.gguf", "fetch the file first"),
    ("FROM https://example.com/m.gguf", "URL@sha256:..."),
    ("FROM hf.co/org/Name", "hf.co/org/Name is not here, and --pull never forbids fetching it"),
    ("FROM hf.co/org/Name-GGUF:Q8_0", "mbuild pull hf.co/org/Name-GGUF:Q8_0"),
    ("FROM meta-llama/Llama-3", "hf.co/meta-llama/Llama-3"),
    ("FROM phi3:mini", "mbuild pull phi3:mini"),
    ("FROM tinny", "did you mean tiny:latest?"),
    ("FROM @sha256:" + 64 * "0", "the store has no such blob"),
    ("FROM @sha256:xyz", "not a digest"),
    ("FROM sub/m.gguf\nADAPTER mm.gguf", "hint: use FROM for it"),
    ("FROM sub/m.gguf\nDRAFT mm.gguf", "hint: use FROM for it"),
]


@pytest.mark.parametrize(("text", "words"), MISSING)
def test_what_leads_nowhere(run: Run, text: str, words: str) -> None:
    """The hint says what was meant, or how to get it."""
    assert words in refused(run, f"{text}\n")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("word", ["FROM", "ADAPTER"])
def test_one_file_of_a_checkpoint(
    run: Run, chat: Path, tmp_path: Path, name: str, word: str
) -> None:
    """A file of a checkpoint in place of the checkpoint: its folder is what to name."""
    shutil.copytree(chat, tmp_path / "ft")
    (tmp_path / "ft" / name).touch()
    text = f"{word} ./ft/{name}\n" if word == "FROM" else f"FROM tiny\n{word} ft/{name}\n"
    assert f"hint: name the folder: {word} {'./' if word == 'FROM' else ''}ft\n" in refused(
        run, text
    )


def test_an_adapters_folder_in_from(run: Run, tmp_path: Path) -> None:
    """A PEFT adapter belongs to ADAPTER."""
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"")
    assert "use ADAPTER ./lora for it" in refused(run, "FROM ./lora\n")


def test_the_root_of_a_model_in_the_hugging_face_cache(run: Run, tmp_path: Path) -> None:
    """The snapshot that main names is offered; any other folder's folders with models too."""
    root = tmp_path / "models--o--m"
    for revision in ("aaa", "bbb"):
        (root / "snapshots" / revision).mkdir(parents=True)
        tiny_gguf(root / "snapshots" / revision / "m.gguf")
    assert "FROM ./models--o--m/snapshots/aaa" in refused(run, "FROM ./models--o--m\n")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("bbb")
    said = refused(run, "FROM ./models--o--m\n")
    assert "FROM ./models--o--m/snapshots/bbb?" in said
    assert "aaa" not in said
    assert "ADAPTER models--o--m/snapshots/bbb?" in refused(
        run, "FROM tiny\nADAPTER models--o--m\n"
    )
    (tmp_path / "outer").mkdir()
    (tmp_path / "sub").rename(tmp_path / "outer" / "inner")
    assert "did you mean FROM outer/inner?" in refused(run, "FROM outer/\n")


BODIES = [
    (b"Entry not found", "the download failed"),
    (b"Repository not found", "the download failed"),
    (b"404: Not Found", "the download failed"),
    (b"Invalid username or password.", "the download failed"),
    (b'{"error":"Access to model x is restricted"}', "the download failed"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    (b"some words", "it starts with the text 'some words'"),
    (b"\x00\x01\x02\x03", "it starts with the bytes 00 01 02 03"),
]


@pytest.mark.parametrize(("body", "words"), BODIES)
def test_what_a_download_got_instead(run: Run, tmp_path: Path, body: bytes, words: str) -> None:
    """A server's message in a model's place is named as such, without Python's notation."""
    (tmp_path / "bad.gguf").write_bytes(body)
    said = refused(run, "FROM ./bad.gguf\n")
    assert words in said
    assert "b'" not in said


OFFERS = [
    (["m.gguf"], "FROM ./m.gguf"),
    (["m.gguf", "mmproj-m.gguf"], "the line FROM ./m.gguf,"),
    (["config.json", "model.safetensors"], "FROM ."),
    (["Modelfile.txt"], "-f d/Modelfile.txt"),
    (["mario.Modelfile"], "-f d/mario.Modelfile"),
    (["model/m.gguf"], "did you mean FROM ./model?"),
    (["notes.txt"], "-f FILE"),
]


@pytest.mark.parametrize(("files", "words"), OFFERS)
def test_a_folder_without_modelfile(run: Run, tmp_path: Path, files: list[str], words: str) -> None:
    """The hint offers what lies there."""
    for name in files:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).touch()
    done = run("-t", "x", "d")
    assert done.returncode == 1
    assert words in done.stderr


def test_the_modelfile_is_a_model(run: Run, tmp_path: Path) -> None:
    """``-f model.gguf``: what it is, and what to write; also for one beyond a Modelfile's size."""
    with (tmp_path / "big.gguf").open("wb") as file:
        file.write(b"GGUF")
        file.truncate(17 << 20)
    for path in ("sub/m.gguf", "big.gguf"):
        done = run("-f", path, "-t", "x")
        assert done.returncode == 1
        assert "GGUF file, a model" in done.stderr
        assert f"FROM ./{Path(path).name}" in done.stderr


def test_blobs_by_digest_and_in_old_spelling(run: Run, tmp_path: Path) -> None:
    """``@sha256:``, the path with a colon and the path with a dash all build the same model."""
    digest = Digest.of((tmp_path / "sub" / "m.gguf").read_bytes())
    assert run("-f", "-", "-t", "a", input="FROM sub/m.gguf\n").returncode == 0
    blobs = tmp_path / "store" / "blobs"
    ids = set()
    paths = (blobs / str(digest), blobs / digest.filename, f"/elsewhere/blobs/{digest}")
    for number, value in enumerate((f"@{digest}", str(digest), *paths)):
        done = run("-f", "-", "-t", f"b{number}", "--quiet", input=f"FROM {value}\n")
        assert done.returncode == 0, done.stderr
        ids.add(done.stdout)
    assert len(ids) == 1


def test_show_names_blobs_by_their_whole_path(run: Run, tmp_path: Path) -> None:
    """What show writes builds from any folder, though the store was given by a relative path."""
    assert run("--store", "store", "-f", "-", "-t", "a", input="FROM sub/m.gguf\n").returncode == 0
    text = run("--store", "store", "show", "a", "--modelfile").stdout
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "Modelfile").write_text(text)
    assert run("--store", "store", "-t", "b", "deep/er").returncode == 0


def test_a_projector_is_known_by_its_metadata(run: Run, tmp_path: Path) -> None:
    """In a folder with a model and a projector neither's name decides."""
    folder = tmp_path / "vision"
    folder.mkdir()
    tiny_gguf(folder / "a-tower.gguf", kind="projector")
    tiny_gguf(folder / "b.gguf")
    assert run("-f", "-", "-t", "v", input="FROM ./vision\n").returncode == 0
    assert "projector" in run("show", "v").stdout
    tiny_gguf(folder / "c.gguf")
    said = refused(run, "FROM ./vision\n")
    assert "vision holds 2 models: a-tower.gguf (projector), b.gguf (model), c.gguf (model)" in said


def test_a_checkpoint_of_links(run: Run, chat: Path, tmp_path: Path) -> None:
    """Weights may be links to anywhere, other files to files of their own name."""
    folder = tmp_path / "links"
    folder.mkdir()
    for path in chat.iterdir():
        (folder / path.name).symlink_to(path)
    (tmp_path / "shard-1.bin").write_bytes((chat / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "shard-1.bin")
    done = run("-f", "-", "-t", "linked", "--quiet", input="FROM ./links\n")
    assert done.returncode == 0, done.stderr
    shutil.copytree(chat, tmp_path / "plain")
    assert run("-f", "-", "-t", "p", "--quiet", input="FROM ./plain\n").returncode == 0


def test_a_text_must_not_be_a_link_to_another_file(run: Run, chat: Path, tmp_path: Path) -> None:
    """A chat template becomes part of the model: it must not be some file of this machine."""
    shutil.copytree(chat, tmp_path / "ft")
    (tmp_path / "secret").write_text("{{ secret }}")
    (tmp_path / "ft" / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "ft" / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert "outside the directory" in refused(run, "FROM ./ft\n")


@pytest.mark.parametrize("name", ["my model", "Mario Bros", ".x", "a" * 81, "x:", "a/b c", "né"])
def test_a_refused_name_says_what_is_allowed(run: Run, name: str) -> None:
    """Which characters, and how many, in the message itself."""
    with pytest.raises(InvalidNameError) as caught:
        ModelName.parse(name)
    said = f"{caught.value.message} {caught.value.hint}"
    assert "letters, digits" in said
    assert "80" in said
    done = run("-t", name)
    assert done.returncode == 2
    assert "empty" in done.stderr or "letters" in done.stderr or "80" in done.stderr


NEAR = [
    ("phi3:latest", ["base:latest", "d:latest", "mistral:latest"], []),
    ("phi3:q4_K_M", ["base:q4_K_M"], []),
    ("tinny:latest", ["tiny:latest", "base:latest"], ["tiny:latest"]),
    ("mario:v2", ["mario:latest", "mario:v1"], ["mario:v1", "mario:latest"]),
    ("qwen", ["qwen2.5-coder:latest"], ["qwen2.5-coder:latest"]),
]


@pytest.mark.parametrize(("value", "names", "expected"), NEAR)
def test_near_names(value: str, names: list[str], expected: list[str]) -> None:
    """Models have to be alike; the tag alone makes no name a near one."""
    assert near_models(value, names) == expected


def test_explain_names_no_empty_parameters(run: Run, tmp_path: Path) -> None:
    """A build that gets its first parameter explains that one, not an empty object."""
    (tmp_path / "Modelfile").write_text("FROM sub/m.gguf\n")
    assert run("-t", "a").returncode == 0
    (tmp_path / "Modelfile").write_text("FROM sub/m.gguf\nPARAMETER num_ctx 4096\n")
    said = run("explain", "-t", "a").stdout
    assert "parameter num_ctx" in said
    assert "{}" not in said


def test_a_tensor_type_that_fits_nothing(run: Run) -> None:
    """``--tensor-type`` with a name that no tensor has is a warning that quotes it."""
    done = run("-f", "-", "-t", "q", "-q", "q8_0", "--tensor-type", "foo=q4_0", input="FROM tiny\n")
    assert done.returncode == 0, done.stderr
    assert "warning: --tensor-type foo=Q4_0 matches no tensor" in done.stderr


def test_a_text_as_importance_matrix(run: Run, tmp_path: Path) -> None:
    """A text file is called one."""
    (tmp_path / "calibration.txt").write_text("Once upon a time\n")
    said = refused(run, "FROM tiny\n", "-q", "q8_0", "--imatrix", "calibration.txt")
    assert "calibration.txt: a text file, not an importance matrix" in said


FIELDS = [
    ("options", {"temperature": 0.5}, "parameters"),
    ("Options", {"temperature": 0.5}, "parameters"),
    ("temperature", 0.5, "parameters"),
    ("system_prompt", "x", "system"),
    ("adaptors", {}, "adapters"),
    ("quantise", "q8_0", "quantize"),
    ("licence", "MIT", "license"),
    ("message", [], "messages"),
]


@pytest.mark.parametrize(("field", "value", "meant"), FIELDS)
def test_http_names_fields_that_are_not_read(
    tmp_path: Path, field: str, value: object, meant: str
) -> None:
    """A field near a known one is told in the answer's warnings; the model is built."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        answer = server.create(model="a", stream=False, **{"from": "tiny", field: value}).json()
    assert answer["status"] == "success"
    assert answer["warnings"] == [f"the field {field!r} is not read: did you mean {meant!r}?"]


def test_http_is_silent_of_fields_that_are_like_none(tmp_path: Path) -> None:
    """As Ollama ignores them."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        answer = server.create(
            model="a", stream=False, **{"from": "tiny", "zzz": 1, "insecure": True}
        )
    assert answer.json() == {"status": "success"}


@pytest.mark.parametrize(
    "value", ["./x.gguf", "../x.gguf", "/models/x.gguf", "x.gguf", "C:\\x.gguf"]
)
def test_http_from_a_path(tmp_path: Path, value: str) -> None:
    """``from`` a path is answered with the way to do it."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        answer = server.create(model="a", stream=False, **{"from": value})
    assert answer.status_code == 400
    assert "/api/blobs" in answer.json()["error"]
    assert "'files'" in answer.json()["error"]


def test_refused_hosts_are_logged(tmp_path: Path) -> None:
    """Each refused Host once, with the option that allows it; and refused pages."""
    with serving(copy_tiny_store(tmp_path / "store")) as server:
        for headers in (
            {"Host": "ollama:11434"},
            {"Host": "ollama:11434"},
            {"Origin": "http://a.b"},
        ):
            assert server.http.get("/api/tags", headers=headers).status_code == 403
        _, errors = server.stop()
    assert (
        errors.count("refused a request for the host ollama: to allow it, --allow-host ollama") == 1
    )
    assert "refused a page of http://a.b: to allow it, OLLAMA_ORIGINS=http://a.b" in errors
