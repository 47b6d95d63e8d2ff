"""Modelfiles with stages through the command line and over HTTP: made, shared, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapters import factors, write_peft
from conftest import Run
from example_models import settle, write_chat
from inprocess import in_process
from live_server import serving_here, upload_folder

from mbuild.build.history import History
from mbuild.build.staging import FilesBeside, FilesKept, NoFiles
from mbuild.core.errors import MissingFileError, SourceError, UsageError
from mbuild.gguf.model import Model
from mbuild.gguf.reader import open_gguf
from mbuild.store import Store

HEAD = "# syntax=mbuild/1\n"
Q = {f"model.layers.{n}.self_attn.q_proj": (256, 256) for n in range(2)}
DOWN = {"model.layers.1.mlp.down_proj": (256, 512)}


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint and two adapters for it, l and m."""
    write_peft(tmp_path / "l", factors(Q, 4, 1), rank=4, alpha=8)
    write_peft(tmp_path / "m", factors(DOWN, 2, 2), rank=2, alpha=2)
    return write_chat(tmp_path / "chat")


def build(mbuild: Run, folder: Path, text: str, *arguments: str, head: str = HEAD) -> list[str]:
    """Build a text; the ids that come out, target by target."""
    (folder / "Modelfile").write_text(head + text)
    settle()
    done = mbuild("--quiet", *arguments)
    assert done.returncode == 0, done.stderr
    return list(done.stdout.split())


def ran(folder: Path) -> list[str]:
    """The labels of the steps that the last build ran."""
    record = next(History(Store(folder / "store")).newest_first())
    return [step.label for step in record.steps if step.status == "ran"]


def weights(folder: Path, name: str) -> Model:
    """The weights of a model."""
    path = folder / f"store/manifests/registry.ollama.ai/library/{name.replace(':', '/')}"
    layers = json.loads(path.read_text())["layers"]
    digest = next(x["digest"] for x in layers if x["mediaType"].endswith(".model"))
    return open_gguf(folder / "store/blobs" / digest.replace(":", "-")).model()


# Stages.

STAGED = """ARG SIZE=2048
FROM ./chat AS one
SYSTEM You are one.
PARAMETER num_ctx ${SIZE}
LICENSE first
FROM one AS two
SYSTEM You are two.
PARAMETER stop <end>
LICENSE second
MESSAGE user hi
FROM two AS three
TEMPLATE {{ .Prompt }}
PARAMETER num_ctx 4096
"""

BY_HAND = {
    "one": "FROM ./chat\nSYSTEM You are one.\nPARAMETER num_ctx 2048\nLICENSE first\n",
    "two": "FROM ./chat\nSYSTEM You are two.\nPARAMETER num_ctx 2048\nPARAMETER stop <end>\n"
    "LICENSE first\nLICENSE second\nMESSAGE user hi\n",
    "three": "FROM ./chat\nSYSTEM You are two.\nPARAMETER num_ctx 4096\nPARAMETER stop <end>\n"
    "LICENSE first\nLICENSE second\nMESSAGE user hi\nTEMPLATE {{ .Prompt }}\n",
}


def test_stages_written_by_hand_are_the_same_models(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """Each stage is what a plain Modelfile with all of its lines is, to the id."""
    made = build(mbuild, tmp_path, STAGED, "-t", "m:{target}", "--target", "all")
    for name, text in BY_HAND.items():
        assert build(mbuild, tmp_path, text, "-t", "h", head="") == [made.pop(0)], name


def test_a_matrix_makes_what_it_shares_once(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Three stages by three types: nine models, one reading, three configs, one template."""
    text = "FROM ./chat AS a\nQUANTIZE q4_0 q5_0 q8_0\nFROM a AS b\nSYSTEM b\n"
    text += "QUANTIZE q4_0 q5_0 q8_0\nFROM a AS c\nPARAMETER num_ctx 7\nQUANTIZE q4_0 q5_0 q8_0\n"
    made = build(mbuild, tmp_path, text, "-t", "m:{target}-{quant}", "--target", "all")
    assert len(set(made)) == 9
    steps = ran(tmp_path)
    assert sum(step.startswith("quantize") for step in steps) == 3
    assert sum(step.startswith("config") for step in steps) == 3
    assert sum(step == "detect template" for step in steps) == 1
    assert sum(step.startswith("manifest") for step in steps) == 9
    again = build(mbuild, tmp_path, text, "-t", "m:{target}-{quant}", "--target", "all")
    assert again == made
    assert ran(tmp_path) == []


def test_only_what_is_asked_for_is_built(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """The last stage by itself; a stage that nobody needs may name what is not there."""
    text = "FROM ./nothing AS lost\nFROM ./chat AS good\nSYSTEM x\n"
    assert len(build(mbuild, tmp_path, text, "-t", "m")) == 1
    assert len(build(mbuild, tmp_path, text, "-t", "m", "--target", "good")) == 1
    done = mbuild("-t", "m", "--target", "lost")
    assert done.returncode == 1
    assert "Modelfile:2:1" in done.stderr


def test_an_argument_that_changes_no_input_runs_nothing(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """Another value of an argument that only another stage uses."""
    text = "ARG A=1\nFROM ./chat AS a\nSYSTEM ${A}\nFROM ./chat\nSYSTEM fixed\n"
    first = build(mbuild, tmp_path, text, "-t", "m")
    assert build(mbuild, tmp_path, text, "-t", "m", "--build-arg", "A=2") == first
    assert ran(tmp_path) == []
    assert build(mbuild, tmp_path, text, "-t", "m", "--target", "a", "--build-arg", "A=2") != first
    assert "system" in ran(tmp_path)


def test_a_file_that_is_brought_in_counts_with_its_content(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """An edit of it is an edit of the model; the folder of a path is the Modelfile's."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/inner").write_text("SYSTEM @words.txt\n")
    (tmp_path / "texts/words.txt").write_text("one\n")
    first = build(mbuild, tmp_path, "FROM ./chat\nINCLUDE texts/inner\n", "-t", "m")
    (tmp_path / "texts/words.txt").write_text("two\n")
    second = build(mbuild, tmp_path, "FROM ./chat\nINCLUDE texts/inner\n", "-t", "m")
    assert first != second
    assert sorted(ran(tmp_path)) == ["manifest", "system"]
    assert mbuild("verify", "--rebuild", "m").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-t", "m", "--target", "all"), "2 targets cannot all be called m"),
        (("-t", "m:{quant}"), "no target is quantized"),
        (("-t", "m", "--target", "c"), "no such stage"),
        (("-t", "m", "--imatrix", "i"), "--imatrix has no effect"),
    ],
)
def test_what_cannot_be_asked_is_told(
    mbuild: Run, chat: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """Nothing is built, and the error says what to do."""
    (tmp_path / "Modelfile").write_text(HEAD + "FROM ./chat AS a\nFROM a AS b\n")
    done = mbuild(*arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize("option", ["--target", "--build-arg"])
def test_a_plain_modelfile_has_neither(mbuild: Run, tmp_path: Path, option: str) -> None:
    """The error names the line that opens the language."""
    (tmp_path / "Modelfile").write_text("FROM x\n")
    done = mbuild("-t", "m", option, "a=b")
    assert done.returncode == 2
    assert "# syntax=mbuild/1" in done.stderr


def test_the_command_line_counts_before_the_modelfile(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """And explain says so, with the line that does not count."""
    text = "FROM ./chat\nQUANTIZE q4_0 TENSOR attn_v=q8_0\n"
    own = build(mbuild, tmp_path, text, "-t", "m")
    plain = build(mbuild, tmp_path, text, "-t", "m", "-q", "q5_0")
    assert plain == build(mbuild, tmp_path, "FROM ./chat\n", "-t", "m", "-q", "q5_0", head="")
    other = build(mbuild, tmp_path, text, "-t", "m", "--tensor-type", "attn_v=q5_0")
    assert len({*own, *plain, *other}) == 3
    said = mbuild("explain", "-t", "m", "-q", "q5_0").stdout
    assert "-q q5_0 counts, not QUANTIZE q4_0 of stage 0 (line 3)" in said


def test_a_lock_holds_every_target(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """With the targets and arguments that were asked for; an edit of one stage is told."""
    text = "ARG S=x\nFROM ./chat AS a\nSYSTEM ${S}\nFROM a AS b\nQUANTIZE q4_0 q8_0\n"
    (tmp_path / "Modelfile").write_text(HEAD + text)
    asked = ("--target", "all", "--build-arg", "S=y")
    assert mbuild("lock", "--quiet", *asked).returncode == 0
    locked = ("build", "--locked", "--quiet", "-t", "m:{target}-{quant}")
    assert len(mbuild(*locked).stdout.split()) == 3
    (tmp_path / "Modelfile").write_text(HEAD + text.replace("SYSTEM", "TEMPLATE"))
    done = mbuild(*locked)
    assert done.returncode == 1
    assert "b/Q8_0: TEMPLATE is not in the lock file" in done.stderr


LOCKED = """FROM ./chat AS tuned
MERGE ./l WEIGHT 0.5
SET general.name one
FROM plain
TAKE attn_q FROM tuned
TAKE ffn_up FROM other
UNSET SYSTEM
"""


def test_a_lock_holds_what_changes_the_weights(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Adapters by their files, weights, metadata, and the stored models that tensors are from."""
    for name in ("plain", "other"):
        build(mbuild, tmp_path, "FROM ./chat\n", "-t", name, head="")
    (tmp_path / "Modelfile").write_text(HEAD + LOCKED)
    assert mbuild("lock", "--quiet").returncode == 0
    locked = ("build", "--locked", "--quiet", "-t", "m")
    assert mbuild(*locked).returncode == 0
    for old, new, words in (
        ("0.5", "0.25", "MERGE WEIGHT 0.5 in the lock file, TAKE attn_q MERGE WEIGHT 0.25 now"),
        ("name one", "name two", "TAKE attn_q SET general.name"),
        ("UNSET SYSTEM\n", "", "UNSET"),
    ):
        (tmp_path / "Modelfile").write_text(HEAD + LOCKED.replace(old, new))
        done = mbuild(*locked)
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert "nothing was built" in done.stderr
    (tmp_path / "Modelfile").write_text(HEAD + LOCKED)
    config = tmp_path / "l/adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert "TAKE adapter_config.json changed" in mbuild(*locked).stderr
    config.write_text(config.read_text().replace('"lora_alpha": 9', '"lora_alpha": 8'))
    settle()
    assert mbuild(*locked).returncode == 0
    (tmp_path / "Modelfile").write_text("FROM ./chat\nLICENSE x\n")
    assert mbuild("--quiet", "-t", "other").returncode == 0
    (tmp_path / "Modelfile").write_text(HEAD + LOCKED)
    assert "TAKE model other:latest changed" in mbuild(*locked).stderr


# Changes of weights.


def test_merging_makes_again_only_what_the_adapter_touches(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """Another WEIGHT: of 16 quantized tensors 14 are found again."""
    text = "FROM ./chat\nMERGE ./l\nQUANTIZE q4_0\n"
    build(mbuild, tmp_path, text, "-t", "m")
    (tmp_path / "Modelfile").write_text(HEAD + text.replace("./l", "./l WEIGHT 0.5"))
    done = mbuild("-t", "m")
    assert "reused 14 of 16 quantized tensors" in done.stderr
    assert "blk.0.attn_q.weight" in done.stderr


def test_a_merged_model_is_the_same_from_a_checkpoint_a_file_and_the_store(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """And the order of the adapters does not count."""
    build(mbuild, tmp_path, "FROM ./chat\n", "-t", "plain", head="")
    model = weights(tmp_path, "plain:latest")
    assert mbuild("export", "plain", "-o", "out").returncode == 0
    (file,) = (tmp_path / "out").glob("*.gguf")
    merges = "MERGE ./l WEIGHT 0.5\nMERGE ./m\n"
    swapped = "MERGE ./m\nMERGE ./l WEIGHT 0.5\n"
    made = []
    for source, lines in (("./chat", merges), ("./chat", swapped), ("plain", merges),
                          (f"./out/{file.name}", merges)):  # fmt: skip
        build(mbuild, tmp_path, f"FROM {source}\n{lines}", "-t", "m")
        made.append({t.name: bytes(t.load()) for t in weights(tmp_path, "m:latest").tensors})
    assert made[0] == made[1] == made[2] == made[3]
    changed = [t.name for t in model.tensors if made[0][t.name] != bytes(t.load())]
    assert sorted(changed) == [
        *("blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.1.ffn_down.weight")
    ]


def test_a_quantized_base_wants_to_be_quantized_again(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """A merge into Q8_0 is refused, unless QUANTIZE follows and REQUANTIZE allows it."""
    build(mbuild, tmp_path, "FROM ./chat\n", "-t", "q", "-q", "q8_0", head="")
    (tmp_path / "Modelfile").write_text(HEAD + "FROM q\nMERGE ./l\n")
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "attn_q.weight is quantized (Q8_0)" in done.stderr
    build(mbuild, tmp_path, "FROM q\nMERGE ./l\nQUANTIZE q4_0 REQUANTIZE\n", "-t", "m")


def test_metadata_alone_quantizes_nothing_again(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """SET and UNSET change the header; every quantized tensor is found."""
    build(mbuild, tmp_path, "FROM ./chat\nQUANTIZE q4_0\n", "-t", "m")
    text = 'SET general.name "My model"\nSET llama.context_length 4096\nSET my.key 0.5\n'
    (tmp_path / "Modelfile").write_text(HEAD + f"FROM ./chat\n{text}QUANTIZE q4_0\n")
    done = mbuild("-t", "m")
    assert "reused 16 of 16 quantized tensors" in done.stderr
    model = weights(tmp_path, "m:latest")
    assert model.read("general.name") == "My model"
    assert model.read("llama.context_length") == 4096
    assert model.read("my.key") == 0.5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SET llama.context_length many", "its type is UINT32"),
        ("SET general.architecture gemma", "says how the file is made"),
        ("SET tokenizer.ggml.tokens a", "it is a list"),
        ("UNSET general.nothing", "the model has no such key"),
        ("DROP LAYER 2", "the model has 2 layers, 0 to 1"),
        ("DROP LAYER 0 1", "at least one has to stay"),
        ("TAKE nothing FROM ./chat", "no tensor is called so"),
        ("MERGE ./chat", "it is a model, not a LoRA adapter"),
        ("MERGE ./nothing", "no such file"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(
    mbuild: Run, chat: Path, tmp_path: Path, line: str, words: str
) -> None:
    """Before anything is written."""
    (tmp_path / "Modelfile").write_text(HEAD + f"FROM ./chat\n{line}\n")
    done = mbuild("-t", "m")
    assert done.returncode in (1, 2), done.stderr
    assert words in done.stderr
    assert not list((tmp_path / "store/blobs").glob("sha256-*"))


def test_layers_are_dropped_and_tensors_taken(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """What is left is counted anew; what is taken has the other model's bytes."""
    text = "FROM ./chat AS tuned\nMERGE ./l\nFROM ./chat\nTAKE attn_q FROM tuned\nDROP LAYER 0\n"
    build(mbuild, tmp_path, text, "-t", "m")
    build(mbuild, tmp_path, text, "-t", "tuned", "--target", "tuned")
    made, tuned = (weights(tmp_path, f"{name}:latest") for name in ("m", "tuned"))
    assert made.read("llama.block_count") == 1
    names = [tensor.name for tensor in made.tensors]
    assert not [name for name in names if name.startswith("blk.1.")]
    kept, source = (
        next(bytes(t.load()) for t in model.tensors if t.name == name)
        for model, name in ((made, "blk.0.attn_q.weight"), (tuned, "blk.1.attn_q.weight"))
    )
    assert kept == source


def test_what_is_unset_is_not_inherited_from_the_store(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """Parameters, the system text, the template that would be detected."""
    text = "FROM ./chat\nSYSTEM hi\nPARAMETER num_ctx 7\nPARAMETER stop a\nLICENSE l\n"
    build(mbuild, tmp_path, text, "-t", "base", head="")
    lines = "UNSET PARAMETER stop\nUNSET SYSTEM\nUNSET LICENSE\n"
    build(mbuild, tmp_path, f"FROM base\n{lines}", "-t", "m")
    shown = mbuild("show", "m", "--modelfile").stdout
    assert "num_ctx 7" in shown
    assert not [word for word in ("SYSTEM", "stop", "LICENSE") if word in shown]
    build(mbuild, tmp_path, "FROM ./chat\nUNSET TEMPLATE\n", "-t", "m")
    assert "TEMPLATE" not in mbuild("show", "m", "--modelfile").stdout


# CHECK.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("CHECK size < 1MB", "too much"),
        ("CHECK size > 1GB", "too little"),
        ("TEMPLATE {{ .System }}\nCHECK template renders", "does not hold what was asked"),
    ],
)
def test_a_check_that_does_not_hold_names_nothing(
    mbuild: Run, chat: Path, tmp_path: Path, line: str, words: str
) -> None:
    """The old model keeps its name."""
    (before,) = build(mbuild, tmp_path, "FROM ./chat\n", "-t", "m")
    (tmp_path / "Modelfile").write_text(HEAD + f"FROM ./chat\nSYSTEM new\n{line}\n")
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert words in done.stderr
    assert before.removeprefix("sha256:")[:12] in mbuild("list").stdout


def test_a_check_that_held_is_not_made_again(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Of a model that is the same; values are looked at in quantized blocks too."""
    text = "FROM ./chat\nQUANTIZE q4_0 f16\nCHECK nan\nCHECK size < 5MB\nCHECK template renders\n"
    build(mbuild, tmp_path, text, "-t", "m")
    assert sum(label.startswith("check") for label in ran(tmp_path)) == 6
    build(mbuild, tmp_path, text, "-t", "m")
    assert ran(tmp_path) == []


# Over HTTP, and files.


def test_a_posted_modelfile_may_have_stages(chat: Path, tmp_path: Path, mbuild: Run) -> None:
    """It is the model that the command line builds; files it names are not opened."""
    build(mbuild, tmp_path, "FROM ./chat\n", "-t", "plain", head="")
    text = HEAD + "ARG A=hi\nFROM plain AS a\nSYSTEM ${A}\nFROM a\nMERGE l\nQUANTIZE q4_0\n"
    (wanted,) = build(mbuild, tmp_path, text.removeprefix(HEAD), "-t", "wanted")
    with serving_here(tmp_path / "store") as server:
        files = upload_folder(server, tmp_path / "l")
        adapters = {f"l/{name}": digest for name, digest in files.items()}
        answer = server.create(model="posted", modelfile=text, adapters=adapters)
        assert answer.status_code == 200, answer.text
        assert "success" in answer.text
        for line in ("SYSTEM @/etc/passwd", "INCLUDE ../Modelfile"):
            refused = server.create(model="x", modelfile=f"{HEAD}FROM plain\n{line}\n")
            assert "no file is opened because a request names it" in refused.text
        two = server.create(model="x", modelfile=f"{HEAD}FROM plain\nQUANTIZE q4_0 q8_0\n")
        assert "a request makes one" in two.text
    assert ids(tmp_path)["posted:latest"] == wanted


def ids(folder: Path) -> dict[str, Any]:
    """The models of the store by name."""
    return {str(m.name).rpartition("/")[2]: str(m.id) for m in Store(folder / "store").list()}  # type: ignore[union-attr]


def test_files_lie_beside_the_modelfile_or_where_it_says(tmp_path: Path) -> None:
    """A path starts from who names it; one that is not a regular file is refused."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.txt").write_text("b")
    bring = FilesBeside(tmp_path / "a")
    assert bring("", "b.txt").data == b"b"
    assert bring("x/y", "../b.txt").name == "b.txt"
    assert bring("", "../a/b.txt").data == b"b"
    with pytest.raises(MissingFileError, match=r"c\.txt: no such file"):
        bring("", "c.txt")
    with pytest.raises(SourceError):
        bring("", "..")
    with pytest.raises(UsageError):
        NoFiles()("", "b.txt")
    with pytest.raises(SourceError, match="the cache no longer has"):
        FilesKept({}, Store(tmp_path / "s"))("", "b.txt")
