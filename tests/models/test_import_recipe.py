"""Recipes read out of quantized files: what they give is what the files have."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Run
from documents import documented
from example_models import write_chat
from gguf_files import entry, gguf_bytes, tensor, tiny_model
from inprocess import in_process
from stores import copy_tiny_store

from mbuild.core.errors import MbuildError
from mbuild.gguf.types import GGMLType
from mbuild.models.compare.recipe import infer
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.patterns import parse_tensor_type
from mbuild.quant.choose.recipes import plan
from mbuild.quant.choose.types import FILE_TYPES, FileType, file_type, tensor_type


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


class Row(NamedTuple):
    """A tensor as far as recipes look at it."""

    name: str
    dims: tuple[int, ...]
    type: GGMLType


def llama(layers: int, *, experts: int = 0, tied: bool = False, width: int = 512) -> list[Row]:
    """The tensors of a Llama."""
    rows = [Row("token_embd.weight", (width, 1000), GGMLType.F16)]
    if not tied:
        rows.append(Row("output.weight", (width, 1000), GGMLType.F16))
    rows.append(Row("output_norm.weight", (width,), GGMLType.F32))
    stack = (experts,) if experts else ()
    ending = "_exps.weight" if experts else ".weight"
    for number in range(layers):
        at = f"blk.{number}."
        rows.append(Row(at + "attn_norm.weight", (width,), GGMLType.F32))
        rows += [
            Row(f"{at}attn_{k}.weight", (width, width), GGMLType.F16)
            for k in ("q", "k", "v", "output")
        ]
        rows += [
            Row(f"{at}ffn_{k}{ending}", (width, width, *stack), GGMLType.F16)
            for k in ("gate", "up", "down")
        ]
    return rows


def metadata(architecture: str, layers: int, **more: Any) -> dict[str, Any]:
    """What the rules ask of a model."""
    values = {
        "general.architecture": architecture,
        f"{architecture}.block_count": layers,
        f"{architecture}.attention.head_count": 8,
        f"{architecture}.attention.head_count_kv": 2,
    }
    return {**values, **more}


def quantized(rows: Sequence[Row], values: dict[str, Any], options: Quantization) -> list[Row]:
    """The rows with the types that a recipe gives them."""
    return [row._replace(type=new) for row, new in plan(rows, values.get, options)]


def check(before: Sequence[Row], after: Sequence[Row], values: dict[str, Any]) -> int:
    """Assert that the flags found for ``after`` make it of ``before``; how many patterns."""
    found = infer(after, values.get)
    assert found.wrong == ()
    made = quantized(before, values, options_of(found.flags()))
    assert {row.name: row.type for row in made} == {row.name: row.type for row in after}
    return len(found.quantization.tensor_types)


def options_of(flags: Sequence[str]) -> Quantization:
    """The planner's options from the printed flags."""
    fields: dict[str, Any] = {"file_type": file_type(flags[1])}
    named = []
    words = iter(flags[2:])
    for word in words:
        match word:
            case "--pure":
                fields["pure"] = True
            case "--leave-output-tensor":
                fields["leave_output_tensor"] = True
            case "--recipe" | "--imatrix":
                fields[word[2:]] = next(words)
            case "--output-tensor-type":
                fields["output_tensor_type"] = tensor_type(next(words))
            case "--token-embedding-type":
                fields["token_embedding_type"] = tensor_type(next(words))
            case "--tensor-type":
                named.append(parse_tensor_type(next(words)))
            case _:
                raise AssertionError(word)
    return Quantization(tensor_types=tuple(named), **fields)


@pytest.mark.parametrize(
    ("type_", "stated"),
    [*((type_, True) for type_ in FILE_TYPES), *((type_, False) for type_ in FILE_TYPES[2::4])],
    ids=str,
)
def test_every_file_type_is_recognized(type_: FileType, stated: bool) -> None:
    """For each file type of llama-quantize no tensor has to be named apart."""
    models = [(12, 0, False), (9, 8, True)]
    for layers, experts, tied in [*models, (80, 0, False)] if stated else models:
        rows = llama(layers, experts=experts, tied=tied)
        values = metadata("llama", layers, **{"llama.expert_count": experts})
        after = quantized(rows, values, Quantization(type_, imatrix="m"))
        if stated:
            values["general.file_type"] = type_.number
        patterns = check(rows, after, values)
        assert patterns == 0 or not stated


@pytest.mark.parametrize("seed", range(12))
def test_any_mixture_of_types_is_reproduced(seed: int) -> None:
    """Each tensor of a type of its own, as in hand-made recipes: all of them come back."""
    chance = random.Random(seed)
    layers = chance.choice([1, 5, 16])
    rows = llama(layers, tied=chance.random() < 0.3, experts=chance.choice([0, 0, 4]))
    values = metadata("llama", layers)
    start = file_type(chance.choice(["q4_K_M", "q5_K_S", "q8_0", "q2_K", "iq4_xs"]))
    after = quantized(rows, values, Quantization(start, imatrix="m"))
    kinds = [GGMLType.Q8_0, GGMLType.Q6_K, GGMLType.IQ3_S, GGMLType.F16, GGMLType.Q4_K]
    share = chance.choice([0.05, 0.3, 1.0])
    after = [
        row._replace(type=chance.choice(kinds))
        if row.type is not GGMLType.F32 and chance.random() < share
        else row
        for row in after
    ]
    values["general.file_type"] = start.number
    check(rows, after, values)


def test_flags_of_llama_quantize_come_back_as_they_were() -> None:
    """Output, embeddings, --pure, Ollama's exceptions: recognized as such, not spelled out."""
    rows, values = llama(8), metadata("llama", 8, **{"general.file_type": 15})
    kind = file_type("q4_K_M")
    cases: list[tuple[Quantization, list[str]]] = [
        (Quantization(kind), []),
        (Quantization(kind, pure=True), ["--pure"]),
        (Quantization(kind, leave_output_tensor=True), ["--leave-output-tensor"]),
        (Quantization(kind, output_tensor_type=GGMLType.Q8_0), ["--output-tensor-type", "q8_0"]),
        (
            Quantization(kind, token_embedding_type=GGMLType.Q5_1),
            ["--token-embedding-type", "q5_1"],
        ),
        (
            Quantization(kind, tensor_types=(("ffn_up", GGMLType.Q8_0),)),
            ["--tensor-type", r"^blk\.[0-9]+\.ffn_up\.weight$=q8_0"],
        ),
        (
            Quantization(kind, tensor_types=((r"blk\.[35]\.ffn_up", GGMLType.Q8_0),)),
            ["--tensor-type", r"^blk\.(3|5)\.ffn_up\.weight$=q8_0"],
        ),
    ]
    for options, flags in cases:
        found = infer(quantized(rows, values, options), values.get)
        assert (found.flags()[2:], found.wrong) == (flags, ()), options
    rows = [*rows, Row("blk.0.attn_kv_a_mqa.weight", (512, 512), GGMLType.F16)]
    values = metadata("deepseek2", 8, **{"general.file_type": 15})
    found = infer(quantized(rows, values, Quantization(kind, "ollama")), values.get)
    assert found.flags()[2:] == ["--recipe", "ollama"]


def test_rows_that_do_not_divide_fall_back_as_they_did() -> None:
    """Widths that are no multiple of 256 or of 32 need no names either."""
    for width in (96, 320, 100):
        rows, values = llama(6, width=width), metadata("llama", 6)
        for name in ("q4_K_M", "q6_K", "iq4_xs"):
            try:
                after = quantized(rows, values, Quantization(file_type(name)))
            except MbuildError:
                continue
            stated = {**values, "general.file_type": file_type(name).number}
            assert check(rows, after, stated) == 0


def test_the_printed_command_builds_the_same_bytes(mbuild: Run, tmp_path: Path) -> None:
    """Quantize with flags, read the recipe, run what it prints: one and the same model."""
    copy_tiny_store(tmp_path / "store")
    flags = ["-q", "q4_0", "--tensor-type", "attn_v=q8_0", "--token-embedding-type", "q5_0"]
    done = mbuild("-f", "-", "-t", "theirs", *flags, input="FROM tiny\n")
    assert done.returncode == 0, done.stderr
    assert mbuild("export", "theirs", "--raw", "-o", "theirs.gguf").returncode == 0
    done = mbuild("import-recipe", "theirs.gguf", "--from", "tiny")
    assert done.returncode == 0
    (tmp_path / "Modelfile").write_text(done.stdout)
    command = done.stdout.partition("#\n")[2].partition("# It gives")[0]
    words = shlex.split(command.replace("#  ", "").replace("\\\n", ""))
    assert words[0] == "mbuild"
    done = mbuild(*words[1:], "-t", "ours")
    assert done.returncode == 0, done.stderr
    layers = [
        json.loads(mbuild("show", name, "--json").stdout)["layers"][0]["digest"]
        for name in ("theirs", "ours")
    ]
    assert layers[0] == layers[1]


def test_a_split_model_has_the_recipe_of_the_whole_file(mbuild: Run, tmp_path: Path) -> None:
    """Any of its shards stands for all; one that is missing is named."""
    write_chat(tmp_path / "chat", LAYERS=2)
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    assert mbuild("-t", "m", "-q", "q4_K_M", "--split-layers", "1").returncode == 0
    assert mbuild("export", "m", "--raw", "-o", "m.gguf").returncode == 0
    assert mbuild("export", "m", "--raw", "--merge", "-o", "whole.gguf").returncode == 0
    whole, *parts = (
        json.loads(mbuild("import-recipe", name, "--format", "json").stdout)
        for name in ("whole.gguf", "m-00001-of-00003.gguf", "m-00003-of-00003.gguf")
    )
    assert parts == [whole, whole]
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    done = mbuild("import-recipe", "m-00001-of-00003.gguf")
    assert done.returncode == 1
    assert "1 of 3 shards are missing: m-00002-of-00003.gguf" in done.stderr


def test_files_that_are_no_models_are_refused(mbuild: Run, tmp_path: Path) -> None:
    """Foreign files, no tensors; a tensor type that no flag gives is named and fails."""
    (tmp_path / "x.gguf").write_bytes(b"hello" * 100)
    assert mbuild("import-recipe", "x.gguf").returncode == 1
    assert mbuild("import-recipe", "none.gguf").returncode == 1
    (tmp_path / "empty.gguf").write_bytes(gguf_bytes(tiny_model(tensors=[])))
    assert "no tensors" in mbuild("import-recipe", "empty.gguf").stderr
    rows = [
        tensor("blk.0.ATTN_Q.weight", (256, 8), GGMLType.Q8_0),
        tensor("blk.0.attn_v.weight", (256, 8), GGMLType.Q4_0),
    ]
    url = "general.source.repo_url"
    model = tiny_model(tensors=rows, metadata={url: entry(url, "https://x.test/\x1b[2J")})
    (tmp_path / "odd.gguf").write_bytes(gguf_bytes(model))
    done = mbuild("import-recipe", "odd.gguf")
    assert "comes from https://x.test/\\x1b[2J" in done.stdout
    value = json.loads(mbuild("import-recipe", "odd.gguf", "--format", "json").stdout)
    assert done.returncode == (1 if value["wrong"] else 0)


def test_the_documented_session(tmp_path: Path) -> None:
    """Each command of docs/import-recipe.md prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented("import-recipe.md", tmp_path)
