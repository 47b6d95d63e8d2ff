"""Steps that run the model: measures on a text, answers, importance matrices, sizes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import FAMILIES, Family, write_family
from conftest import Run
from inprocess import in_process

from mbuild.build.steps.answering import LONGEST
from mbuild.core.names import ModelName
from mbuild.gguf.reader import open_gguf
from mbuild.runtime.process import has_engine
from mbuild.store import Store

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

TEXT = "".join(chr(33 + n * n % 61) for n in range(1100))
"""Two chunks of 512 tokens of the generated vocabulary."""

COMMON = ("--pre", "gpt-2", "--threads", "1", "--progress", "plain")
KLD = "kld < 5 TEXT text.txt CHUNKS 1"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints ``qwen2`` of two layers and ``qwen3_moe``, and a text."""
    root = tmp_path_factory.mktemp("models")
    write_family(root / "qwen2", FAMILIES["tied"]._replace(layers=2))
    write_family(root / "qwen3_moe", Family("qwen3_moe", {}))
    (root / "text.txt").write_text(TEXT)
    return root


@pytest.fixture
def mbuild(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, in a folder with the checkpoints."""
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "Modelfile").write_text("FROM ./qwen2\n")
    return in_process(tmp_path, monkeypatch)


def built(mbuild: Run, *arguments: str) -> str:
    """Build ``m``; all that was said."""
    done = mbuild(*COMMON, "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def steps(mbuild: Run) -> dict[str, dict[str, object]]:
    """The steps of the last build by kind."""
    log = json.loads(mbuild("history", "--last", "1", "--format", "json").stdout)
    return {step["kind"]: step for step in log["steps"]}


def ran(mbuild: Run) -> set[str]:
    """The kinds of the steps that ran in the last build."""
    return {kind for kind, step in steps(mbuild).items() if step["status"] == "ran"}


def weights(tmp_path: Path, name: str = "m") -> Path:
    """The file of a model's weights."""
    store = Store(tmp_path / "store")
    stored = store.manifests.read(ModelName.parse(name))
    return store.blobs.local_path(stored.manifest.layers[0].digest)


def test_divergence_is_measured_against_the_unquantized_model(mbuild: Run) -> None:
    """As ``measure --against`` finds it; then 0 steps run, and another bound runs no model."""
    built(mbuild, "-q", "q4_0", "--check", KLD, "--check", "perplexity > 1 TEXT text.txt CHUNKS 1")
    assert {"unquantized", "measure", "check"} <= ran(mbuild)
    assert mbuild(*COMMON, "-t", "plain").returncode == 0
    arguments = ("--text", "text.txt", "--chunks", "1", "--format", "json")
    done = mbuild("measure", "m", "--against", "plain", *arguments)
    expected = json.loads(done.stdout)
    log = json.loads(mbuild("history", "m", "--format", "json").stdout)
    found = [step["measured"] for step in log["steps"] if step["kind"] == "measure"]
    assert any(row.get("mean_kld") == pytest.approx(expected["mean_kld"]) for row in found), found
    assert all(row["perplexity"] == pytest.approx(expected["perplexity"]) for row in found)
    assert "0 steps run" in built(mbuild, "-q", "q4_0", "--check", KLD)
    built(mbuild, "-q", "q4_0", "--check", KLD.replace("5", "4", 1))
    assert ran(mbuild) == {"check"}


def test_a_divergence_that_is_too_large_names_nothing(mbuild: Run) -> None:
    """It is said by how much, and the model is not there."""
    done = mbuild(*COMMON, "-t", "m", "-q", "q2_K", "--check", "kld < 1e-9 TEXT text.txt CHUNKS 1")
    assert done.returncode != 0
    found = re.search(r"CHECK kld < 1e-9: it is (\S+), (\S+) too much", done.stderr)
    assert found is not None and float(found[1]) > 1e-9, done.stderr
    assert json.loads(mbuild("list", "--json").stdout) == []


def test_the_unquantized_file_does_not_stay_in_the_way(mbuild: Run, tmp_path: Path) -> None:
    """No model names it: it is kept by the cache only, and made no second time."""
    built(mbuild, "-q", "q4_0", "--check", KLD)
    (layer,) = steps(mbuild)["unquantized"]["layers"]  # type: ignore[misc]
    name = layer["digest"].replace(":", "-")
    assert not (tmp_path / "store" / "blobs" / name).exists()
    assert (tmp_path / "store" / ".mbuild" / "kept" / name).exists()
    built(mbuild, "-q", "q8_0", "--check", KLD)
    assert {"quantize", "measure"} <= ran(mbuild) and "unquantized" not in ran(mbuild)
    assert not (tmp_path / "store" / "blobs" / name).exists()


def test_a_matrix_is_made_once_for_all_variants(mbuild: Run, tmp_path: Path) -> None:
    """That of ``mbuild imatrix``, named in the model, the log and the plan; then nothing runs."""
    options = ("-q", "q4_K_M", "-q", "iq2_xs", "--imatrix-from", "text.txt")
    shown = mbuild("plan", *COMMON[:4], "-t", "m", *options).stdout
    assert "compute importances of qwen2 on text.txt" in shown, shown
    built(mbuild, *options)
    log = json.loads(mbuild("history", "--last", "1", "--format", "json").stdout)
    (made,) = [step for step in log["steps"] if step["kind"] == "imatrix"]
    assert made["measured"]["chunks"] == 2
    with open_gguf(weights(tmp_path, "m:iq2_xs")) as file:
        assert file.get("quantize.imatrix.file") == "imatrix.gguf"
        assert file.get("quantize.imatrix.dataset") == "text.txt"
        assert file.get("quantize.imatrix.chunks_count") == 2
    assert mbuild(*COMMON, "-t", "plain").returncode == 0
    done = mbuild("imatrix", "plain", "--text", "text.txt", "-o", "by-hand.gguf")
    assert done.returncode == 0, done.stderr
    kept = Store(tmp_path / "store").blobs
    digest = made["layers"][0]["digest"].replace(":", "-")
    assert (kept.folder / digest).read_bytes() == Path("by-hand.gguf").read_bytes()
    assert "0 steps run" in built(mbuild, *options)
    built(mbuild, "-q", "q4_K_S", "--imatrix-from", "text.txt")
    assert "imatrix" not in ran(mbuild) and "quantize" in ran(mbuild)
    done = mbuild(*COMMON[:4], "-t", "n", "-q", "iq2_xs", "--imatrix", "by-hand.gguf")
    with open_gguf(weights(tmp_path, "n")) as one, open_gguf(weights(tmp_path, "m:iq2_xs")) as two:
        for a, b in zip(one.model().tensors, two.model().tensors, strict=True):
            assert bytes(a.load()) == bytes(b.load()), a.name


def test_what_is_built_again_takes_the_matrix_that_there_is(
    mbuild: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``verify --rebuild`` computes none: its last digits are the machine's that made it."""
    built(mbuild, "-q", "iq2_xs", "--imatrix-from", "text.txt", "--check", KLD)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr("mbuild.runtime.statistics.jobs.run_job", refuse)
    done = mbuild("verify", "m", "--rebuild")
    assert done.returncode == 0 and "bit for bit the same" in done.stdout, done.stdout + done.stderr


def test_the_modelfile_says_which_text(mbuild: Run, tmp_path: Path) -> None:
    """Its path starts from the Modelfile's folder; the lock has text and length."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text.txt").write_text(TEXT)
    (tmp_path / "sub" / "Modelfile").write_text(
        "# syntax=mbuild/1\nFROM ../qwen2\nQUANTIZE iq2_xs IMATRIX FROM ./text.txt CHUNKS 1\n"
    )
    done = mbuild("lock", *COMMON[:4], "-f", "sub/Modelfile")
    assert done.returncode == 0, done.stderr
    lock = (tmp_path / "sub" / "Modelfile.lock").read_text()
    assert '"imatrix_chunks": 1' in lock and '"./text.txt": "sha256:' in lock
    locked = ("build", "--locked", *COMMON[:4], "-f", "sub/Modelfile", "-t", "m")
    assert mbuild(*locked).returncode == 0
    (tmp_path / "sub" / "text.txt").write_text(TEXT + "x")
    done = mbuild(*locked)
    assert done.returncode != 0 and "--imatrix-from" in done.stderr, done.stderr


def test_an_unlocked_build_is_locked_with_its_text(mbuild: Run, tmp_path: Path) -> None:
    """By the options of the command line, which ``--locked`` then has from the lock."""
    options = ("-q", "q4_K_M", "--imatrix-from", "text.txt", "--imatrix-chunks", "1")
    assert mbuild("lock", *COMMON[:2], *options).returncode == 0
    done = mbuild("build", "--locked", *COMMON[2:4], "-t", "m")
    assert done.returncode == 0, done.stderr
    with open_gguf(weights(tmp_path)) as file:
        assert file.get("quantize.imatrix.chunks_count") == 1


def test_experts_that_no_token_reached_are_named(mbuild: Run) -> None:
    """In a warning, and in the log."""
    Path("Modelfile").write_text("FROM ./qwen3_moe\n")
    said = built(mbuild, "-q", "q8_0", "--imatrix-from", "text.txt", "--imatrix-chunks", "1")
    unseen = steps(mbuild)["imatrix"]["measured"].get("unseen", {})  # type: ignore[attr-defined]
    for weight, experts in unseen.items():
        assert f"text.txt never reached experts {experts[0]}" in said and weight in said
    Path("short.txt").write_text("A" * 1100)
    said = built(mbuild, "-q", "q8_0", "--imatrix-from", "short.txt", "--imatrix-chunks", "1")
    assert "warning: short.txt never reached experts" in said, said


def test_a_text_that_is_too_short_is_refused(mbuild: Run) -> None:
    """As llama-imatrix refuses it."""
    Path("short.txt").write_text("x")
    done = mbuild(*COMMON, "-t", "m", "-q", "q8_0", "--imatrix-from", "short.txt")
    assert done.returncode != 0 and "tokens, and 1024 are needed" in done.stderr
    done = mbuild(*COMMON, "-t", "m", "-q", "q8_0", "--imatrix-from", "none.txt")
    assert done.returncode != 0 and "none.txt" in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_no_text_is_refused(mbuild: Run) -> None:
    """For a matrix and for a check: a GGUF file, and bytes that are not UTF-8."""
    Path("bytes.txt").write_bytes(b"caf\xe9")
    Path("matrix.gguf").write_bytes(b"GGUF" + bytes(100))
    for name, said in (("bytes.txt", "not UTF-8 at byte 3"), ("matrix.gguf", "a GGUF file, not")):
        for options in (("--imatrix-from", name), ("--check", f"perplexity < 9 TEXT {name}")):
            done = mbuild(*COMMON, "-t", "m", "-q", "q8_0", *options)
            assert done.returncode == 1 and f"{name} is {said}" in done.stderr, done.stderr
            assert "hint:" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_matrix_is_gone_on_with(
    mbuild: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as in one run, and only the chunks that were missing are computed."""
    Path("long.txt").write_text(TEXT * 40)
    options = ("-q", "q8_0", "--imatrix-from", "long.txt")
    command = [sys.executable, "-m", "mbuild", *COMMON, "-t", "m", *options]
    partial = tmp_path / "store" / ".mbuild" / "partial"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(partial.glob("imatrix-*[0-9a-f]")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if not list(partial.glob("imatrix-*")):
        pytest.skip("this machine was through with the text before it could be killed")
    built(mbuild, *options)
    log = json.loads(mbuild("history", "--last", "1", "--format", "json").stdout)
    (made,) = [step for step in log["steps"] if step["kind"] == "imatrix"]
    assert not list(partial.glob("imatrix-*"))
    assert mbuild(*COMMON, "-t", "plain").returncode == 0
    mbuild("imatrix", "plain", "--text", "long.txt", "-o", "by-hand.gguf")
    digest = made["layers"][0]["digest"].replace(":", "-")
    whole = (tmp_path / "store" / "blobs" / digest).read_bytes()
    assert whole == Path("by-hand.gguf").read_bytes()


def test_a_size_is_kept_and_can_be_said_again(mbuild: Run, tmp_path: Path) -> None:
    """By flags and by a line of a Modelfile that give the very bytes; another size is quick."""
    said = built(mbuild, "--bpw", "5", "--imatrix-from", "text.txt", "--imatrix-chunks", "1")
    found = re.findall(r"chose types for .*?, (\S+) bits a weight; the same again: (.*)", said)
    (bits, flags), (_, line) = found
    assert 4 < float(bits) <= 5
    first = weights(tmp_path)
    with open_gguf(first) as file:
        total = sum(t.nbytes for t in file.tensors)
        assert 8 * total / sum(int(np.prod(t.dims)) for t in file.tensors) <= 5
        assert len({t.type for t in file.tensors}) > 2
    built(mbuild, *shlex.split(flags))
    assert weights(tmp_path) == first
    Path("Modelfile").write_text(f"# syntax=mbuild/1\nFROM ./qwen2\n{line}\n")
    built(mbuild)
    assert weights(tmp_path) == first
    Path("Modelfile").write_text(
        "# syntax=mbuild/1\nFROM ./qwen2\nQUANTIZE BPW 5 IMATRIX FROM text.txt CHUNKS 1\n"
    )
    built(mbuild)
    assert weights(tmp_path) == first and "quantize" not in ran(mbuild)


def test_a_file_has_at_most_the_size(mbuild: Run, tmp_path: Path) -> None:
    """With its header; what cannot be that small is refused with the least there is."""
    built(mbuild, "-q", "q8_0")
    largest = weights(tmp_path).stat().st_size
    for share in (0.9, 0.7):
        size = int(share * largest)
        built(mbuild, "--size", f"{size}")
        assert 0.85 * size < weights(tmp_path).stat().st_size <= size
    names = [model["name"] for model in json.loads(mbuild("list", "--json").stdout)]
    assert names == ["m:latest"]
    done = mbuild(*COMMON, "-t", "m", "--size", "20KB")
    assert done.returncode != 0
    assert re.search(r"20KB is too small: the model's tensors take at least \d+ KB, \d\.\d+ bits",
                     done.stderr), done.stderr  # fmt: skip
    assert "an importance matrix" in done.stderr
    done = mbuild(*COMMON, "-t", "v", "--bpw", "6", "--bpw", "9")
    assert done.returncode == 0, done.stderr
    names = [model["name"] for model in json.loads(mbuild("list", "--json").stdout)]
    assert {"v:6bpw", "v:9bpw"} <= set(names)


def test_types_that_are_named_are_not_chosen(mbuild: Run, tmp_path: Path) -> None:
    """By a rule, and by the option of the embeddings."""
    built(mbuild, "--bpw", "6", "--tensor-type", "attn_q=q8_0", "--token-embedding-type", "q4_0")
    with open_gguf(weights(tmp_path)) as file:
        types = {t.name: t.type.name for t in file.tensors}
    assert {v for k, v in types.items() if "attn_q.w" in k} == {"Q8_0"}
    assert types["token_embd.weight"] == "Q4_0"


def test_a_model_is_asked(mbuild: Run) -> None:
    """What it answers is in the log, and in the error where the expression is not in it."""
    Path("Modelfile").write_text(
        "FROM ./qwen2\nTEMPLATE {{ .Prompt }}\nPARAMETER num_ctx 512\nPARAMETER num_predict 4\n"
    )
    built(mbuild, "--check", 'answers "abc" WITH "/(?s).*/"')
    answer = steps(mbuild)["ask"]["measured"]["answer"]  # type: ignore[index]
    assert isinstance(answer, str) and 0 < len(answer) <= 8 * LONGEST
    assert "0 steps run" in built(mbuild, "--check", 'answers "abc" WITH "/(?s).*/"')
    done = mbuild(*COMMON, "-t", "m", "--check", 'answers "abc" WITH /never-said/')
    assert done.returncode != 0
    assert "CHECK answers /never-said/: the model answers" in done.stderr, done.stderr
    built(mbuild, "--check", 'answers "abc" WITH "/(?s)./"')
    assert ran(mbuild) == {"check"}  # what it answered is known
