"""Pieces that workers put into a shared cache: an ordinary build finds them and assembles."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from checkpoints import FAMILIES, write_family
from example_models import settle
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import Step, StepContext, in_order
from mbuild.build.prepare import Build, plans_of, read_recipe
from mbuild.build.request import BuildRequest, Target
from mbuild.build.results import Outcome
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.steps.checkpoint import ConvertCheckpoint
from mbuild.build.steps.origins import open_quietly
from mbuild.build.steps.pieces import with_pieces
from mbuild.build.steps.quantize import Quantize, _planned
from mbuild.build.steps.ranges import (
    RangeCache,
    converted_key,
    digest_of,
    importances_of,
    ranges_of,
)
from mbuild.core.events import Code, Status
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.quant.quantize import quantize
from mbuild.shared.cache import TeamCache
from mbuild.store import Store
from mbuild.store.records import SOURCE_RANGE, STEP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("pieces")
    write_family(folder / "model", FAMILIES["odd"])
    settle()
    return folder


def _manifest(folder: Path, name: str | None) -> Step:
    store = Store(folder / "planning")
    recipe, _ = read_recipe(b"FROM ./model\nTEMPLATE x\n", "Modelfile", store)
    known = {type_.name: type_ for type_ in FILE_TYPES}
    target = Target((ModelName.parse("m"),), Quantization(known[name]) if name else None)
    context = LocalContext(folder, store, hash_files=True)
    ((plan,),) = [plans_of(Build(BuildRequest((target,)), recipe, context), store)]
    return plan.manifest


def _build(step: Step, store: MemoryStore) -> tuple[str, list[Status]]:
    outcome = Outcome()
    events = list(BuildEngine(store).run([step], outcome))
    said = [event for event in events if isinstance(event, Status)]
    return str(outcome.results[step].facts["manifest"]), said


def _fill(step: Step, store: MemoryStore, part: int, parts: int) -> int:
    """What a worker does: make some of the pieces, put them there; how many."""
    shared = store.shared
    assert shared is not None
    weights = next(s for s in in_order([step]) if isinstance(s, (Quantize, ConvertCheckpoint)))
    origin, made = weights.origin.fields(), 0
    assert origin is not None
    with ExitStack() as stack:
        model = open_quietly(weights.origin, store, stack)
        pairs = [(tensor, tensor.type) for tensor in model.tensors]
        if isinstance(weights, Quantize):
            pairs = list(_planned(weights, model, None).tensors)
        cache = RangeCache(store, origin)
        for number, (tensor, new) in enumerate(pairs):
            if number % parts != part:
                continue
            for piece in ranges_of(number, tensor):
                data = bytes(memoryview(piece.load()).cast("B"))
                key = converted_key(origin, tensor.name, piece.first, piece.size)
                shared.put(SOURCE_RANGE, key, digest_of(data))
                if new is not tensor.type:
                    import numpy as np

                    flat = np.frombuffer(data, np.uint8)
                    result = quantize(new, tensor.type, flat, tensor.dims[0])
                    key = cache.key(digest_of(data), piece, new, importances_of(piece, None))
                    data = result.tobytes()
                shared.put_piece(key, data, digest_of(data))
                made += 1
    list(shared.drain())
    return made


@pytest.mark.parametrize("name", [None, "Q4_K_M"])
def test_workers_fill_and_a_build_assembles(folder: Path, tmp_path: Path, name: str | None) -> None:
    """Two parts by two machines; the third one's bytes are the plain build's, and it makes none."""
    step, storage = _manifest(folder, name), MemoryStorage()
    plain, _ = _build(step, MemoryStore(tmp_path / "plain"))
    made = 0
    for part in range(2):
        worker = MemoryStore(tmp_path / f"worker {part}")
        worker.shared = TeamCache([], storage, worker.blobs)
        made += _fill(step, worker, part, 2)
        worker.shared.close()
    assert not any(name.startswith(f"record/{STEP.table}/") for name in storage.held)
    storage.asked.clear()
    store = MemoryStore(tmp_path / "assembling")
    store.shared = TeamCache([storage], None, store.blobs)
    assembled, said = _build(step, store)
    assert assembled == plain
    read = sum(what == "range" for what, _ in storage.asked)
    if name is None:
        assert read == made
    else:
        reused = [event.values for event in said if event.code is Code.REUSED_TENSORS]
        assert reused and all(values["reused"] == values["total"] for values in reused)
    questions = [names for what, names in storage.asked if what == "read"]
    assert len(questions) <= 8, "they are asked for together"


def test_a_damaged_piece_is_converted_here(folder: Path, tmp_path: Path) -> None:
    """Bytes without the digest of their record are not used."""
    step, storage = _manifest(folder, None), MemoryStorage()
    plain, _ = _build(step, MemoryStore(tmp_path / "plain"))
    worker = MemoryStore(tmp_path / "worker")
    worker.shared = TeamCache([], storage, worker.blobs)
    _fill(step, worker, 0, 1)
    for name in [name for name in storage.held if name.startswith("blob/")]:
        storage.held[name] = storage.held[name][:-1] + b"\0\0"
    store = MemoryStore(tmp_path / "assembling")
    store.shared = TeamCache([storage], None, store.blobs)
    assert _build(step, store)[0] == plain


def test_a_model_is_as_it_was_where_nobody_has_any(folder: Path, tmp_path: Path) -> None:
    """Also without a shared cache, and while the origin is not known."""
    store = MemoryStore(tmp_path / "store")
    weights = next(
        s for s in in_order([_manifest(folder, None)]) if isinstance(s, ConvertCheckpoint)
    )
    with ExitStack() as stack:
        model = open_quietly(weights.origin, store, stack)
        origin, context = weights.origin.fields(), StepContext.silent(store)
        assert with_pieces(model, origin, context) is model
        store.shared = TeamCache([MemoryStorage()], None, store.blobs)
        assert with_pieces(model, origin, context) is model
        assert with_pieces(model, None, context) is model
