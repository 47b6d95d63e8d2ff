"""Two models side by side, and what ``show`` tells of their insides."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from documents import documented
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from gguf_files import tiny_gguf
from inprocess import in_process
from stores import copy_tiny_store

from mbuild.gguf.model import Tensor
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import BLOCKS, GGMLType, tensor_nbytes
from mbuild.gguf.weights import GGUFWeights
from mbuild.models.compare.tensors import PIECE, TensorDiff, compare_tensors
from mbuild.quant.decode import decoded as values_of
from mbuild.quant.table import TYPES


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


def made(name: str, type_: GGMLType, dims: tuple[int, ...], data: bytes) -> Tensor:
    assert len(data) == tensor_nbytes(type_, dims)
    return Tensor(name, dims, type_, lambda: data)


def encoded(values: np.ndarray[Any, Any], type_: GGMLType) -> bytes:
    """Values in a type, by the gguf package."""
    return quantize(values, GGMLQuantizationType(int(type_))).tobytes()


def decoded(data: Any, type_: GGMLType) -> np.ndarray[Any, Any]:
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCKS[type_].size)
    return dequantize(blocks, GGMLQuantizationType(int(type_))).reshape(-1)


def compared(
    folder: Path, old: list[Tensor], new: list[Tensor], **options: Any
) -> list[TensorDiff]:
    a = tiny_gguf(folder / "a.gguf", tensors=old)
    b = tiny_gguf(folder / "b.gguf", tensors=new)
    with open_gguf(a) as first, open_gguf(b) as second:
        return compare_tensors(GGUFWeights([first]), GGUFWeights([second]), **options)


@pytest.mark.parametrize("count", [256, PIECE - 256, PIECE, PIECE + 512, 2 * PIECE + 256])
@pytest.mark.parametrize("type_", [GGMLType.F16, GGMLType.Q8_0, GGMLType.Q4_0])
def test_the_error_is_the_relative_rms_of_the_values(
    tmp_path: Path, type_: GGMLType, count: int
) -> None:
    """Equal to the formula over all values at once, whatever the number of pieces."""
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    data = encoded(values, type_)
    (found,) = compared(
        tmp_path,
        [made("w", GGMLType.F32, (count,), values.tobytes())],
        [made("w", type_, (count,), data)],
    )
    back = decoded(data, type_).astype(np.float64)
    exact = values.astype(np.float64)
    expected = math.sqrt(np.sum((back - exact) ** 2) / np.sum(exact**2))
    assert found.error == pytest.approx(expected, rel=1e-9)
    assert (found.old.type, found.new.type) == ("F32", type_.name)  # type: ignore[union-attr]


@pytest.mark.parametrize("type_", GGMLType)
def test_every_type_is_compared_or_says_why_not(tmp_path: Path, type_: GGMLType) -> None:
    """A type that gguf-py or its row can read gives its values' error, another one a note."""
    rng = np.random.default_rng(7)
    size = tensor_nbytes(type_, (512,))
    first, second = (rng.integers(0, 60, size, np.uint8).tobytes() for _ in range(2))
    (found,) = compared(
        tmp_path, [made("w", type_, (512,), first)], [made("w", type_, (512,), second)]
    )
    plain = {"F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    try:
        if type_.name in plain:
            a, b = (np.frombuffer(x, plain[type_.name]).astype(np.float64) for x in (first, second))
        else:
            # A row's own reader is held against ggml's in test_quant_reading.py.
            own = type_ in TYPES and TYPES[type_].decode is not None
            read = values_of if own else decoded
            parts = (np.frombuffer(x, np.uint8) for x in (first, second))
            a, b = (read(x, type_).astype(np.float64) for x in parts)
    except (NotImplementedError, KeyError, ValueError):
        assert found.error is None
        assert found.note == f"the values of {type_.name} cannot be read"
        return
    with np.errstate(all="ignore"):
        expected = math.sqrt(np.sum((b - a) ** 2) / np.sum(a * a))
    assert found.error == pytest.approx(expected, rel=1e-9)


def test_what_has_no_error_says_why(tmp_path: Path) -> None:
    """Other shapes, tensors of one side, zeros and values that are not finite; order kept."""

    def row(name: str, *values: float) -> Tensor:
        return made(name, GGMLType.F32, (len(values),), np.array(values, "<f4").tobytes())

    old = [
        row("z", 1, 2),
        row("gone", 1),
        row("shape", 1, 2),
        row("zero", 0, 0),
        row("nan", float("nan"), 1),
        row("inf", 1, 1),
        row("same nan", float("nan")),
    ]
    new = [
        row("new", 1),
        row("same nan", float("nan")),
        row("inf", float("inf"), 1),
        row("nan", 1, 1),
        row("zero", 0, 1),
        row("shape", 1, 2, 3),
        row("z", 1, 2.5),
    ]
    found = {d.name: d for d in compared(tmp_path, old, new)}
    assert list(found) == ["z", "gone", "shape", "zero", "nan", "inf", "new"]
    assert found["z"].error == pytest.approx(math.sqrt(0.25 / 5))
    assert found["gone"].new is None
    assert found["new"].old is None
    assert found["shape"].note == "other shape"
    assert found["zero"].note == "the old values are all zero"
    assert found["nan"].note == found["inf"].note == "values that are not finite"
    quick = {d.name for d in compared(tmp_path, old, new, values=False)}
    assert quick == {"gone", "shape", "new"}


def test_same_values_in_another_type_have_no_error(tmp_path: Path) -> None:
    """F16 against the same numbers as F32: the bytes differ, the error is 0."""
    values = np.arange(64, dtype=np.float16)
    (found,) = compared(
        tmp_path,
        [made("w", GGMLType.F16, (64,), values.tobytes())],
        [made("w", GGMLType.F32, (64,), values.astype(np.float32).tobytes())],
    )
    assert found.error == 0.0


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """128 MB of weights on each side are compared in a fraction of that."""
    values = np.ones(32 << 20, np.float32)
    paths = []
    for name in ("a", "b"):
        values[-1] = len(paths)
        data = values.tobytes()
        paths.append(
            tiny_gguf(tmp_path / name, tensors=[made("w", GGMLType.F32, (32 << 20,), data)])
        )
    del values, data
    with open_gguf(paths[0]) as a, open_gguf(paths[1]) as b:
        tracemalloc.start()
        (found,) = compare_tensors(GGUFWeights([a]), GGUFWeights([b]))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.error == pytest.approx(math.sqrt(1 / (32 << 20)), rel=1e-6)
    assert peak < 64 << 20


@pytest.mark.parametrize("differs", [None, 0, 2])
def test_tensors_of_one_shape_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differs: int | None
) -> None:
    """Digested and compared in one pass; again only what lies before the first difference."""
    values = np.random.default_rng(1).standard_normal(3 * PIECE).astype(np.float32)
    other = values.copy()
    if differs is not None:
        other[differs * PIECE + 5] += 1
    read: list[int] = []
    real = GGUFWeights.read

    def counted(self: GGUFWeights, tensor: Any, start: int, size: int) -> bytes:
        read.append(size)
        return real(self, tensor, start, size)

    monkeypatch.setattr(GGUFWeights, "read", counted)
    told: list[tuple[int, int]] = []
    sides = [[made("w", GGMLType.F32, (len(each),), each.tobytes())] for each in (values, other)]
    found = compared(tmp_path, *sides, progress=lambda done, total: told.append((done, total)))
    assert sum(read) == 2 * (values.nbytes + (differs or 0) * PIECE * 4)
    assert told[-1] == (2 * values.nbytes, 2 * values.nbytes)
    if differs is None:
        assert found == []
    else:
        exact = values.astype(np.float64)
        expected = math.sqrt(np.sum((other - exact) ** 2) / np.sum(exact**2))
        assert found[0].error == pytest.approx(expected, rel=1e-6)


def test_settings_and_texts(mbuild: Run, tmp_path: Path) -> None:
    """Layers, parameters, config and texts, each with both values."""
    copy_tiny_store(tmp_path / "store")
    base = 'FROM tiny\nTEMPLATE """a\nb\nc"""\nSYSTEM one\nPARAMETER top_k 4\nPARAMETER seed 1\n'
    other = (
        'FROM tiny\nTEMPLATE """a\nB\nc"""\nSYSTEM one\nPARAMETER top_k 5\nLICENSE MIT\n'
        "REQUIRES 0.9.0\nMESSAGE user hi\nPARAMETER stop x\n"
    )
    assert mbuild("-f", "-", "-t", "one", input=base).returncode == 0
    assert mbuild("-f", "-", "-t", "two", input=other).returncode == 0
    value = json.loads(mbuild("diff", "one", "two", "--format", "json").stdout)
    assert value["differ"]
    assert {row["key"] for row in value["layers"]} == {"template", "license", "params", "messages"}
    rows = {row["key"]: (row["old"], row["new"]) for row in value["parameters"]}
    assert rows == {"top_k": (4, 5), "seed": (1, None), "stop": (None, ["x"])}
    assert {row["key"]: row["new"] for row in value["config"]} == {"requires": "0.9.0"}
    assert value["texts"]["template"] == ["@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]
    assert set(value["texts"]) == {"template", "license", "messages"}
    assert value["weights"] == [
        {
            "layer": "model",
            "identical": True,
            "only": "",
            "metadata": [],
            "tensors": [],
            "tensors_same": 0,
            "tensor_types": {"old": {}, "new": {}},
            "files": [1, 1],
        }
    ]
    text = mbuild("diff", "one", "two").stdout
    for line in ("~ top_k: 4 -> 5", "- seed: 1", '+ stop: ["x"]', "-b", "+B", "the same bytes"):
        assert f"  {line}\n" in text


def test_equal_models_and_statuses(mbuild: Run, tmp_path: Path) -> None:
    """No difference is said so; --exit-code tells by the status; unknown names are errors."""
    copy_tiny_store(tmp_path / "store")
    assert mbuild("cp", "tiny", "copy").returncode == 0
    done = mbuild("diff", "tiny", "copy", "--exit-code")
    assert (done.returncode, done.stdout) == (
        0,
        "--- tiny:latest\n+++ copy:latest\nno difference\n",
    )
    assert mbuild("-f", "-", "-t", "x", input="FROM tiny\nSYSTEM a\n").returncode == 0
    assert mbuild("diff", "tiny", "x").returncode == 0
    assert mbuild("diff", "tiny", "x", "--exit-code").returncode == 1
    unknown = mbuild("diff", "tiny", "coppy")
    assert unknown.returncode == 1
    assert "did you mean copy:latest" in unknown.stderr
    assert "no.gguf" in mbuild("diff", "tiny", "no.gguf").stderr


def test_metadata_and_files(mbuild: Run, tmp_path: Path) -> None:
    """Keys that one side lacks, other values, other types; a GGUF file as one side."""
    tiny_gguf(tmp_path / "a.gguf", metadata={"x.gone": 1, "x.type": 1, "x.long": [1] * 50})
    tiny_gguf(
        tmp_path / "b.gguf",
        metadata={"x.new": "n", "x.type": 1.0, "x.long": [1] * 49 + [2], "general.name": "other"},
        seed=1,
    )
    assert mbuild("-f", "-", "-t", "a", input="FROM ./a.gguf\n").returncode == 0
    text = mbuild("diff", "a", "./b.gguf").stdout
    for line in (
        '~ general.name: "tiny" -> "other"',
        "- x.gone: 1",
        "~ x.type: UINT32 1 -> FLOAT32 1.0",
        "~ x.long: [1, 1, 1, 1, 1, 1, 1, 1, ...] -> (differs further on)",
        '+ x.new: "n"',
        "0 tensors are the same, 5 differ (3 F32, 1 F16, 1 Q8_0)",
    ):
        assert f"  {line}\n" in text, text
    value = json.loads(mbuild("diff", "./a.gguf", "b.gguf", "--format", "json").stdout)
    (weights,) = value["weights"]
    assert len(weights["tensors"]) == 5
    assert all(len(t["old"]["digest"]) == 64 for t in weights["tensors"])
    quick = json.loads(mbuild("diff", "a.gguf", "b.gguf", "--quick", "--format", "json").stdout)
    assert quick["weights"][0]["tensors"] == []


def test_adapters_are_compared_in_order(mbuild: Run, tmp_path: Path) -> None:
    """The second adapter of one side and none of the other; the first ones by their tensors."""
    tiny_gguf(tmp_path / "m.gguf")
    for number in (1, 2, 3):
        tiny_gguf(tmp_path / f"l{number}.gguf", kind="adapter", seed=number)
    one = "FROM ./m.gguf\nADAPTER ./l1.gguf\nADAPTER ./l2.gguf\n"
    assert mbuild("-f", "-", "-t", "one", input=one).returncode == 0
    two = "FROM ./m.gguf\nADAPTER ./l3.gguf\n"
    assert mbuild("-f", "-", "-t", "two", input=two).returncode == 0
    value = json.loads(mbuild("diff", "one", "two", "--format", "json").stdout)
    rows = {w["layer"]: (w["identical"], w["only"], len(w["tensors"])) for w in value["weights"]}
    assert rows == {
        "model": (True, "", 0),
        "adapter": (False, "", 2),
        "adapter 2": (False, "old", 0),
    }


def test_bad_files_are_one_clear_line(mbuild: Run, tmp_path: Path) -> None:
    """Every hostile GGUF of the collection is refused by diff and import-recipe alike."""
    tiny_gguf(tmp_path / "good.gguf")
    folder = Path(__file__).parents[1] / "data" / "bad_gguf"
    bad = [path for path in sorted(folder.glob("*.gguf")) if path.name != "valid.gguf"]
    assert len(bad) > 30
    for path in bad:
        for arguments in (["diff", path, "good.gguf"], ["import-recipe", path]):
            done = mbuild(*arguments)
            assert done.returncode == 1, (path.name, done.stdout)
            assert done.stderr.startswith("error: "), (path.name, done.stderr)


def test_show_lists_tensors_and_metadata(mbuild: Run, tmp_path: Path) -> None:
    """Each alone, both, and as JSON; not together with other parts."""
    tiny_gguf(tmp_path / "m.gguf", metadata={"evil": "\x1b[2Ja\x9bb"})
    assert mbuild("-f", "-", "-t", "m", input="FROM ./m.gguf\n").returncode == 0
    tensors = mbuild("show", "m", "--tensors").stdout
    assert "blk.0.attn_q.weight       Q8_0    64x3    204 B\n" in tensors
    assert "general.architecture" not in tensors
    both = mbuild("show", "m", "--tensors", "--metadata").stdout
    assert tensors.splitlines()[2] in both
    assert "general.architecture" in both
    assert "\x1b" not in both
    assert "\x9b" not in both
    (layer,) = json.loads(mbuild("show", "m", "--tensors", "--metadata", "--json").stdout)
    assert layer["tensors"][0] == {
        "name": "token_embd.weight",
        "type": "F16",
        "shape": [64, 4],
        "bytes": 512,
        "offset": layer["tensors"][0]["offset"],
    }
    keys = {row["key"]: row for row in layer["metadata"]}
    assert keys["llama.block_count"] == {"key": "llama.block_count", "type": "UINT32", "value": 2}
    assert keys["tokenizer.ggml.tokens"]["count"] == 4
    assert mbuild("show", "m", "--tensors", "--system").returncode == 2


def test_the_documented_session(tmp_path: Path) -> None:
    """Each command of docs/diff.md prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented("diff.md", tmp_path)
