"""Files are known by what they are, models and blobs by any spelling of their names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.core.suggest import did_you_mean, near_models
from mbuild.store import Store


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def built(tmp_path: Path, mbuild: Run) -> Path:
    """A folder with a GGUF file, and a store with the model ``mario`` made of it."""
    tiny_gguf(tmp_path / "model.gguf")
    build(mbuild, tmp_path, "mario", "FROM ./model.gguf\nSYSTEM hi\n")
    return tmp_path


def build(mbuild: Run, folder: Path, name: str, text: str) -> None:
    (folder / "Modelfile").write_text(text)
    done = mbuild("-t", name)
    assert done.returncode == 0, done.stderr


def kinds(folder: Path, name: str) -> list[str]:
    """The kinds of a model's layers, in order."""
    stored = Store(folder / "store").manifests.read(ModelName.parse(name))
    return [layer.kind for layer in stored.manifest.layers]


# Folders with several GGUF files.


@pytest.mark.parametrize(
    ("model", "projector"),
    [
        ("m.gguf", "vision-tower.gguf"),
        ("z.gguf", "a.GGUF"),
        ("mmproj-tuned.gguf", "encoder.gguf"),
        ("m.gguf", "mmproj-m.gguf"),
    ],
)
def test_a_projector_is_known_by_its_header(
    tmp_path: Path, mbuild: Run, model: str, projector: str
) -> None:
    """Whatever the two files in a folder are called, each becomes the layer that it is."""
    folder = tmp_path / "d"
    folder.mkdir()
    tiny_gguf(folder / model)
    tiny_gguf(folder / projector, kind="projector")
    for _ in range(2):  # the second time from what the cache remembers of them
        build(mbuild, tmp_path, "x", "FROM ./d\n")
        assert kinds(tmp_path, "x") == ["model", "projector"]
    assert "0 steps run" in mbuild("-t", "x", "--progress", "plain").stderr


def test_a_folder_with_model_and_adapter_serves_both_instructions(
    tmp_path: Path, mbuild: Run
) -> None:
    """ADAPTER takes the adapter in it; FROM says what lies there, and how to name the two."""
    folder = tmp_path / "d"
    folder.mkdir()
    tiny_gguf(folder / "a.gguf", kind="adapter")
    tiny_gguf(folder / "b.gguf")
    build(mbuild, tmp_path, "x", "FROM ./d/b.gguf\nADAPTER ./d\n")
    assert kinds(tmp_path, "x") == ["model", "adapter"]
    (tmp_path / "Modelfile").write_text("FROM ./d\n")
    done = mbuild("-t", "x")
    assert done.returncode == 1
    assert "the model b.gguf and the adapter a.gguf" in done.stderr
    assert "FROM" in done.stderr and "with ADAPTER" in done.stderr


def test_several_models_in_a_folder_are_told_with_what_they_are(
    tmp_path: Path, mbuild: Run
) -> None:
    """Two models, or projectors alone: the message lists each file and its kind."""
    (tmp_path / "two").mkdir()
    (tmp_path / "none").mkdir()
    for name in ("a.gguf", "b.gguf"):
        tiny_gguf(tmp_path / "two" / name)
        tiny_gguf(tmp_path / "none" / name, kind="projector")
    for folder, words in (
        ("two", "holds 2 models: a.gguf (model), b.gguf (model)"),
        ("none", "holds no models: a.gguf (projector), b.gguf (projector)"),
    ):
        (tmp_path / "Modelfile").write_text(f"FROM ./{folder}\n")
        assert words in mbuild("-t", "x").stderr


def test_a_file_that_cannot_be_read_is_told_by_name_and_then_by_its_fault(
    tmp_path: Path, mbuild: Run
) -> None:
    """A damaged projector in a folder does not hide the model; the build says what it is."""
    (tmp_path / "d").mkdir()
    tiny_gguf(tmp_path / "d/m.gguf")
    (tmp_path / "d/mmproj.gguf").write_bytes(b"GGUF\x03\0\0\0")
    (tmp_path / "Modelfile").write_text("FROM ./d\n")
    done = mbuild("-t", "x")
    assert done.returncode == 1
    assert "mmproj.gguf" in done.stderr and "holds" not in done.stderr


# Blobs by their digests.


@pytest.mark.parametrize(
    "spelling",
    [
        "{store}/blobs/sha256-{hex}",
        "{store}/blobs/sha256:{hex}",
        "./store/blobs/sha256:{hex}",
        "/usr/share/ollama/.ollama/models/blobs/sha256-{hex}",
        "/home/else/.ollama/models/blobs/sha256:{hex}",
        "@sha256:{hex}",
        "@sha256-{hex}",
        "sha256:{hex}",
    ],
)
@pytest.mark.parametrize("stored", ["-", ":"])
def test_a_blob_is_found_in_every_spelling(
    built: Path, mbuild: Run, spelling: str, stored: str
) -> None:
    """Paths of other versions of Ollama and of other machines lead to the same content here."""
    if sys.platform == "win32" and stored == ":":
        pytest.skip("a name that Windows does not have")
    blobs = built / "store/blobs"
    for path in list(blobs.iterdir()):
        path.rename(path.with_name(path.name.replace("-", stored)))
    digest = Digest.of((built / "model.gguf").read_bytes())
    value = spelling.format(store=built / "store", hex=digest.hex)
    build(mbuild, built, "again", f"FROM {value}\nSYSTEM hi\n")
    ids = {name: Store(built / "store").manifests.read(ModelName.parse(name)).id for name in
           ("mario", "again")}  # fmt: skip
    assert ids["mario"] == ids["again"]


def test_an_adapter_is_found_by_its_digest(built: Path, mbuild: Run) -> None:
    """ADAPTER takes what FROM takes."""
    tiny_gguf(built / "lora.gguf", kind="adapter")
    build(mbuild, built, "tuned", "FROM mario\nADAPTER ./lora.gguf\n")
    digest = Digest.of((built / "lora.gguf").read_bytes())
    for value in (f"@{digest}", f"/elsewhere/blobs/{digest.filename}"):
        build(mbuild, built, "again", f"FROM mario\nADAPTER {value}\n")
        assert "adapter" in kinds(built, "again")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("@sha256:" + "0" * 64, "the store has no such blob"),
        ("@sha256:123", "is not a digest"),
        ("@nothing", "is neither a file nor a model's name"),
        ("./sha256-" + "0" * 64, "no such file"),
    ],
)
def test_a_digest_that_leads_nowhere_is_told(
    built: Path, mbuild: Run, value: str, words: str
) -> None:
    """A blob that is not there, a digest that is none."""
    (built / "Modelfile").write_text(f"FROM {value}\n")
    done = mbuild("-t", "x")
    assert done.returncode == 1
    assert words in done.stderr


def test_a_shown_modelfile_builds_anywhere(
    built: Path, mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a store that was named by a relative path."""
    monkeypatch.setenv("OLLAMA_MODELS", "store")
    text = mbuild("show", "mario", "--modelfile").stdout
    (built / "sub").mkdir()
    (built / "sub/Modelfile").write_text(text)
    done = mbuild("-t", "again", "sub")
    assert done.returncode == 0, done.stderr


# Models by their names.


def test_list_takes_the_beginning_of_a_name(built: Path, mbuild: Run) -> None:
    """As ``ollama list`` does, in any case; nothing that begins so is an empty list."""
    assert mbuild("cp", "mario", "Luigi").returncode == 0
    assert mbuild("cp", "mario", "team/mario").returncode == 0
    for start, names in (
        ("mar", {"mario:latest"}),
        ("LUI", {"Luigi:latest"}),
        ("team/", {"team/mario:latest"}),
        ("x", set[str]()),
    ):
        done = mbuild("list", start)
        assert done.returncode == 0
        assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == names
        assert done.stderr == ""


def test_an_id_in_place_of_a_name_leads_to_the_name(built: Path, mbuild: Run) -> None:
    """Digits that list shows are no name; the hint says whose they are."""
    assert mbuild("cp", "mario", "luigi").returncode == 0
    identity = Store(built / "store").manifests.read(ModelName.parse("mario")).id
    for digits in (identity.short, identity.hex, identity.hex[:4], f"sha256:{identity.hex}"):
        for command in ("show", "rm"):
            done = mbuild(command, digits)
            assert done.returncode == 1
            assert "is the id of luigi:latest and mario:latest" in done.stderr, digits
            assert "did you mean" not in done.stderr
    assert len(list(Store(built / "store").list())) == 2


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("maro", "did you mean mario:latest?"),
        ("MARIO:q4", "did you mean mario:latest?"),
        ("luigi:latest", ""),
        ("xyz", ""),
        ("lama3", "did you mean llama3:8b?"),
        ("llama3", "did you mean llama3:8b?"),
    ],
)
def test_near_names_are_near_without_their_tags(wanted: str, hint: str) -> None:
    """``:latest`` makes no two names alike, and another tag of the model is near."""
    names = ["mario:latest", "llama3:8b", "team/qwen:latest"]
    assert did_you_mean(near_models(wanted, names)) == hint


@pytest.mark.parametrize(
    "command",
    [
        "show no",
        "rm no",
        "cp no b",
        "export no -o x.gguf",
        "verify no",
        "diff mario no",
        "history ffff",
        "report ffff",
        "graph --build ffff",
    ],
)
def test_what_is_not_there_ends_with_1(built: Path, mbuild: Run, command: str) -> None:
    """Wrong usage alone ends with 2: a model or a build that is not there is a failure."""
    done = mbuild(*command.split())
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
