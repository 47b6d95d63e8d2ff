"""``mbuild lock`` writes down a build by digest; ``--locked`` refuses whatever drifted from it."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from documents import documented
from example_models import edit_json, generator, settle
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.lock import FORMAT, BuildLock, LockPlace, drift_of_results
from mbuild.build.request import BuildRequest
from mbuild.build.steps.quantize import QUANTIZER_VERSION
from mbuild.core.digest import BLAKE3, SHA256, Digest
from mbuild.core.errors import FormatError
from mbuild.quant.choose.options import Quantization

MODELFILE = """\
FROM ./chat
ADAPTER ./lora
TEMPLATE {{ .System }}{{ .Prompt }}
SYSTEM You are Mario.
PARAMETER temperature 0.5
PARAMETER stop x
LICENSE MIT
MESSAGE user hi
RENDERER qwen3
"""

SESSION = ["-q", "q8_0", "--imatrix", "imatrix.dat"]


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


def imatrix(path: Path, weight: float = 1.0) -> None:
    """An importance matrix in the old format, with one tensor's row."""
    name = b"blk.0.attn_q.weight"
    row = struct.pack("<ii", 1, 256) + struct.pack("<256f", *[weight] * 256)
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + row)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Modelfile with most instructions, what it names, its lock and its store."""
    folder = tmp_path_factory.mktemp("project")
    generator().write_chat(folder / "chat")
    generator().write_lora(folder / "lora")
    imatrix(folder / "imatrix.dat")
    (folder / "Modelfile").write_text(MODELFILE)
    with pytest.MonkeyPatch.context() as patch:
        done = in_process(folder, patch)("lock", *SESSION)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def locked(project: Path, tmp_path: Path, mbuild: Run) -> Path:
    """A copy of the locked project."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def small(tmp_path: Path, mbuild: Run) -> Path:
    """A Modelfile FROM a GGUF file, locked."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\n")
    settle()
    done = mbuild("lock")
    assert done.returncode == 0, done.stderr
    return tmp_path


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change a text file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def edit_lock(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the lock's JSON."""

    def write(folder: Path) -> None:
        value = json.loads((folder / "Modelfile.lock").read_text())
        change(value)
        (folder / "Modelfile.lock").write_text(json.dumps(value))

    return write


def flip(name: str) -> Callable[[Path], None]:
    """Change a file's last byte."""

    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)

    return change


def modelfile(old: str, new: str) -> Callable[[Path], None]:
    """Change the Modelfile."""
    return edit("Modelfile", old, new)


CHANGES: list[tuple[str, Callable[[Path], None], list[str], str, list[str]]] = [
    ("weights", flip("chat/model.safetensors"), [], "model.safetensors changed: blake3:", [":1:1"]),
    (
        "config",
        lambda p: edit_json(p / "chat/config.json", rope_theta=5.0),
        [],
        "config.json changed: sha256:",
        [":1:1"],
    ),
    (
        "file added",
        lambda p: (p / "chat/generation_config.json").write_text("{}"),
        [],
        "generation_config.json is not in the lock file: sha256:",
        [":1:1"],
    ),
    (
        "folder renamed",
        lambda p: ((p / "chat").rename(p / "chat2"), modelfile("chat", "chat2")(p)),
        [],
        "the folder's name changed: chat in the lock file, chat2 now",
        [":1:1"],
    ),
    (
        "adapter",
        flip("lora/adapter_model.safetensors"),
        [],
        "adapter_model.safetensors changed: blake3:",
        [":2:1"],
    ),
    (
        "adapter removed",
        modelfile("ADAPTER ./lora\n", ""),
        [],
        "adapter_model.safetensors is in the lock file (blake3:",
        [],
    ),
    ("template", modelfile("{{ .Prompt }}", "{{ .Prompt }}!"), [], "TEMPLATE changed: ", [":3:1"]),
    ("system", modelfile("Mario", "Luigi"), [], "SYSTEM changed: sha256:15d6cc36", [":4:1"]),
    (
        "parameter",
        modelfile("0.5", "0.6"),
        [],
        "temperature changed: 0.5 in the lock file, 0.6 now",
        [":5:1"],
    ),
    (
        "parameter removed",
        modelfile("PARAMETER temperature 0.5\n", ""),
        [],
        "temperature is in the lock file (0.5), but not there now",
        [],
    ),
    (
        "parameter added",
        modelfile("LICENSE", "PARAMETER top_k 5\nLICENSE"),
        [],
        "top_k is not in the lock file: 5",
        [":7:1"],
    ),
    ("license", modelfile("MIT", "BSD"), [], "LICENSE changed: sha256:", [":7:1"]),
    (
        "license added",
        modelfile("LICENSE MIT\n", "LICENSE MIT\nLICENSE BSD\n"),
        [],
        "LICENSE is not in the lock file: sha256:",
        [":8:1"],
    ),
    ("message", modelfile("user hi", "user ho"), [], "MESSAGE changed: sha256:", [":8:1"]),
    ("renderer", modelfile("qwen3", "other"), [], "RENDERER changed: qwen3", [":9:1"]),
    ("imatrix", lambda p: imatrix(p / "imatrix.dat", 2.0), [], "imatrix.dat changed: sha256:", []),
    (
        "outtype",
        lambda p: None,
        ["--outtype", "f16"],
        '--outtype changed: "auto" in the lock file, "f16" now',
        [],
    ),
    ("pre", lambda p: None, ["--pre", "x"], '--pre changed: null in the lock file, "x" now', []),
    ("pure", lambda p: None, ["--pure"], "-q Q8_0 --pure changed: false in the lock file", []),
    (
        "tensor type",
        lambda p: None,
        ["--tensor-type", "attn_v=q6_K"],
        '--tensor-type changed: [] in the lock file, ["attn_v=Q6_K"] now',
        [],
    ),
    (
        "variant",
        lambda p: None,
        ["-q", "q6_K"],
        "-q Q6_K is not in the lock file: it has Q8_0",
        [],
    ),
    (
        "version of a step",
        edit_lock(lambda lock: lock["steps"].update(quantize=0)),
        [],
        f"the version of the step 'quantize' changed: 0 in the lock file, {QUANTIZER_VERSION} now",
        [],
    ),
]


@pytest.mark.parametrize(
    ("change", "options", "message", "places"),
    [row[1:] for row in CHANGES],
    ids=[row[0] for row in CHANGES],
)
def test_drift_is_refused_before_anything_is_built(
    locked: Path,
    mbuild: Run,
    change: Callable[[Path], None],
    options: list[str],
    message: str,
    places: list[str],
) -> None:
    """Each kind of change is named, with both digests and its line; no blob and no name appear."""
    change(locked)
    before = sorted(os.listdir(locked / "store/blobs"))
    done = mbuild("build", "--locked", *SESSION, *options, "-t", "mario")
    assert done.returncode == 1
    assert message in done.stderr
    for place in places:
        assert f"--> Modelfile{place}" in done.stderr
    assert "mbuild lock" in done.stderr
    assert "creating new layer" not in done.stderr
    assert sorted(os.listdir(locked / "store/blobs")) == before
    assert "mario" not in mbuild("list").stdout


def test_both_digests_are_whole(small: Path, mbuild: Run) -> None:
    """What drifted is told with the old and the new digest, by which the files can be found."""
    flip("model.gguf")(small)
    done = mbuild("build", "--locked", "-t", "m", "--dry-run")
    assert done.returncode == 1
    found = re.search(
        r"model.gguf changed: (sha256:\w{64}) in the lock file, (sha256:\w{64}) now", done.stderr
    )
    assert found is not None
    assert found[1] != found[2]
    assert found[1] in (small / "Modelfile.lock").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: None,
        modelfile("SYSTEM", "# a comment\n\nSYSTEM"),
        modelfile("SYSTEM You are Mario.", 'system """You are Mario."""'),
        modelfile("PARAMETER temperature 0.5", "PARAMETER temperature .50"),
        lambda p: os.utime(p / "chat/model.safetensors", ns=(1, 1)),
        lambda p: (p / "chat/training.log").write_text("a log"),
    ],
    ids=["nothing", "comment", "quotes", "spelling", "times", "other files"],
)
def test_what_changes_no_result_is_no_drift(
    locked: Path, mbuild: Run, change: Callable[[Path], object]
) -> None:
    """Layout, comments, times and files that a build does not read do not count."""
    change(locked)
    text = (locked / "Modelfile.lock").read_text()
    done = mbuild("build", "--locked", *SESSION, "-t", "mario")
    assert done.returncode == 0, done.stderr
    assert "mario" in mbuild("list").stdout
    assert mbuild("lock", *SESSION).stderr.endswith("Modelfile.lock is up to date\n")
    assert (locked / "Modelfile.lock").read_text() == text


def test_one_of_several_locked_variants_can_be_built_alone(locked: Path, mbuild: Run) -> None:
    """Without -q all are built, with it those that it names; one that is not locked is refused."""
    assert mbuild("lock", "-q", "q8_0", "-q", "q4_0").returncode == 0
    one = mbuild("build", "--locked", "-q", "q4_0", "-t", "m")
    assert one.returncode == 0, one.stderr
    everything = mbuild("build", "--locked", "-t", "m")
    assert everything.returncode == 0, everything.stderr
    assert "built m:q4_0, m:q8_0 in" in everything.stderr
    none = mbuild("build", "--locked", "-q", "q5_0", "-t", "m")
    assert "-q Q5_0 is not in the lock file: it has Q4_0, Q8_0" in none.stderr


def test_a_lock_brings_its_options(locked: Path, mbuild: Run) -> None:
    """What the command line does not say, the lock says; what it says otherwise is drift."""
    options = ("--outtype", "f32", "-q", "q4_K_M", "--pure", "--tensor-type", "attn_v=q8_0")
    assert mbuild("lock", *options).returncode == 0
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    drift = mbuild("build", "--locked", "-t", "m", "--outtype", "f16")
    assert '--outtype changed: "f32" in the lock file, "f16" now' in drift.stderr


def test_a_lock_without_names_prints_none(locked: Path, mbuild: Run) -> None:
    """The names that variants would have are not there, so nothing says that they were built."""
    done = mbuild("lock", "-q", "q8_0", "-q", "q4_0")
    assert done.returncode == 0, done.stderr
    assert "q8_0," not in done.stderr
    assert "built the model, without a name, in" in done.stderr
    events = mbuild("lock", "-q", "q8_0", "--progress", "json").stdout.splitlines()
    assert {json.loads(e)["name"] for e in events if "ModelBuilt" in e} == {""}


def test_a_stored_model_is_locked_by_its_manifest(tmp_path: Path, mbuild: Run) -> None:
    """Any spelling of its name is the same; the same name with another content is drift."""
    tiny_gguf(tmp_path / "model.gguf")
    base, derived = tmp_path / "base", tmp_path / "derived"
    base.mkdir()
    derived.mkdir()
    (base / "Modelfile").write_text("FROM ../model.gguf\nSYSTEM one\n")
    (derived / "Modelfile").write_text("FROM base\n")
    assert mbuild(base).returncode == 0
    assert mbuild("lock", derived).returncode == 0
    (derived / "Modelfile").write_text("FROM registry.ollama.ai/library/base:latest\n")
    assert mbuild("build", "--locked", "-t", "m", derived).returncode == 0
    (base / "Modelfile").write_text("FROM ../model.gguf\nSYSTEM two\n")
    assert mbuild(base).returncode == 0
    done = mbuild("build", "--locked", "-t", "m", derived)
    assert "model base:latest changed: sha256:" in done.stderr
    assert "Modelfile:1:1" in done.stderr


def test_a_result_that_differs_gets_no_name(small: Path, mbuild: Run) -> None:
    """The inputs are as locked, the result is not: an error that names the layer, no model."""

    def other(lock: dict) -> None:
        lock["results"]["unquantized"]["layers"][1]["digest"] = f"sha256:{'0' * 64}"
        lock["results"]["unquantized"]["id"] = f"sha256:{'1' * 64}"

    edit_lock(other)(small)
    done = mbuild("build", "--locked", "-t", "mario")
    assert done.returncode == 1
    assert f"layer 2 changed: system sha256:{'0' * 64} in the lock file, system sha256:" in (
        done.stderr
    )
    assert f"the model's id changed: sha256:{'1' * 64}" in done.stderr
    assert "nothing was named" in done.stderr
    assert "mario" not in mbuild("list").stdout


def test_a_lock_names_a_model_only_if_asked(small: Path, mbuild: Run) -> None:
    """Without -t the layers are in the store, as those of a stopped build; with it the model is."""
    assert json.loads(mbuild("list", "--json").stdout) == []
    assert mbuild("lock", "-t", "mario").returncode == 0
    assert [m["name"] for m in json.loads(mbuild("list", "--json").stdout)] == ["mario:latest"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no Modelfile.lock"),
        ("", "is not a lock file"),
        ("[]", "is not a lock file"),
        ("<<<<<<< ours\n", "is not a lock file: Expecting value: line 1"),
        ('{"lock": 2}', "lock format 2; this mbuild reads format 1"),
        ('{"lock": 1, "mbuild": "0", "results": {}}', "is not a lock file: no 'sources'"),
        ("\udcff", "is not a lock file"),
    ],
)
def test_a_lock_that_is_none_is_a_clear_error(
    small: Path, mbuild: Run, text: str | None, message: str
) -> None:
    """Missing, empty, foreign, with the marks of a merge, of a later version."""
    path = small / "Modelfile.lock"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 1
    assert message in done.stderr
    assert "mbuild lock" in done.stderr or "newer mbuild" in done.stderr
    assert "m:" not in mbuild("list").stdout


def test_every_option_of_a_build_is_locked(locked: Path) -> None:
    """A new field of a request must be in the lock; --link, names and checks change no bytes.

    How an importance matrix is computed is there where one is (``test_measuring_steps.py``), and
    options that came later than locks are where they are given.
    """
    options = json.loads((locked / "Modelfile.lock").read_text())["options"]
    apart = {"source", "link", "named", "splitting", "conversion", "converter", "halves", "checks"}
    told = {*BuildRequest._fields} - apart
    assert {"targets" if name == "quantize" else name for name in options} == told
    computed = {"imatrix_from", "imatrix_chunks"}
    later = {"include_weights", "exclude_weights", "prune_layers"}
    assert {*options["quantize"]["Q8_0"]} == {*Quantization._fields} - {
        "file_type"
    } - computed - later


def test_an_option_that_came_later_is_locked_where_it_is_given(locked: Path, mbuild: Run) -> None:
    """The lock asks for it again, and other layers differ from it, by the flag."""
    done = mbuild("lock", "-q", "q8_0", "--prune-layers", "0")
    assert done.returncode == 0, done.stderr
    fields = json.loads((locked / "Modelfile.lock").read_text())["options"]["quantize"]["Q8_0"]
    assert fields["prune_layers"] == "0"
    assert mbuild("build", "--locked", "-t", "m").returncode == 0
    done = mbuild("build", "--locked", "-q", "q8_0", "-t", "m", "--prune-layers", "1")
    assert done.returncode == 1
    assert "prune" in done.stderr and "in the lock file" in done.stderr


def test_splitting_is_locked(locked: Path, mbuild: Run) -> None:
    """It is in the lock if it is asked for; other or no splitting differs from it, by its flag."""
    assert mbuild("lock", "-q", "q8_0", "--split-layers", "1").returncode == 0
    assert json.loads((locked / "Modelfile.lock").read_text())["options"]["split_layers"] == 1
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    done = mbuild("build", "--locked", "-t", "m", "--split-layers", "2")
    assert done.returncode == 1
    assert "--split-layers changed: 1 in the lock file, 2 now" in done.stderr


def test_how_a_checkpoint_is_converted_is_locked(locked: Path, mbuild: Run) -> None:
    """The options are in the lock if they are asked for, and the lock asks for them again."""
    assert mbuild("lock", "-q", "q8_0", "--fp8-as-q8").returncode == 0
    assert json.loads((locked / "Modelfile.lock").read_text())["options"]["fp8_as_q8"] is True
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    assert mbuild("lock", "-q", "q8_0").returncode == 0
    done = mbuild("build", "--locked", "-t", "m", "--fp8-as-q8")
    assert done.returncode == 1
    assert "--fp8-as-q8 changed: null in the lock file, true now" in done.stderr


def test_locks_of_earlier_versions_hold(locked: Path, mbuild: Run) -> None:
    """An option that they do not have yet has its default; a type may be in any case."""
    options = ("-q", "q8_0", "--output-tensor-type", "q6_K", "--tensor-type", "attn_v=q4_0")
    assert mbuild("lock", *options).returncode == 0
    path = locked / "Modelfile.lock"
    lock = json.loads(path.read_text())
    fields = lock["options"]["quantize"]["Q8_0"]
    assert (fields["output_tensor_type"], fields["tensor_types"]) == ("Q6_K", ["attn_v=Q4_0"])
    del fields["allow_requantize"]
    fields |= {"output_tensor_type": "q6_k", "tensor_types": ["attn_v=q4_0"]}
    path.write_text(json.dumps(lock))
    done = mbuild("build", "--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    fields["output_tensor_type"] = "q5_k"
    path.write_text(json.dumps(lock))
    done = mbuild("build", "--locked", *options, "-t", "m")
    assert '--output-tensor-type changed: "Q5_K" in the lock file, "Q6_K" now' in done.stderr


def test_standard_input_cannot_be_locked(small: Path, mbuild: Run) -> None:
    """There is no file that a lock could lie beside."""
    for command in (["lock"], ["build", "--locked"]):
        done = mbuild(*command, "-f", "-", "-t", "m", input="FROM ./model.gguf\n")
        assert done.returncode == 2
        assert "standard input" in done.stderr


def test_the_lock_lies_beside_its_modelfile(small: Path, mbuild: Run) -> None:
    """Two Modelfiles of one folder have two locks."""
    (small / "mario.Modelfile").write_text("FROM ./model.gguf\nSYSTEM Mario\n")
    (small / "elsewhere").mkdir()
    os.chdir(small / "elsewhere")
    assert mbuild("lock", "-f", "../mario.Modelfile").returncode == 0
    assert (small / "mario.Modelfile.lock").exists()
    assert mbuild("build", "--locked", "-f", "../mario.Modelfile", "-t", "m").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_lock_that_is_a_link_stays_one(small: Path, mbuild: Run) -> None:
    """Where the link leads, even to a file that is not there yet, the lock is written."""
    path = small / "Modelfile.lock"
    path.unlink()
    path.symlink_to("locks")
    assert "there is no Modelfile.lock" in mbuild("build", "--locked", "-t", "m").stderr
    assert mbuild("lock").returncode == 0
    assert path.is_symlink()
    assert (small / "locks").is_file()
    assert mbuild("build", "--locked", "-t", "m").returncode == 0


def test_equal_projects_have_equal_locks(tmp_path: Path) -> None:
    """In another folder, time zone, locale, hash seed and umask: the same text, no path in it."""
    texts = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        folder = tmp_path / f"folder {number}"
        folder.mkdir()
        tiny_gguf(folder / "model.gguf")
        (folder / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM hi\nPARAMETER stop \u30a2\n")
        environment = {
            **os.environ,
            "OLLAMA_MODELS": str(folder / "store"),
            "TZ": zone,
            "PYTHONHASHSEED": str(number),
            "LC_ALL": ("C", "C.UTF-8")[number],
        }
        command = [sys.executable, "-m", "mbuild", "lock", str(folder)]
        umask = (0o022, 0o077)[number]
        subprocess.run(command, env=environment, check=True, capture_output=True, umask=umask)
        texts.append((folder / "Modelfile.lock").read_text())
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


def test_files_are_locked_by_digests_that_tools_check(locked: Path) -> None:
    """``sha256sum`` all but safetensors, ``b3sum`` those; of README.md only the front matter.

    Keys know every file by BLAKE3, which a lock does not show: locks of earlier versions hold.
    """
    inputs = json.loads((locked / "Modelfile.lock").read_text())
    (source,) = inputs["sources"]["from"]
    for name, digest in source["files"].items():
        data = (locked / "chat" / name).read_bytes()
        algorithm = BLAKE3 if name.endswith(".safetensors") else SHA256
        assert digest == str(Digest.of(data, algorithm))
    assert {"config.json", "model.safetensors"} <= source["files"].keys()
    imatrices = [each["imatrix"] for each in inputs["options"]["quantize"].values()]
    expected = str(Digest.of((locked / "imatrix.dat").read_bytes()))
    assert imatrices and all(list(each.values()) == [expected] for each in imatrices)
    assert FORMAT == 1


def test_a_lock_is_the_same_whatever_the_store_knew(tmp_path: Path, mbuild: Run) -> None:
    """Files that a build read for their BLAKE3 alone, and a GGUF blob that nobody read."""
    generator().write_chat(tmp_path / "chat")
    (tmp_path / "chat/README.md").write_text("---\nlicense: mit\n---\nWords.\n")
    tiny_gguf(tmp_path / "draft.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./chat\nDRAFT ./draft.gguf\n")
    settle()
    assert mbuild("lock", "-q", "q8_0").returncode == 0
    first = (tmp_path / "Modelfile.lock").read_text()
    card = json.loads(first)["sources"]["from"][0]["files"]["README.md"]
    assert card == str(Digest.of(b"---\nlicense: mit"))
    (tmp_path / "Modelfile.lock").unlink()
    shutil.rmtree(tmp_path / "store")
    settle()
    assert mbuild("-q", "q8_0", "-t", "m").returncode == 0
    assert mbuild("lock", "-q", "q8_0").returncode == 0
    assert (tmp_path / "Modelfile.lock").read_text() == first
    assert mbuild("--locked", "-t", "m").returncode == 0


def test_keys_are_sorted_and_one_value_is_one_line(locked: Path) -> None:
    """So that a changed file is one changed line of a diff."""
    text = (locked / "Modelfile.lock").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    assert all(line.count("sha256:") <= 1 for line in text.splitlines())


def test_a_locked_build_with_nothing_to_do_loads_nothing_heavy(small: Path, mbuild: Run) -> None:
    """The digests are remembered ones: no file is read, no grammar and no graph is loaded."""
    assert mbuild("-t", "m").returncode == 0
    code = (
        "import sys; from mbuild.cli.main import run;"
        "status = run(['--locked', '-t', 'm', '--quiet']);"
        "print(status, [m for m in ('lark', 'networkx', 'numpy', 'rich', 'numba') if m in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_lock_reads_back_as_written(locked: Path) -> None:
    """Reading and writing are inverse."""
    text = (locked / "Modelfile.lock").read_text()
    assert BuildLock.from_text(text, "lock").to_text() == text


def test_results_are_compared_layer_by_layer() -> None:
    """A layer more, a layer less, another origin: each is a difference of its own."""
    config = {"digest": "sha256:c"}

    def result(*layers: dict[str, str]) -> dict:
        return {"Q8_0": {"id": "sha256:i", "config": config, "layers": list(layers)}}

    model = {"mediaType": "a.model", "digest": "sha256:m"}
    system = {"mediaType": "a.system", "digest": "sha256:s"}
    lock = BuildLock({}, result(model, system))
    assert drift_of_results(lock, result(model, system)) == []
    (gone,) = drift_of_results(lock, result(model))
    assert (gone.place, gone.new) == (LockPlace("", -1, "Q8_0: layer 2"), None)
    (more,) = drift_of_results(BuildLock({}, result(model)), result(model, system))
    assert (more.old, more.new) == (None, "system sha256:s")
    (moved,) = drift_of_results(lock, result({**model, "from": "x"}, system))
    assert moved.message == (
        "Q8_0: layer 1 changed: model sha256:m in the lock file, model sha256:m from x now"
    )


def test_a_lock_of_hostile_json_is_refused() -> None:
    """Values of other kinds at any place are an error of ours, not a traceback."""
    for text in (
        '{"lock": 1, "mbuild": 1, "results": [], "sources": 1, "modelfile": 2, "options": 3}',
        '{"lock": true}',
        '{"lock": 1, "mbuild": "", "results": {"Q8_0": 1}, "sources": {"from": [], "adapter": [],'
        ' "draft": []}, "modelfile": {}, "options": {"outtype": 1, "pre": 1, "quantize": {}},'
        ' "steps": {}}',
        "[" * 100_000,
    ):
        with pytest.raises(FormatError, match="is not a lock file"):
            BuildLock.from_text(text, "Modelfile.lock")


def test_the_documented_session(tmp_path: Path) -> None:
    """docs/lock.md shows what the commands print."""
    work = tmp_path / "work"
    work.mkdir()
    tiny_gguf(work / "model.gguf")
    settle()
    documented("lock.md", tmp_path)
