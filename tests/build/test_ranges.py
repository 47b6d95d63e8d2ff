"""Ranges of rows: how tensors are cut, and that nothing shows of it in the bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import FAMILIES, write_family
from conftest import Run
from example_models import settle
from inprocess import in_process

from mbuild.build.steps import ranges
from mbuild.build.steps.ranges import ranges_of
from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert
from mbuild.core.names import ModelName
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.types import GGMLType
from mbuild.store import Store
from mbuild.store.media import MODEL
from mbuild.work import cores

CUTS = (4 << 10, 20_000, 16 << 20)
"""Sizes of ranges in bytes: some rows each, no whole number of anything, everything."""

TYPES = ("q4_K_M", "q8_0", "q5_1", "iq4_XS", "q2_K", "iq2_XXS", "iq1_M", "tq1_0")


@pytest.fixture(scope="module", params=["8 experts", "odd", "fused"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts that are stacked, rows that nothing divides, and tensors that are taken apart."""
    folder = tmp_path_factory.mktemp("models") / str(request.param).replace(" ", "-")
    write_family(folder, FAMILIES[request.param])
    settle()
    return folder


def model_of(folder: Path) -> Model:
    """The checkpoint, converted on demand."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return convert(open_checkpoint(folder.name, files))


@pytest.mark.parametrize("cut", CUTS)
def test_ranges_are_the_tensor_in_order(
    checkpoint: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together a tensor's ranges are its bytes; each is whole rows, of one matrix or whole ones."""
    monkeypatch.setattr(ranges, "RANGE", cut)
    for number, tensor in enumerate(model_of(checkpoint).tensors):
        parts = list(ranges_of(number, tensor))
        data = [bytes(memoryview(part.load()).cast("B")) for part in parts]
        assert b"".join(data) == bytes(memoryview(tensor.load()).cast("B"))
        assert [part.first for part in parts] == [sum(map(len, data[:n])) for n in range(len(data))]
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        matrix = tensor.dims[1] if len(tensor.dims) > 2 else max(1, len(data[0]))
        for part, raw in zip(parts, data, strict=True):
            first, count = part.rows
            assert len(raw) == part.size
            whole = first % matrix == 0 and count % matrix == 0
            assert whole or first // matrix == (first + count - 1) // matrix


def importances(folder: Path, model: Model) -> Path:
    """An importance matrix of the old format: values for each expert of each tensor."""
    path = folder / "imatrix.dat"
    entries = []
    for tensor in model.tensors:
        if len(tensor.dims) < 2 or not tensor.name.startswith("blk."):
            continue
        count = tensor.dims[0] * (tensor.dims[2] if len(tensor.dims) > 2 else 1)
        values = np.random.default_rng(len(entries)).random(count, dtype=np.float32) + 0.1
        name = tensor.name.encode()
        entries.append(
            struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, count) + values.tobytes()
        )
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries))
    return path


def test_no_number_of_threads_and_no_cut_shows(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several types at once, with importances: one digest each, on 1, 2, 3 and 7 threads."""
    mbuild = in_process(tmp_path, monkeypatch)
    monkeypatch.setattr(cores, "_asked", None)  # and so it is again afterwards
    imatrix = importances(tmp_path, model_of(checkpoint))
    (tmp_path / "Modelfile").write_text(f"FROM {checkpoint}\n")
    found: dict[str, set[str]] = {type_: set() for type_ in TYPES}
    for threads, cut in ((1, CUTS[2]), (2, CUTS[0]), (3, CUTS[1]), (7, CUTS[1])):
        monkeypatch.setattr(ranges, "RANGE", cut)
        store = f"store-{threads}"
        for type_, digest in built(mbuild, tmp_path / store, threads, imatrix).items():
            found[type_].add(digest)
    assert {type_: len(digests) for type_, digests in found.items()} == dict.fromkeys(TYPES, 1)


def built(mbuild: Run, store: Path, threads: int, imatrix: Path) -> dict[str, str]:
    """The digests of the weights of each type, made in one build."""
    options = [word for type_ in TYPES for word in ("-q", type_)]
    words: list[Any] = ["--store", store, "-t", "m", "--imatrix", imatrix, *options]
    done = mbuild(*words, "--threads", str(threads), "--progress", "json")
    assert done.returncode == 0, done.stderr
    names = [
        event["name"]
        for event in map(json.loads, done.stdout.splitlines())
        if event["event"] == "ModelBuilt"
    ]
    assert len(names) == len(TYPES)
    digests = {}
    for type_, name in zip(TYPES, names, strict=True):
        manifest = Store(store).manifests.read(ModelName.parse(name)).manifest
        (digests[type_],) = (str(layer.digest) for layer in manifest.of_kind(MODEL))
    return digests


def test_room_is_for_every_result_and_for_what_is_moved_whole() -> None:
    """One result for each variant, also of one type; what cannot be cut is there thrice."""
    row = 1 << 12
    tensor = Tensor("t", (row, 1 << 11), GGMLType.F16, lambda: b"")
    size, small = tensor.nbytes, row * 16 * 2
    part = ranges.Range(0, tensor, tensor.load, 0, small, last=False)
    made = row * 16 // 32 * 34
    assert ranges.room_for(part, [GGMLType.F16]) == small
    assert ranges.room_for(part, [GGMLType.Q8_0, GGMLType.F16]) == small + made
    assert ranges.room_for(part, [GGMLType.Q8_0, GGMLType.Q8_0]) == small + 2 * made
    assert ranges.room_for(part._replace(size=size), []) == size
    huge = ranges.Range(0, tensor, tensor.load, 0, 33 << 20, last=True)
    assert ranges.room_for(huge, []) == 99 << 20
