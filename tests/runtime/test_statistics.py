"""Importance matrices and measures, by the engine, on generated models; against numpy."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from checkpoints import FAMILIES, Family, write_family
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core.errors import StoreError, UsageError
from mbuild.core.names import ModelName
from mbuild.gguf.reader import open_gguf
from mbuild.models.measured import METRICS, Bound, make_imatrix, measure
from mbuild.quant.choose.imatrix import open_imatrix
from mbuild.runtime.failure import EngineError
from mbuild.runtime.process import has_engine
from mbuild.runtime.statistics import binding, importances, passes, program
from mbuild.runtime.statistics.jobs import Progress, engine_features, measure_job
from mbuild.runtime.statistics.quality import Tally, log_softmax
from mbuild.store import Store

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

ResultT = TypeVar("ResultT")
CHUNK = 512


def _done(work: Generator[Progress, None, ResultT]) -> tuple[ResultT, list[Progress]]:
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as ended:
            return ended.value, seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with ``dense``, ``dense-q4`` and ``experts``, and ``text.txt`` of 1,100 tokens."""
    root = tmp_path_factory.mktemp("statistics")
    (root / "text.txt").write_text("".join(chr(33 + n * n % 61) for n in range(1100)))
    for name, family, options in (
        ("dense", FAMILIES["tied"], []),
        ("dense-q4", FAMILIES["tied"], ["-q", "q4_0"]),
        ("experts", Family("qwen3_moe", {}), []),
    ):
        if not (root / family.name).exists():
            write_family(root / family.name, family)
        (root / "Modelfile").write_text(f"FROM ./{family.name}\n")
        command = [sys.executable, "-m", "mbuild", "--store", str(root / "store"), *options]
        command += ["--outtype", "f32", "--pre", "gpt-2"]
        subprocess.run([*command, "-t", name], cwd=root, check=True, capture_output=True)
    return root


def _store(folder: Path) -> Store:
    return Store(folder / "store")


def _tokens(folder: Path, name: str) -> tuple[Any, np.ndarray[Any, Any]]:
    """A model's file, and the tokens of its first two chunks."""
    store = _store(folder)
    stored = store.manifests.read(ModelName.parse(name))
    path = store.blobs.local_path(stored.manifest.layers[0].digest)
    network = passes.Network(str(path), CHUNK, 1)
    chunks = network.chunks((folder / "text.txt").read_bytes(), 2)
    network.close()
    return path, np.concatenate(chunks.tokens)


def test_sums_are_those_of_the_activations(folder: Path, tmp_path: Path) -> None:
    """What the first layer's weights meet can be computed here: normed rows of embeddings."""
    output = tmp_path / "x.gguf"
    work = make_imatrix(_store(folder), ModelName.parse("dense"), folder / "text.txt", output, 0, 1)
    made, seen = _done(work)
    whole = seen[-1].total  # bytes of the text, of which two chunks are the most
    assert seen == [Progress(whole // 2, whole), Progress(whole, whole)]
    assert 0.5 < whole / (folder / "text.txt").stat().st_size <= 1
    assert made.chunks == 2 and not made.unseen
    path, tokens = _tokens(folder, "dense")
    with open_gguf(path) as file:
        values = {t.name: np.frombuffer(t.load(), np.float32).reshape(t.dims[::-1])
                  for t in file.model().tensors
                  if t.name in ("token_embd.weight", "blk.0.attn_norm.weight")}  # fmt: skip
        epsilon = file.get("qwen2.attention.layer_norm_rms_epsilon")
        layers = file.get("qwen2.block_count")
    rows = values["token_embd.weight"][tokens].astype(np.float64)
    rows /= np.sqrt((rows**2).mean(1, keepdims=True) + epsilon)
    rows *= values["blk.0.attn_norm.weight"]
    expected = (rows**2).sum(0) / len(tokens)
    matrix = open_imatrix(output)
    assert matrix.chunks == 2 and matrix.dataset == "text.txt"
    assert len(matrix.entries) == made.tensors == 7 * layers
    found = matrix.of("blk.0.attn_q.weight", (256, 256))
    assert found is not None
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_the_file_is_one_that_quantizes(folder: Path, tmp_path: Path) -> None:
    """By --imatrix; made again it is up to date and the same bytes."""
    output = tmp_path / "x.gguf"
    command = [sys.executable, "-m", "mbuild", "--store", str(folder / "store")]
    arguments = ["imatrix", "dense", "--text", str(folder / "text.txt"), "-o", str(output)]
    for state in ("written", "is up to date"):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0 and state in done.stderr, done.stderr
    before = output.read_bytes()
    output.unlink()
    subprocess.run([*command, *arguments], check=True, capture_output=True)
    assert output.read_bytes() == before
    (tmp_path / "Modelfile").write_text("FROM dense\n")
    build = [*command, "-q", "q4_K_M", "--imatrix", str(output), "-t", "small"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_text_comes_from_a_pipe(folder: Path, tmp_path: Path) -> None:
    """As ``-``: the numbers are those of the file, the matrix says where its text came from."""
    command = [sys.executable, "-m", "mbuild", "--store", str(folder / "store")]
    data = (folder / "text.txt").read_bytes()

    def run(given: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, *arguments], input=given, capture_output=True)

    outputs = {str(folder / "text.txt"): tmp_path / "there.gguf", "-": tmp_path / "piped.gguf"}
    for text, output in outputs.items():
        done = run(data, "imatrix", "dense", "--text", text, "--chunks", "1", "-o", str(output))
        assert done.returncode == 0, done.stderr
    made = [open_imatrix(output) for output in outputs.values()]
    assert [each.dataset for each in made] == ["text.txt", "standard input"]
    there, piped = (each.of("blk.0.attn_q.weight", (256, 256)) for each in made)
    assert there is not None and piped is not None
    np.testing.assert_array_equal(there[0], piped[0])
    common = ("measure", "dense", "--chunks", "1", "--format", "json", "--text")
    measured = [json.loads(run(data, *common, text).stdout) for text in outputs]
    assert measured[0]["perplexity"] == measured[1]["perplexity"]
    done = run(b"\xff", *common, "-")
    assert done.returncode == 1 and b"standard input is not UTF-8" in done.stderr


def test_a_matrix_is_written_beside_what_is_there(folder: Path, tmp_path: Path) -> None:
    """No other file is touched, and one that cannot be written is an error that names it."""
    other, output = tmp_path / "x.gguf.part", tmp_path / "x.gguf"
    other.write_text("the user's")
    name, text = ModelName.parse("dense"), folder / "text.txt"
    _done(make_imatrix(_store(folder), name, text, output, 1, 1))
    assert {path.name for path in tmp_path.iterdir()} == {"x.gguf", "x.gguf.part"}
    assert other.read_text() == "the user's"
    gone = tmp_path / "gone" / "x.gguf"
    with pytest.raises(StoreError, match=re.escape(f"{gone}: there is no such folder")):
        _done(make_imatrix(_store(folder), name, text, gone, 1, 1))


def test_what_is_no_matrix_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    """The text itself, a model, notes; nothing is computed before that is said."""
    name, text = ModelName.parse("dense"), tmp_path / "text.txt"
    text.write_bytes((folder / "text.txt").read_bytes())
    weights = tmp_path / "model.gguf"
    weights.write_bytes(Path(_tokens(folder, "dense")[0]).read_bytes())
    for output in (text, weights):
        before = output.read_bytes()
        work = make_imatrix(_store(folder), name, text, output, 1, 1)
        with pytest.raises(UsageError, match="not an importance matrix: it is not replaced"):
            next(work)
        assert output.read_bytes() == before
    with pytest.raises(StoreError, match="it is a folder, name a file in it"):
        next(make_imatrix(_store(folder), name, text, tmp_path, 1, 1))
    output = tmp_path / "x.gguf"
    for chunks in (1, 2):  # its own file is replaced
        assert (
            _done(make_imatrix(_store(folder), name, text, output, chunks, 1))[0].chunks == chunks
        )


def test_experts_have_counts_of_their_own(folder: Path, tmp_path: Path) -> None:
    """Each row goes to two of them; experts that no row reached are named."""
    output = tmp_path / "x.gguf"
    name = ModelName.parse("experts")
    made, _ = _done(make_imatrix(_store(folder), name, folder / "text.txt", output, 1, 1))
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(output).tensors}
    counts = tensors["blk.0.ffn_up_exps.weight.counts"].reshape(-1)
    sums = tensors["blk.0.ffn_up_exps.weight.in_sum2"].reshape(len(counts), -1)
    dense = tensors["blk.0.attn_q.weight.counts"].reshape(-1)
    assert counts.sum() == 2 * CHUNK and dense.tolist() == [CHUNK]
    unseen = np.flatnonzero(counts == 0).tolist()
    assert made.unseen.get("blk.0.ffn_up_exps.weight", []) == unseen
    assert not sums[unseen].any() and sums[counts > 0].all()


def test_a_model_is_as_far_from_itself_as_nothing(folder: Path) -> None:
    """And a quantized one farther; what was measured is remembered."""
    store, text = _store(folder), folder / "text.txt"
    names = [ModelName.parse(name) for name in ("dense", "dense-q4", "experts")]
    (same, cached), _ = _done(measure(store, names[0], names[0], text, 1, 1))
    assert not cached and (same.mean_kld, same.max_kld, same.same_top) == (0, 0, 1)
    assert same.positions == 255 and same.perplexity == same.base_perplexity
    (worse, _), _ = _done(measure(store, names[1], names[0], text, 1, 1))
    assert worse.mean_kld and worse.kld_99 and 0 < worse.mean_kld < worse.kld_99
    assert worse.base_perplexity == pytest.approx(same.perplexity)
    (again, cached), seen = _done(measure(store, names[1], names[0], text, 1, 1))
    assert cached and again == worse and not seen
    (alone, _), _ = _done(measure(store, names[1], None, text, 1, 1))
    assert alone.perplexity == pytest.approx(worse.perplexity)
    with pytest.raises(UsageError, match="kld compares two models"):
        alone.value("kld")


def test_a_gate_that_fails_is_a_failure(folder: Path) -> None:
    """Status 1 and by how much; as JSON each check says what it saw."""
    command = [sys.executable, "-m", "mbuild", "--store", str(folder / "store"), "measure"]
    common = ["dense", "--text", str(folder / "text.txt"), "--chunks", "1", "--against", "dense"]
    done = subprocess.run(
        [*command, *common, "--check", "perplexity < 1.5", "--check", "kld < 0.05"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "the check perplexity < 1.5 fails: it is" in done.stderr
    assert "kld < 0.05" not in done.stderr and "same top     100.00 %" in done.stdout
    done = subprocess.run(
        [*command, *common, "--check", "kld <= 0", "--format", "json"],
        capture_output=True,
        text=True,
    )
    (check,) = json.loads(done.stdout)["checks"]
    assert done.returncode == 0 and check["passed"] and check["value"] == 0


@pytest.mark.parametrize("text", ["kld", "kld < x", "speed < 1", "kld = 1", ""])
def test_what_is_no_gate_is_refused(text: str) -> None:
    """With the metrics that there are."""
    with pytest.raises(UsageError, match="is not a check") as caught:
        Bound.parse(text)
    assert "perplexity, kld, kld99, same_top" in caught.value.hint


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_that_needs_another_model_is_refused_at_once(metric: str, folder: Path) -> None:
    """Before anything is read: neither the model nor the text is there."""
    command = [sys.executable, "-m", "mbuild", "--store", str(folder / "store"), "measure"]
    common = ["nope", "--text", str(folder / "no.txt"), "--check", f"{metric} < 1"]
    done = subprocess.run([*command, *common], capture_output=True, text=True)
    alone = metric == "perplexity"
    assert (f"{metric} compares two models" in done.stderr) is not alone
    assert ("--against" in done.stderr) is not alone and done.returncode == (1 if alone else 2)


def test_gates_compare() -> None:
    """With each of the four relations."""
    rows = [("<", 1, 2), ("<=", 2, 2), (">", 3, 2), (">=", 2, 2)]
    assert all(Bound.parse(f"kld {r} {bound}").passes(value) for r, value, bound in rows)
    assert not Bound.parse("kld < 2").passes(2) and not Bound.parse("kld > 2").passes(2)


def test_texts_that_are_too_short_are_refused(folder: Path, tmp_path: Path) -> None:
    """As llama.cpp's tools refuse them; the error counts the tokens."""
    text = tmp_path / "short.txt"
    text.write_text("x")
    work = make_imatrix(_store(folder), ModelName.parse("dense"), text, tmp_path / "x.gguf", 0, 1)
    with pytest.raises(UsageError, match="tokens, and 1024 are needed"):
        _done(work)
    assert not (tmp_path / "x.gguf").exists()


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40))
def test_probabilities_add_up_to_one(logits: list[float]) -> None:
    """In float64, also for logits that are far apart."""
    found = log_softmax(np.array(logits, np.float32))
    assert math.fsum(np.exp(found)) == pytest.approx(1)


def test_divergence_and_loss_are_by_hand() -> None:
    """Two positions of two words."""
    tally = Tally()
    even, tilted = np.zeros(2, np.float32), np.array([math.log(3), 0], np.float32)
    tally.add(even, 0, tilted)
    tally.add(tilted, 1, tilted)
    found = tally.quality()
    assert found.perplexity == pytest.approx(math.sqrt(2 * 4))
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found.mean_kld == pytest.approx(divergence / 2)
    assert found.max_kld == pytest.approx(divergence)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a structure is not as it is declared: no crash, and what to install."""
    binding.open_library.cache_clear()
    monkeypatch.setitem(binding._CONTEXT_DEFAULTS, "n_batch", 7)
    with pytest.raises(EngineError, match="its n_batch is 2048, not 7") as caught:
        binding.open_library()
    assert "pip install" in caught.value.hint
    monkeypatch.setitem(binding._CONTEXT_DEFAULTS, "n_batch", 2048)
    monkeypatch.setattr(binding, "OBJECT_BYTES", 8)
    with pytest.raises(EngineError, match="tensors have another size"):
        binding.open_library()
    binding.open_library.cache_clear()


def test_names_are_what_a_backend_put_around_them() -> None:
    """Prefix and suffix are taken off."""
    tensor = binding.GGMLTensor()
    for text in (b"CPU#blk.0.attn_q.weight#0", b"blk.0.attn_q.weight"):
        tensor.name = text
        assert importances._name(tensor) == "blk.0.attn_q.weight"


def test_the_program_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    """Of a job that cannot be done: an error and its remedy as JSON, and no traceback."""
    (tmp_path / "text").write_text("x")
    (tmp_path / "m.gguf").write_bytes(b"no model")
    job = measure_job(str(tmp_path / "m.gguf"), None, str(tmp_path / "text"), 0, 1)
    done = subprocess.run(
        [sys.executable, "-m", program.__name__],
        input=json.dumps(job) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "cannot be loaded" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


def test_the_key_has_what_changes_the_last_digits() -> None:
    """The engine's version and what of the processor it uses."""
    assert re.match(r"xllamacpp 20\d\d\.\d+\.\d+ .*AVX2? = 1|xllamacpp .* NEON", engine_features())


def test_the_page_s_commands_run(folder: Path, tmp_path: Path) -> None:
    """Each command of docs/measure.md prints what the page shows."""
    import shutil

    from documents import documented

    shutil.copytree(folder / "store", tmp_path / "store")
    store = ["--store", str(tmp_path / "store")]
    copy = [sys.executable, "-m", "mbuild", "cp", "dense", "base", *store]
    subprocess.run(copy, check=True, capture_output=True)
    (tmp_path / "work").mkdir()
    shutil.copyfile(folder / "text.txt", tmp_path / "work" / "calibration.txt")
    documented("measure.md", tmp_path)
