"""``export --modelfile`` builds the same model again; ``--recipe`` is what it was built from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from conftest import Run
from example_models import settle, write_chat
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.core import gojson
from mbuild.core.names import ModelName
from mbuild.models.artifacts.modelfiles import Rebuilding
from mbuild.models.artifacts.recipes import built_from
from mbuild.store import Layer, Store
from mbuild.store.media import MESSAGES, PARAMS

HEAD = "# syntax=mbuild/1\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model, an adapter and a draft, each as a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    tiny_gguf(tmp_path / "lora.gguf", kind="adapter")
    tiny_gguf(tmp_path / "my lora.gguf", kind="adapter")
    tiny_gguf(tmp_path / "draft.gguf", seed=3)
    settle()
    return tmp_path


def build(mbuild: Run, text: str, *arguments: str) -> str:
    """Build a text; the model's id."""
    done = mbuild("-f", "-", "--quiet", "-t", "m", *arguments, input=text)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def exported(mbuild: Run, *arguments: str) -> str:
    """What ``export`` prints."""
    done = mbuild("export", "m", "-o", "out/", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


PLAIN = [
    "FROM ./model.gguf\n",
    "FROM ./model.gguf\nADAPTER ./lora.gguf\nDRAFT ./draft.gguf\nTEMPLATE {{ .Prompt }}\n"
    'SYSTEM """two\nlines\n"""\nPARAMETER num_ctx 4096\nPARAMETER temperature 0.1\n'
    "PARAMETER stop \"a \"\nPARAMETER stop b\nLICENSE one\nLICENSE two\nMESSAGE user hi\n"
    "MESSAGE assistant ho\nRENDERER x\nPARSER y\nREQUIRES 0.14.0\n",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_the_folder_builds_the_same_id(mbuild: Run, files: Path, text: str) -> None:
    """In Ollama's own language, with every layer as a file, the adapter under its own name."""
    wanted = build(mbuild, text)
    said = exported(mbuild, "--modelfile")
    assert said.endswith(f"The Modelfile builds {wanted[7:19]} again\n")
    written = (files / "out/Modelfile").read_text()
    assert written.startswith("# m:latest, written by mbuild export\nFROM ./m.gguf\n")
    assert ("ADAPTER ./lora.gguf\n" in written) == ("ADAPTER" in text)
    settle()
    done = mbuild("-f", "out/Modelfile", "--quiet", "-t", "again", "--store", "other")
    assert done.stdout.strip() == wanted, done.stderr


STAGED = [
    "SYSTEM @./hard.txt\n",
    "SYSTEM @./hard.txt\nMESSAGE user @./hard.txt\nPARAMETER stop ${\nLICENSE @./hard.txt\n",
    "UNSET TEMPLATE\n",
    "UNSET TEMPLATE\nTEMPLATE {{ .Prompt }} \\${x}\nPARAMETER num_ctx 5\n",
]


@pytest.mark.parametrize("text", STAGED)
def test_what_ollamas_language_cannot_say_is_said_in_mbuilds(
    mbuild: Run, tmp_path: Path, text: str
) -> None:
    """Texts come from files, and no template is detected that the model does not have."""
    write_chat(tmp_path / "chat")
    (tmp_path / "hard.txt").write_text('a line that ends with """\nand ${more}\n\n')
    text = text.replace("stop ${\n", "stop \\${\n")
    wanted = build(mbuild, f"{HEAD}FROM ./chat\n{text}")
    said = exported(mbuild, "--modelfile")
    assert said.endswith(f"The Modelfile builds {wanted[7:19]} again\n")
    assert (tmp_path / "out/Modelfile").read_text().startswith(HEAD)
    settle()
    done = mbuild("-f", "out/Modelfile", "--quiet", "-t", "again", "--store", "other")
    assert done.stdout.strip() == wanted, done.stderr


def test_a_model_in_several_files_is_built_with_keep_split(mbuild: Run, tmp_path: Path) -> None:
    """Which the command says."""
    write_chat(tmp_path / "chat")
    wanted = build(mbuild, "FROM ./chat\n", "--split-layers", "1")
    said = exported(mbuild, "--modelfile")
    assert f"The Modelfile, built with --keep-split, builds {wanted[7:19]} again" in said
    settle()
    done = mbuild(
        *("-f", "out/Modelfile", "--keep-split", "--quiet", "-t", "n", "--store", "other")
    )
    assert done.stdout.strip() == wanted, done.stderr


def test_an_id_that_counts_a_files_name_is_told(mbuild: Run, files: Path) -> None:
    """An adapter's layer carries the name of its file, and not every name can be one again."""
    wanted = build(mbuild, "FROM ./model.gguf\nADAPTER ./my lora.gguf\n")
    said = exported(mbuild, "--modelfile").splitlines()[-1]
    assert said.startswith("The Modelfile builds the same layers, as ")
    assert said.endswith(f"the id {wanted[7:19]} says too that they come from my lora.gguf")
    settle()
    done = mbuild("-f", "out/Modelfile", "--quiet", "-t", "again", "--store", "other")
    assert done.stdout.strip()[7:19] in said, done.stderr


@pytest.mark.parametrize(
    ("media_type", "value", "said"),
    [
        (PARAMS, {"num_ctx": 5, "from_the_future": 1}, "params"),
        (MESSAGES, [{"role": "tool", "content": "x"}], "messages"),
    ],
)
def test_what_no_modelfile_says_is_told(
    mbuild: Run, files: Path, media_type: str, value: object, said: str
) -> None:
    """By the kinds of layers; the folder is written all the same."""
    build(mbuild, "FROM ./model.gguf\nPARAMETER num_ctx 5\nMESSAGE user x\n")
    store, name = Store(files / "store"), ModelName.parse("m")
    blob = store.blobs.put(gojson.dumps(value))
    manifest = store.manifests.read(name).manifest
    layers = tuple(
        Layer(media_type, blob.digest, blob.size) if layer.media_type == media_type else layer
        for layer in manifest.layers
    )
    store.manifests.write(name, manifest._replace(layers=layers).encode())
    line = exported(mbuild, "--modelfile").splitlines()[-1]
    assert line == f"The Modelfile builds another model: no Modelfile says this one's {said}"
    assert (files / "out/m.gguf").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "m.gguf", "--modelfile"), "--modelfile makes a folder"),
        (("-o", "m.tar", "--modelfile"), "--modelfile makes a folder"),
        (("-o", "m/", "--modelfile", "--merge"), "--modelfile exports the weights as they are"),
        (("-o", "m/", "--modelfile", "--split", "1GB"), "--modelfile exports the weights as they"),
        (("-o", "m/", "--recipe", "--modelfile"), "--recipe writes no weights: --modelfile has no"),
        (("-o", "m/", "--recipe", "--link"), "--recipe writes no weights: --link has no effect"),
        (("-o", "m.gguf", "--recipe"), "--recipe makes a folder"),
        (("--recipe",), "a recipe needs a folder"),
        (("--modelfile",), "an export needs a place"),
    ],
)
def test_options_that_exclude_each_other(
    mbuild: Run, files: Path, arguments: tuple[str, ...], said: str
) -> None:
    """Nothing is written, and the status is that of a wrong command line."""
    build(mbuild, "FROM ./model.gguf\n")
    done = mbuild("export", "m", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (files / "m").exists()


# The recipe.

RECIPE = f"""{HEAD}ARG BITS=q8_0
FROM ./chat AS base
INCLUDE parts/persona NAME=Mario
FROM base AS release
LICENSE @./LICENSE
QUANTIZE ${{BITS}}
"""


@pytest.fixture
def recipe(tmp_path: Path, mbuild: Run) -> str:
    """A model that was built from a Modelfile with stages and three more files; its id."""
    project = tmp_path / "project"
    write_chat(project / "chat")
    (project / "parts").mkdir()
    (project / "parts/persona").write_text("ARG NAME\nSYSTEM @../who.txt\nMESSAGE user ${NAME}\n")
    (project / "who.txt").write_text("You.\n")
    (project / "LICENSE").write_text("MIT\n")
    (project / "Modelfile").write_text(RECIPE)
    settle()
    done = mbuild(*("project", "--quiet", "-t", "m", "--build-arg", "BITS=q4_0"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_recipe_comes_out_with_what_it_brings_in(
    mbuild: Run, recipe: str, tmp_path: Path
) -> None:
    """Byte for byte, and the command that is told builds the model where its sources are."""
    for name in ("who.txt", "LICENSE", "Modelfile"):
        (tmp_path / "project" / name).write_text("changed since\n")
    said = exported(mbuild, "--recipe").splitlines()
    assert (tmp_path / "out/Modelfile").read_text() == RECIPE
    assert (tmp_path / "out/who.txt").read_text() == "You.\n"
    assert {"out/parts/persona", "out/LICENSE"} <= {line.split("  ")[0] for line in said}
    assert any(line.startswith("made from chat") for line in said)
    (tmp_path / "project/chat").rename(tmp_path / "out/chat")
    words = shlex.split(said[-1].removeprefix("To build it: "))
    assert words[:5] == ["mbuild", "--build-arg", "BITS=q4_0", "--target", "release"]
    settle()
    done = mbuild(*words[1:], "--quiet", "--store", "other")
    assert done.stdout.strip() == recipe, done.stderr


def test_a_second_export_changes_nothing(mbuild: Run, recipe: str, tmp_path: Path) -> None:
    """What is there with the same bytes stays, and other bytes are kept without --force."""
    first = exported(mbuild, "--recipe")
    inode = (tmp_path / "out/LICENSE").stat().st_ino
    (tmp_path / "out/who.txt").write_text("mine\n")
    done = mbuild("export", "m", "-o", "out/", "--recipe")
    assert done.returncode == 1
    assert "who.txt exists" in done.stderr
    assert (tmp_path / "out/who.txt").read_text() == "mine\n"
    assert exported(mbuild, "--recipe", "--force") == first
    assert (tmp_path / "out/LICENSE").stat().st_ino == inode


def test_a_file_from_outside_of_the_folder_is_named(mbuild: Run, files: Path) -> None:
    """It cannot lie in the folder under the name that the Modelfile has for it."""
    (files / "sub").mkdir()
    (files / "who.txt").write_text("You.\n")
    (files / "sub/Modelfile").write_text(f"{HEAD}FROM ../model.gguf\nSYSTEM @../who.txt\n")
    settle()
    assert mbuild("sub", "--quiet", "-t", "m").returncode == 0
    store = Store(files / "store")
    found = built_from(store, store.manifests.read(ModelName.parse("m")))
    assert (found.outside, [*found.files]) == (("../who.txt",), ["Modelfile"])
    said = exported(mbuild, "--recipe")
    assert "../who.txt lies outside of the Modelfile's folder: put it where that says" in said
    assert [path.name for path in (files / "out").iterdir()] == ["Modelfile"]


def test_a_model_that_no_build_made_has_no_recipe(mbuild: Run, files: Path) -> None:
    """The remedy names what can be done."""
    build(mbuild, "FROM ./model.gguf\n")
    (files / "store/.mbuild/history.jsonl").unlink()
    done = mbuild("export", "m", "-o", "out/", "--recipe")
    assert done.returncode == 1
    assert "the history of this store has no build of m:latest" in done.stderr
    assert not (files / "out").exists()


def test_without_a_trial_nothing_is_claimed() -> None:
    """Of a store that cannot be written nobody knows what a build would come to."""
    untried = Rebuilding("FROM x\n")
    assert untried.id is None
    assert json.dumps(untried.brought) == "{}"
