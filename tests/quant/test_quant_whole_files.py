"""Whole files are llama-quantize's, byte for byte: metadata, order, every tensor's type and data.

The reference is ``llama_model_quantize`` of llama.cpp's build b11739 (October 2026), over the
unquantized model that mbuild makes of the same generated checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from checkpoints import FAMILIES, write_family
from gguf_files import gguf_bytes
from inprocess import in_process
from installed import llama_cpp
from llama_quantize import Job, quantize
from quant_data import X86_REFERENCE, imatrix_bytes

from mbuild.gguf.reader import open_gguf
from mbuild.gguf.split import by_layers, split
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.types import file_type

G = GGMLType

pytestmark = X86_REFERENCE

K_TYPES = ["Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K"]
SMALL_BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
SLOW = ["IQ4_NL", "IQ4_XS"]
OTHERS = ["TQ1_0", "TQ2_0", "MXFP4_MOE", "F16", "F32"]
TYPES = {
    "grouped": [*K_TYPES, "Q8_0"],
    "falcon": ["Q2_K", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_M"],
    "fused": [*K_TYPES, *SMALL_BLOCKS],
}
"""The types of families that do not get them all: what fits, and what has rules for them."""
EVERY = [*K_TYPES, *SMALL_BLOCKS, *SLOW, *OTHERS]
WEIGHTED = [
    "IQ1_M",
    "Q2_K_S",
    "IQ2_XXS",
    "IQ3_XS",
    "IQ3_M",
    "Q4_0",
    "Q5_0",
    "Q4_K_M",
    "Q2_K",
    "IQ4_XS",
]
"""Types that need importances or make something else of them."""

ATTN = r"blk\.[02]\.attn_(q|k)"
OPTIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "pure": (["--pure"], {"pure": True}),
    "pure but named tensors": (
        ["--pure", "--tensor-type", "attn_v=q8_0", "--tensor-type", f"{ATTN}=f16"],
        {"pure": True, "tensor_types": [("attn_v", G.Q8_0), (ATTN, G.F16)]},
    ),
    "tensor types": (
        ["--tensor-type", "attn_v=q8_0", "--tensor-type", f"{ATTN}=f16", "--tensor-type", "q=q6_K"],
        {"tensor_types": [("attn_v", G.Q8_0), (ATTN, G.F16), ("q", G.Q6_K)]},
    ),
    "output": (["--output-tensor-type", "f32"], {"output_tensor_type": G.F32}),
    "embedding": (["--token-embedding-type", "q5_1"], {"token_embedding_type": G.Q5_1}),
    "four-bit floats": (
        ["--tensor-type", "ffn_down=nvfp4", "--tensor-type", "attn_q=mxfp4"],
        {"tensor_types": [("ffn_down", G.NVFP4), ("attn_q", G.MXFP4)]},
    ),
    "left": (["--leave-output-tensor"], {"leave_output_tensor": True}),
    "several": (
        ["--output-tensor-type", "f16", "--tensor-type", "ffn_(up|down)=q3_K"],
        {"output_tensor_type": G.F16, "tensor_types": [("ffn_(up|down)", G.Q3_K)]},
    ),
}
"""What the command line is told, and what the reference."""


class Model(NamedTuple):
    """A checkpoint in a folder, and its unquantized model, from which the reference starts."""

    folder: Path
    unquantized: Path
    layer: Callable[..., list[Path]]

    def compare(
        self, types: Sequence[str], words: Sequence[str] = (), job: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Quantize both ways; what differs."""
        ours = self.layer(types, *words)
        theirs = [self.folder / f"{type_}.gguf" for type_ in types]
        source = str(self.unquantized)
        numbers = [file_type(type_).number for type_ in types]
        rows = zip(theirs, numbers, strict=True)
        jobs = [Job(source, str(target), number, **(job or {})) for target, number in rows]
        quantize(jobs, llama_cpp())
        found = zip(types, ours, theirs, strict=True)
        return [f"{type_}: {line}" for type_, a, b in found for line in differences(a, b)]


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs between two files; empty if their bytes are the same."""
    if ours.read_bytes() == theirs.read_bytes():
        return []
    described = []
    for path in (ours, theirs):
        with open_gguf(path) as file:
            model = file.model()
            lines = [f"{kv.key} = {kv.value}" for kv in model.metadata]
            lines += [f"{t.name} {t.type.name} {t.dims}" for t in model.tensors]
            described.append((lines, {t.name: bytes(t.load()) for t in model.tensors}))
    (a, data), (b, other) = described
    found = [f"-{line}" for line in b if line not in a]
    found += [f"+{line}" for line in a if line not in b]
    found += [f"bytes of {name}" for name in data if data[name] != other.get(name)]
    return found or ["the order or the padding"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """Generates a checkpoint and builds it without quantization."""
    mbuild = in_process(tmp_path, monkeypatch)

    def layers(types: Sequence[str], *words: str) -> list[Path]:
        asked = [word for type_ in types for word in ("-q", type_)]
        done = mbuild("-t", "m:{quant}" if types else "m", "--pre", "gpt-2", *asked, *words)
        assert done.returncode == 0, done.stderr
        return [_weights(tmp_path / "store", tag) for tag in types or ["latest"]]

    def make(name: str) -> Model:
        write_family(tmp_path / "checkpoint", FAMILIES[name])
        (tmp_path / "Modelfile").write_text("FROM ./checkpoint\n")
        return Model(tmp_path, layers([])[0], layers)

    return make


def _weights(store: Path, tag: str) -> Path:
    manifest = store / "manifests/registry.ollama.ai/library/m" / tag
    (layer,) = [
        layer
        for layer in json.loads(manifest.read_text())["layers"]
        if layer["mediaType"].endswith(".model")
    ]
    return store / "blobs" / str(layer["digest"]).replace(":", "-")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_type(model: Callable[[str], Model], name: str) -> None:
    """Of each family all file types that need no importance matrix give llama-quantize's file."""
    assert model(name).compare(TYPES.get(name, EVERY)) == []


@pytest.mark.parametrize("name", ["3 experts", "grouped", "tied"])
def test_one_bit_and_two(model: Callable[[str], Model], name: str) -> None:
    """Q1_0's and Q2_0's files are llama-quantize's; that refuses Q1_0 where rows do not divide."""
    assert model(name).compare(["Q1_0", "Q2_0"]) == []


def test_two_bits_where_rows_do_not_divide(model: Callable[[str], Model]) -> None:
    """Rows that no block of Q2_0 divides get Q4_0, or F16."""
    assert model("odd").compare(["Q2_0"]) == []


@pytest.mark.parametrize("name", ["3 experts", "tied"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options(model: Callable[[str], Model], name: str, option: str) -> None:
    """The options that change a recipe change it as llama-quantize's do."""
    words, job = OPTIONS[option]
    assert model(name).compare(["Q4_K_M", "Q3_K_L", "Q8_0"], words, job) == []


@pytest.mark.parametrize("option", ["tensor types", "output", "embedding", "left"])
def test_options_where_rows_do_not_divide(model: Callable[[str], Model], option: str) -> None:
    """Types that options name fall back as in llama-quantize where rows do not divide."""
    words, job = OPTIONS[option]
    assert model("odd").compare(["Q4_K_M", "Q3_K_L"], words, job) == []


def test_pure_where_rows_do_not_divide(model: Callable[[str], Model]) -> None:
    """Rows that the one type does not divide get what it falls back to, or F16."""
    assert model("odd").compare(EVERY, *OPTIONS["pure"]) == []


def importances(
    made: Model, used: Callable[[str], bool] = lambda name: True
) -> tuple[list[str], dict[str, Any]]:
    """An importance matrix of a model: the flag, and what llama-quantize makes of it, where of its
    entries those that are ``used`` count."""
    with open_gguf(made.unquantized) as file:
        shapes = {t.name: (t.dims[0], t.dims[2] if len(t.dims) > 2 else 1) for t in file.tensors}
    r = np.random.default_rng(0)
    sums = {
        name: (r.random(size[::-1]) ** 2).astype(np.float32)
        for name, size in shapes.items()
        if "blk." in name and name.endswith("weight") and "norm" not in name
    }
    path = made.folder / "importances.gguf"
    path.write_bytes(imatrix_bytes({n: (s, np.ones(len(s))) for n, s in sums.items()}))
    counted = {n: s.reshape(-1).tolist() for n, s in sums.items() if used(n)}
    job = {
        "importances": counted,
        "metadata": {
            "quantize.imatrix.file": str(path),
            "quantize.imatrix.dataset": "wiki.txt",
            "quantize.imatrix.entries_count": len(counted),
            "quantize.imatrix.chunks_count": 40,
        },
    }
    return ["--imatrix", str(path)], job


@pytest.mark.parametrize("name", ["3 experts", "narrow"])
def test_an_importance_matrix(model: Callable[[str], Model], name: str) -> None:
    """With an importance matrix too, for types that need one and for types that use one."""
    made = model(name)
    assert made.compare(WEIGHTED, *importances(made)) == []


@pytest.mark.parametrize("flag", ["--include-weights", "--exclude-weights"])
def test_a_part_of_an_importance_matrix(model: Callable[[str], Model], flag: str) -> None:
    """Entries with one of the texts in their names count alone, or do not count at all."""
    made, texts = model("tied"), ("attn_q", "blk.1.")

    def used(name: str) -> bool:
        return any(text in name for text in texts) is (flag == "--include-weights")

    words, job = importances(made, used)
    words += [word for text in texts for word in (flag, text)]
    assert made.compare(["Q4_K_M", "IQ4_XS", "Q5_0"], words, job) == []


@pytest.mark.parametrize("weighted", [False, True])
def test_layers_that_are_pruned(model: Callable[[str], Model], weighted: bool) -> None:
    """The others move up and take the importances of their old numbers along; types are chosen as
    llama-quantize does, which counts the layers before it prunes them."""
    made = model("grouped")
    words, job = importances(made) if weighted else ([], {})
    job |= {"prune_layers": [0, 5, 6, 15]}
    words += ["--prune-layers", "0,5-6,15"]
    assert made.compare(["Q4_K_M", "Q3_K_L", "Q8_0"], words, job) == []


@pytest.mark.parametrize("empty_first", [True, False])
def test_shards_that_are_kept(
    model: Callable[[str], Model],
    empty_first: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --keep-split each shard is llama-quantize's, its tensors in the order of the source."""
    types = ["Q4_K_M", "Q3_K_L", "Q8_0"]
    with open_gguf(model("3 experts").unquantized) as file:
        whole = file.model()
        counts = by_layers(whole.tensors, 1)
        counts = counts if empty_first else counts[1:]
        for number, shard in enumerate(split(whole, counts), start=1):
            name = f"s-{number:05d}-of-{len(counts):05d}.gguf"
            (tmp_path / name).write_bytes(gguf_bytes(shard))
    first = tmp_path / f"s-00001-of-{len(counts):05d}.gguf"
    rows = [(tmp_path / f"theirs-{type_}", file_type(type_).number) for type_ in types]
    quantize([Job(str(first), str(t), n, keep_split=True) for t, n in rows], llama_cpp())
    (tmp_path / "Modelfile").write_text("FROM ./s-*.gguf\n")
    mbuild = in_process(tmp_path, monkeypatch)
    for type_ in types:
        done = mbuild("-t", "kept", "-q", type_, "--keep-split")
        assert done.returncode == 0, done.stderr
        done = mbuild("export", "kept", "--raw", "-o", f"ours-{type_}.gguf")
        assert done.returncode == 0, done.stderr
        ours = sorted(tmp_path.glob(f"ours-{type_}-*.gguf"))
        theirs = sorted(tmp_path.glob(f"theirs-{type_}-*.gguf"))
        assert len(ours) == len(theirs) == len(counts)
        assert [
            line for pair in zip(ours, theirs, strict=True) for line in differences(*pair)
        ] == []
