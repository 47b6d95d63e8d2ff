"""Quantizing through the command line: what is made, what is reused, what is written."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path

import pytest
from conftest import Run
from example_models import change_tensors, generator, set_value, write_chat
from gguf_files import gguf_bytes, tiny_model
from inprocess import in_process
from killed_build import end_build

from mbuild.core.values import replace
from mbuild.gguf.model import KV, Model
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import ValueType

LAYERS = 4
MATRICES = 7  # of a layer
QUANTIZED = LAYERS * MATRICES + 2  # with token_embd and output


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint of four layers, and a Modelfile FROM it."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    return write_chat(tmp_path / "chat", LAYERS=LAYERS)


def build(mbuild: Run, *arguments: str | Path) -> str:
    """Build the model ``m``; what was said."""
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(mbuild: Run, name: str) -> str:
    """The digest of a model's weights."""
    (layer,) = [line for line in manifest(mbuild, name) if line["mediaType"].endswith(".model")]
    return layer["digest"]


def manifest(mbuild: Run, name: str) -> list[dict[str, str]]:
    """The layers of a model."""
    model, _, tag = name.partition(":")
    root = Path(os.environ["OLLAMA_MODELS"]) / "manifests/registry.ollama.ai/library"
    return json.loads((root / model / (tag or "latest")).read_text())["layers"]  # type: ignore[no-any-return]


def blob(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def names(mbuild: Run) -> list[str]:
    """The models of the store."""
    return sorted(model["name"] for model in json.loads(mbuild("list", "--json").stdout))


def reused(output: str) -> int:
    """How many tensors a build says it did not quantize again."""
    found = re.search(r"^reused (\d+) of \d+ quantized tensors$", output, re.MULTILINE)
    return int(found[1]) if found else 0


def from_scratch(
    mbuild: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """The digest of what the same build makes in an empty store."""
    with monkeypatch.context() as patch:
        patch.setenv("OLLAMA_MODELS", str(folder / "another-store"))
        assert reused(build(mbuild, *arguments)) == 0
        digest = weights(mbuild, "m")
    shutil.rmtree(folder / "another-store")
    return digest


# Once per tensor.


def test_changing_one_layer_requantizes_one_layer(
    mbuild: Run, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint in which one layer changed only that layer's matrices are made again."""
    assert reused(build(mbuild, "-q", "q8_0")) == 0
    before = weights(mbuild, "m")
    assert len(change_tensors(chat / "model.safetensors", "layers.2.")) == MATRICES + 2
    assert reused(build(mbuild, "-q", "q8_0")) == QUANTIZED - MATRICES
    after = weights(mbuild, "m")
    assert after != before
    assert after == from_scratch(mbuild, tmp_path, monkeypatch, "-q", "q8_0")


def test_a_retrained_tensor_is_named(mbuild: Run, chat: Path) -> None:
    """Where a few tensors changed, the build says which; of a whole layer only the number."""
    build(mbuild, "-q", "q8_0")
    assert len(change_tensors(chat / "model.safetensors", "layers.2.mlp.down_proj")) == 1
    assert "\nnewly quantized: blk.2.ffn_down.weight\n" in build(mbuild, "-q", "q8_0")
    change_tensors(chat / "model.safetensors", "layers.")
    assert "quantized anew" not in build(mbuild, "-q", "q8_0")


def test_second_variant_reuses_equal_tensors(
    mbuild: Run, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q4_K_S after Q4_K_M makes only the tensors whose type differs."""
    build(mbuild, "-q", "q4_K_M")
    types = {}
    for name in ("q4_K_M", "q4_K_S"):
        planned = json.loads(mbuild("plan", "--format", "json", "-q", name).stdout)
        row = planned["steps"][0]
        types[name] = {t["name"]: t["after"] for t in row["tensors"] if t["before"] != t["after"]}
    same = sum(types["q4_K_S"][name] == type_ for name, type_ in types["q4_K_M"].items())
    assert 0 < same < QUANTIZED
    assert reused(build(mbuild, "-q", "q4_K_S")) == same
    assert weights(mbuild, "m") == from_scratch(mbuild, tmp_path, monkeypatch, "-q", "q4_K_S")


def in_child(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, on the same store, on two threads."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "OLLAMA_MODELS": str(folder / "store"), "MBUILD_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_build_resumes(mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 at 90 % the next build makes about the last tenth, and the same bytes."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    write_chat(tmp_path / "chat", LAYERS=12)
    total = 12 * MATRICES + 2
    at = total * 9 // 10
    done = end_build(tmp_path, "SIGKILL", at, total * 3 // 4 + 1, "-t", "m", "-q", "q8_0")
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "store/manifests/registry.ollama.ai/library/m").exists()
    found = reused(build(mbuild, "-q", "q8_0"))
    assert total * 0.75 < found < at
    assert weights(mbuild, "m") == from_scratch(mbuild, tmp_path, monkeypatch, "-q", "q8_0")
    assert len(large_files(tmp_path / "store")) == 1


def is_large(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 1 << 20


def large_files(store: Path) -> set[int]:
    """The inodes of a store's large files: the cache keeps a blob as a second name of it."""
    return {path.stat().st_ino for path in store.rglob("*") if is_large(path)}


def test_a_damaged_unfinished_file_is_a_miss(
    mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed build left behind counts only as far as its digests are right."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    write_chat(tmp_path / "chat", LAYERS=LAYERS)
    end_build(tmp_path, "SIGKILL", QUANTIZED - 2, 1, "-t", "m", "-q", "q8_0")
    (partial,) = [p for p in (tmp_path / "store").rglob("*") if is_large(p)]
    data = bytearray(partial.read_bytes())
    data[len(data) // 2] ^= 255
    partial.write_bytes(data)
    assert 0 < reused(build(mbuild, "-q", "q8_0")) < QUANTIZED - 3
    assert weights(mbuild, "m") == from_scratch(mbuild, tmp_path, monkeypatch, "-q", "q8_0")


def test_nothing_unquantized_is_written(mbuild: Run, tmp_path: Path) -> None:
    """No file of the store is ever larger than the quantized model, which is written once."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    source = write_chat(tmp_path / "chat", LAYERS=12) / "model.safetensors"
    build(mbuild, "-q", "q4_0", "--store", str(tmp_path / "warm"))  # compiles, if need be
    store, largest, stop = tmp_path / "store", 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not stop.wait(0.001):
            for path in store.rglob("*"):
                try:
                    largest = max(largest, path.stat().st_size)
                except OSError:
                    pass  # renamed meanwhile

    watcher = threading.Thread(target=watch)
    watcher.start()
    count = "print(*[line for line in open('/proc/self/io')]) if os.path.exists('/proc') else None"
    code = f"import os, sys\nfrom mbuild.cli.main import run\nrun(sys.argv[1:])\n{count}"
    try:
        done = in_child(tmp_path, code, "-t", "m", "-q", "q4_0")
    finally:
        stop.set()
        watcher.join()
    quantized = blob(store, weights(mbuild, "m")).stat().st_size
    assert quantized < source.stat().st_size / 3
    assert largest == quantized
    if found := re.search(r"wchar: (\d+)", done.stdout):
        assert quantized <= int(found[1]) < quantized + (1 << 20)


# Several variants.


def test_several_types_give_several_models(mbuild: Run, chat: Path) -> None:
    """Each -q is a model named by its type, with the bytes that it has alone."""
    build(mbuild, "-q", "q8_0", "-q", "Q4_0")
    assert names(mbuild) == ["m:Q4_0", "m:q8_0"]
    both = weights(mbuild, "m:q8_0"), weights(mbuild, "m:Q4_0")
    build(mbuild, "--no-cache", "-q", "q8_0")
    assert weights(mbuild, "m") == both[0]
    build(mbuild, "--no-cache", "-q", "q4_0")
    assert weights(mbuild, "m") == both[1]


@pytest.mark.parametrize(
    ("tags", "types", "expected"),
    [
        (["x:v2"], ["q8_0", "q4_0"], ["x:v2-q4_0", "x:v2-q8_0"]),
        (["x:{quant}", "y-{quant}"], ["q8_0"], ["x:q8_0", "y-q8_0:latest"]),
        (["x-{quant}:v1"], ["q8_0", "q4_0"], ["x-q4_0:v1", "x-q8_0:v1"]),
        (["x"], ["q8_0"], ["x:latest"]),
        (["x"], ["q8_0", "Q8_0"], ["x:latest"]),
    ],
)
def test_names_of_variants(
    mbuild: Run, chat: Path, tags: list[str], types: list[str], expected: list[str]
) -> None:
    """{quant} stands for the type; without it the tag says it, where there are several."""
    arguments = [f"--tag={tag}" for tag in tags] + [f"--quantize={type_}" for type_ in types]
    done = mbuild(*arguments)
    assert done.returncode == 0, done.stderr
    assert names(mbuild) == expected


def test_a_second_build_runs_nothing(mbuild: Run, chat: Path) -> None:
    """A quantization is cached like every other step."""
    build(mbuild, "-q", "q8_0", "-q", "q4_0")
    assert "0 steps run" in build(mbuild, "-q", "q8_0", "-q", "q4_0")


# Where the weights come from.


def test_every_source_gives_the_same_model(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A checkpoint, its GGUF file, that file's shards and the stored model, quantized alike."""
    build(mbuild, "-q", "q4_0")
    expected = weights(mbuild, "m")
    generator().write_gguf(chat, tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        whole = file.model()
        write_shards(whole, tmp_path, 10)
        (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
        assert reused(build(mbuild, "-q", "q4_0")) in (0, QUANTIZED)
        assert weights(mbuild, "m") == expected
    (tmp_path / "Modelfile").write_text("FROM ./s-00001-of-00004.gguf\n")
    build(mbuild, "-q", "q4_0")
    assert weights(mbuild, "m") == expected
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
    build(mbuild, "-t", "stored")
    (tmp_path / "Modelfile").write_text("FROM stored\nSYSTEM hi\n")
    build(mbuild, "-q", "q4_0")
    assert weights(mbuild, "m") == expected


def write_shards(model: Model, folder: Path, each: int) -> None:
    """Split a model, ``each`` tensors to a file, as gguf-split does."""
    count = -(-len(model.tensors) // each)
    for number in range(count):
        split = (
            KV("split.no", ValueType.UINT16, number),
            KV("split.count", ValueType.UINT16, count),
            KV("split.tensors.count", ValueType.INT32, len(model.tensors)),
        )
        tensors = model.tensors[number * each : (number + 1) * each]
        part = Model((*(model.metadata if number == 0 else ()), *split), tuple(tensors))
        (folder / f"s-{number + 1:05}-of-{count:05}.gguf").write_bytes(gguf_bytes(part))


def test_a_quantized_model_is_refused_unless_asked_for(
    mbuild: Run, chat: Path, tmp_path: Path
) -> None:
    """In Ollama's words; --allow-requantize decodes it first."""
    build(mbuild, "-q", "q8_0", "-t", "small")
    (tmp_path / "Modelfile").write_text("FROM small\n")
    done = mbuild("-t", "smaller", "-q", "q4_0")
    assert done.returncode == 1
    assert "quantization is only supported for F16, BF16 and F32 models" in done.stderr
    assert "--allow-requantize" in done.stderr
    done = mbuild("-t", "smaller", "-q", "q4_0", "--allow-requantize")
    assert done.returncode == 0, done.stderr
    assert "quantizing Q8_0 model to Q4_0" in done.stderr
    assert "Q4_0" in mbuild("show", "smaller").stdout


def test_a_projector_stays_as_it_is(mbuild: Run, tmp_path: Path) -> None:
    """Only the model's weights are quantized, never what FROM names beside them."""
    folder = tmp_path / "vision"
    folder.mkdir()
    write_chat(tmp_path / "chat")
    generator().write_gguf(tmp_path / "chat", folder / "model.gguf")
    projector = gguf_bytes(tiny_model(kind="projector"))
    (folder / "mmproj-model.gguf").write_bytes(projector)
    (tmp_path / "Modelfile").write_text("FROM ./vision\n")
    build(mbuild, "-q", "q8_0")
    kept = [layer for layer in manifest(mbuild, "m") if layer["mediaType"].endswith(".projector")]
    assert len(kept) == 1
    assert blob(tmp_path / "store", kept[0]["digest"]).read_bytes() == projector


def test_ones_at_the_end_of_dimensions_are_dropped(mbuild: Run, tmp_path: Path) -> None:
    """As ggml writes them; the importer keeps them, as convert_hf_to_gguf does."""
    write_chat(tmp_path / "chat")
    generator().write_gguf(tmp_path / "chat", tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        model = file.model()
        odd = [replace(t, dims=(*t.dims, 1)) for t in model.tensors]
        changed = gguf_bytes(replace(model, tensors=tuple(odd)))
    (tmp_path / "m.gguf").write_bytes(changed)
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\n")
    build(mbuild)
    kept = open_gguf(blob(tmp_path / "store", weights(mbuild, "m"))).tensors
    assert [t.dims for t in kept] == [t.dims for t in odd]
    build(mbuild, "-q", "q8_0")
    made = open_gguf(blob(tmp_path / "store", weights(mbuild, "m"))).tensors
    assert {t.name: t.dims for t in made} == {t.name: t.dims for t in model.tensors}


# A cache that is not believed.


def test_a_damaged_cached_tensor_is_a_miss(
    mbuild: Run, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage in a blob costs the tensors that it hits, and never gets into another model."""
    build(mbuild, "-q", "q4_K_M", "-t", "first")
    build(mbuild, "-q", "q4_K_M")
    path = blob(tmp_path / "store", weights(mbuild, "m"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    expected = from_scratch(mbuild, tmp_path, monkeypatch, "-q", "q4_K_S")
    found = reused(build(mbuild, "-q", "q4_K_S"))
    assert 0 < found < QUANTIZED
    assert weights(mbuild, "m") == expected


def test_no_cache_quantizes_every_tensor_again(mbuild: Run, chat: Path) -> None:
    """``--no-cache`` takes no tensor from an earlier build, and comes to the same bytes."""
    build(mbuild, "-q", "q8_0")
    before = weights(mbuild, "m")
    assert reused(build(mbuild, "-q", "q8_0", "--tensor-type", "attn_v=q6_K")) > 0
    assert reused(build(mbuild, "-q", "q8_0", "--no-cache")) == 0
    assert weights(mbuild, "m") == before


def test_a_blob_that_is_gone_is_a_miss(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Without the blob everything is made again, with the same bytes."""
    build(mbuild, "-q", "q8_0")
    expected = weights(mbuild, "m")
    blob(tmp_path / "store", expected).unlink()
    assert reused(build(mbuild, "-q", "q8_0")) == 0
    assert weights(mbuild, "m") == expected
    assert blob(tmp_path / "store", expected).exists()


# What the options do.


def test_plan_shows_each_tensor_and_writes_nothing(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Names, types before and after and sizes are those of the file that a build then makes."""
    done = mbuild("plan", "--tensors", "-q", "q4_K_M", "-t", "m")
    assert done.returncode == 0, done.stderr
    short = mbuild("--dry-run", "-q", "q4_K_M", "-t", "m").stdout
    assert re.search(
        r"^ +\d+ tensors: \d+ to Q4_K, \d+ to Q6_K, \d+ stay F32$", short, re.MULTILINE
    )
    assert "blk.0" not in short
    assert not (tmp_path / "store").exists()
    assert re.search(r"^ +blk\.0\.attn_q\.weight +BF16 -> Q4_K +37 KB$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +blk\.0\.attn_norm\.weight +F32 +1\.0 KB$", done.stdout, re.MULTILINE)
    rows = mbuild("--dry-run", "--progress", "json", "-q", "q4_K_M", "-t", "m").stdout
    planned = json.loads(rows)["steps"][0]
    build(mbuild, "-q", "q4_K_M")
    path = blob(tmp_path / "store", weights(mbuild, "m"))
    assert planned["writes"] == path.stat().st_size
    with open_gguf(path) as file:
        made = [(t.name, t.type.name, t.nbytes) for t in file.model().tensors]
    assert [(t["name"], t["after"], t["size"]) for t in planned["tensors"]] == made


def test_dry_run_finds_what_a_build_would_refuse(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A type that needs importances, a quantized source: said before anything runs."""
    done = mbuild("--dry-run", "-q", "iq2_xxs")
    assert done.returncode == 1
    assert "needs an importance matrix" in done.stderr
    (chat / "config.json").unlink()
    done = mbuild("--dry-run", "-q", "q8_0")
    assert done.returncode == 1
    assert not (tmp_path / "store").exists()


def test_own_recipes(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """--tensor-type, its file, --output-tensor-type and the others decide types."""
    (tmp_path / "rules.txt").write_text("blk.1.ffn_up=q5_0\n")
    arguments = ["-q", "q4_0", "--tensor-type", "attn_v=q8_0", "--tensor-type-file", "rules.txt"]
    arguments += ["--output-tensor-type", "f16", "--token-embedding-type", "q8_0"]
    build(mbuild, *arguments)
    with open_gguf(blob(tmp_path / "store", weights(mbuild, "m"))) as file:
        types = {t.name: t.type.name for t in file.model().tensors}
    assert {types[f"blk.{i}.attn_v.weight"] for i in range(LAYERS)} == {"Q8_0"}
    assert (types["blk.1.ffn_up.weight"], types["blk.0.ffn_up.weight"]) == ("Q5_0", "Q4_0")
    assert (types["output.weight"], types["token_embd.weight"]) == ("F16", "Q8_0")


def test_types_that_nothing_makes_are_refused_early(mbuild: Run, chat: Path) -> None:
    """A rule that names such a type fails in --dry-run already."""
    done = mbuild("--dry-run", "-q", "q8_0", "--output-tensor-type", "q8_1")
    assert done.returncode != 0
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["-q", "q9_Z"], 2, "unknown quantization 'q9_Z'"),
        (["--pure"], 2, "--pure has no effect without --quantize"),
        (["-q", "q4_0", "--tensor-type", "x"], 2, "x"),
        (["-q", "q4_0", "--tensor-type", "(=q8_0"], 2, "("),
        (["-q", "q4_0", "--imatrix", "none.gguf"], 1, "none.gguf"),
    ],
)
def test_wrong_options(
    mbuild: Run, chat: Path, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    """Refused in one line, before anything is built."""
    done = mbuild(*arguments)
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert not list((tmp_path / "store").rglob("sha256-*"))


def test_a_tensor_that_is_not_finite_is_named(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """NaN in the weights: the tensor's name, and no weights in the store."""
    set_value(chat / "model.safetensors", "model.layers.1.mlp.up_proj.weight", math.nan)
    done = mbuild("-q", "q8_0", "-t", "m")
    assert done.returncode == 1
    assert "blk.1.ffn_up.weight" in done.stderr
    # The detected template, which was there before, is a result like any other.
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "store").rglob("sha256-*")}
    assert all(b"GGUF" not in data and b"{{ .Content }}" in data for data in blobs.values())
    assert json.loads(mbuild("list", "--format", "json").stdout) == []


def test_the_variant_that_fails_says_why(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """A value that only Q4_0 cannot hold: the error is its, not the stopped neighbour's."""
    set_value(chat / "model.safetensors", "model.layers.1.mlp.up_proj.weight", 1e6)
    build(mbuild, "-q", "q8_0")
    for types in (["q8_0", "q4_0"], ["q4_0", "q8_0"]):
        done = mbuild("-t", "m", *(f"--quantize={type_}" for type_ in types))
        assert done.returncode == 1
        assert "error: blk.1.ffn_up.weight: " in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupted_build_resumes(mbuild: Run, chat: Path, tmp_path: Path) -> None:
    """Ctrl-C: status 130 soon, no model, no traceback, and what was made is not lost."""
    write_chat(chat, LAYERS=12)  # enough to do after the signal, on a busy machine too
    started = time.monotonic()
    done = end_build(tmp_path, "SIGINT", 20, 0, "-t", "m", "-q", "q8_0")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60
    assert not (tmp_path / "store/manifests/registry.ollama.ai/library/m").exists()
    assert reused(build(mbuild, "-q", "q8_0")) >= 10
    assert len(large_files(tmp_path / "store")) == 1


@pytest.fixture(scope="module")
def long_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 250 MB."""
    return write_chat(tmp_path_factory.mktemp("long") / "chat", LAYERS=8, WIDTH=1024, HIDDEN=4096)


@pytest.mark.skipif(sys.platform != "linux", reason="computing time is read from /proc")
@pytest.mark.parametrize(
    ("options", "threads"),
    [
        *product(
            ([], ["-q", "q4_K_M"], ["-q", "q6_K", "-q", "q8_0"]),
            ("1", "2", "16"),
        ),
        (["-q", "iq3_s"], "1"),  # the slowest that needs no importance matrix
        (["-q", "iq3_s", "-q", "tq1_0"], "7"),
    ],
)
def test_ctrl_c_ends_a_build_at_once(
    threads: str, options: list[str], long_work: Path, tmp_path: Path
) -> None:
    """Within a second on any number of threads, whatever they are in; no model, no traceback.

    The second is one of computing: what other programs take from the machine does not count.
    """
    (tmp_path / "Modelfile").write_text(f"FROM {long_work}\n")
    words = ["--store", "store", "-t", "m", "--threads", threads, "--progress", "json"]
    builder = subprocess.Popen(
        [sys.executable, "-m", "mbuild", *words, *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with builder:
        assert builder.stdout is not None and builder.stderr is not None
        assert any('"completed"' in line for line in builder.stdout)  # weights are on the way
        before = computed(builder.pid)
        builder.send_signal(signal.SIGINT)
        said = builder.stderr.read()
        _, status, used = os.wait4(builder.pid, 0)
        builder.returncode = os.waitstatus_to_exitcode(status)
    assert builder.returncode == 130, said
    assert "Traceback" not in said
    assert not (tmp_path / "store/manifests/registry.ollama.ai/library/m").exists()
    assert used.ru_utime + used.ru_stime - before < 1


def computed(process: int) -> float:
    """Seconds that a running process has computed (``proc(5)``, stat)."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_compilation_does_not_hold_up_ctrl_c(chat: Path, tmp_path: Path) -> None:
    """Kernels take seconds each to compile, once; a stopped build does not wait for them."""
    pytest.importorskip("numba")
    kernels = tmp_path / "cache"
    builder = subprocess.Popen(
        [sys.executable, "-m", "mbuild", "--store", "store", "-t", "m", "-q", "q4_K_M"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(kernels)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with builder:
        assert builder.stderr is not None
        assert any("compiling quantizers for Q4_K, Q6_K" in line for line in builder.stderr)
        builder.send_signal(signal.SIGINT)
        said = builder.stderr.read()
    assert builder.returncode == 130
    assert "interrupted: no model was changed" in said
    assert not list(kernels.rglob("*Q6_K*.o")), "it waited for the last kernel"
    assert not list((tmp_path / "store/manifests").iterdir())
