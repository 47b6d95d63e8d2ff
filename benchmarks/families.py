"""Every family in llama.cpp: does what mbuild converts load there, and does it generate?

    python benchmarks/families.py [NAME...]

The checkpoints are those of ``tests/data/convert``. llama.cpp's converter makes the same keys and
tensors of them (``tests/convert/test_convert.py`` compares them byte for byte); the vocabulary is
one of single bytes for all. Each is converted and run in llama.cpp (PyPI's ``xllamacpp``, a
development dependency), in a process of its own, which a model that it cannot run may end: eight
greedy tokens after a prompt, or an embedding. Prints a line for each checkpoint, and the counts. A
draft runs only beside its target, and some of these sizes are too small for llama.cpp.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from checkpoints import DATA, files_of, write_checkpoint
from llama_runs import byte_level_tokenizer, embed, generate

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import BareModel, convert_body
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.errors import MbuildError
from mbuild.gguf.model import KV, Model
from mbuild.gguf.types import ValueType
from mbuild.gguf.writer import write

TOKENS = 8
PROMPT = (5, 6, 7, 8)


def model_of(folder: Path, spec: dict[str, Any]) -> tuple[BareModel, Model]:
    """A checkpoint's model, with a token of one byte for each row of its embedding."""
    body = convert_body(open_checkpoint("tiny", write_checkpoint(folder, spec)))
    shape = body.described.shapes.get("token_embd.weight", (body.hyper.config.get("vocab_size"),))
    count = shape[0]
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(int(count or 80))))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokens = vocabulary(files_of(folder), {"vocab_size": count}, BPE, pre="gpt-2")
    types = body.hyper.config.get("type_vocab_size")
    if type(types) is int:
        tokens.append(KV("tokenizer.ggml.token_type_count", ValueType.UINT32, types))
    known = {kv.key for kv in body.keys}
    entries = (
        KV("general.architecture", ValueType.STRING, body.hyper.arch),
        *body.early,
        *body.keys,
        *(kv for kv in tokens if kv.key not in known),
    )
    return body, Model(entries, body.tensors)


def outcome(folder: Path, spec: dict[str, Any]) -> tuple[str, str]:
    """The architecture, and what became of the model in llama.cpp."""
    try:
        body, model = model_of(folder / "checkpoint", spec)
    except MbuildError as error:
        return str(spec["arch"]), f"refused: {error.message[:80]}"
    path = folder / "model.gguf"
    with path.open("wb") as file:
        write(model, file.write)
    encodes = any(kv.key.endswith("attention.causal") and not kv.value for kv in body.keys)
    try:
        if encodes:
            return body.hyper.arch, "embeds" if embed(path, ["hi"])[0] else "nothing"
        (steps,) = generate(path, [PROMPT], TOKENS)
        return body.hyper.arch, "generates" if len(steps) == TOKENS else f"{len(steps)} tokens"
    except AssertionError as error:
        lines = [line for line in str(error).splitlines() if ": error loading" in line]
        lines += [line for line in str(error).splitlines() if " E " in line]
        return body.hyper.arch, f"fails: {(lines or ['?'])[0][-120:]}"
    except subprocess.TimeoutExpired:
        return body.hyper.arch, "fails: takes too long"


def main(names: list[str]) -> int:
    """Print what becomes of each; the exit status."""
    found: dict[str, tuple[str, str]] = {}
    for name in names or sorted(path.stem for path in DATA.glob("*.json")):
        spec = json.loads((DATA / f"{name}.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            found[name] = outcome(Path(folder), spec)
        print(name, *found[name], flush=True)
    said = Counter(what.partition(":")[0] for _, what in found.values())
    running = {arch for arch, what in found.values() if what in ("generates", "embeds")}
    print(
        f"{dict(said)}; {len(running)} architectures run of {len({a for a, _ in found.values()})}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
