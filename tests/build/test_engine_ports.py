"""Real steps run on a store in memory: the engine and they know the ports and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import FAMILIES, write_family
from example_models import settle
from fakes_store import MemoryStore

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import Step
from mbuild.build.prepare import Build, plans_of, read_recipe
from mbuild.build.request import BuildRequest, Target
from mbuild.build.results import Outcome
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.surveying import survey
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.events import Code, Status
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.store import Manifest, Store
from mbuild.store.media import MODEL
from mbuild.store.ports import BuildStore
from mbuild.store.records import DESCRIPTION, PLACE, STEP, RangePlace

TEXT = b"""FROM ./model
SYSTEM You are Mario.
TEMPLATE {{ .System }}{{ .Prompt }}
PARAMETER temperature 0.5
LICENSE MIT
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("ports")
    write_family(folder / "model", FAMILIES["odd"])
    settle()
    return folder


def targets(folder: Path, *types: str) -> list[Step]:
    """The last steps of a build's variants; a store on disk is used to find the files."""
    store = Store(folder / "planning")
    recipe, _ = read_recipe(TEXT, "Modelfile", store)
    known = {type_.name: type_ for type_ in FILE_TYPES}
    wanted = [Quantization(known[name]) for name in types] or [None]
    request = BuildRequest(tuple(Target((ModelName.parse("m"),), each) for each in wanted))
    build = Build(request, recipe, LocalContext(folder, store, hash_files=True))
    return [plan.manifest for plan in plans_of(build, store)]


def run(store: BuildStore, steps: Sequence[Step]) -> tuple[list[bytes], set[str], list[Any]]:
    """The manifests, the kinds of steps that ran, and the events."""
    outcome = Outcome()
    events = list(BuildEngine(store).run(steps, outcome))
    manifests = [outcome.results[step].facts["manifest"].encode() for step in steps]
    return manifests, {step.kind for step in outcome.ran}, events


@pytest.fixture(scope="module")
def on_disk(folder: Path) -> dict[tuple[str, ...], list[bytes]]:
    """What the store on disk makes of it, unquantized and as two variants."""
    store = Store(folder / "store")
    with store.using():
        return {t: run(store, targets(folder, *t))[0] for t in ((), ("Q8_0", "Q4_0"))}


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """An empty store in memory."""
    return MemoryStore(tmp_path / "files")


@pytest.mark.parametrize("types", [(), ("Q8_0", "Q4_0")])
def test_the_manifests_are_those_of_the_store_on_disk(
    folder: Path,
    store: MemoryStore,
    on_disk: dict[tuple[str, ...], list[bytes]],
    types: tuple[str, ...],
) -> None:
    """Conversion, quantization, texts, config and manifest, the same bytes; then all cached."""
    made, ran, _ = run(store, targets(folder, *types))
    assert made == on_disk[types]
    assert {"config", "manifest"} <= ran
    for data in made:
        for layer in Manifest.decode(data, "made").blobs():
            assert len(store.blobs.here[layer.digest]) == layer.size
            assert layer.digest in store.blobs.kept
    again, ran, _ = run(store, targets(folder, *types))
    assert (again, ran) == (made, set())


def test_layers_that_lie_elsewhere_are_brought_and_not_made(
    folder: Path, store: MemoryStore
) -> None:
    """As from a registry: nothing runs, and exactly the layers of the results are fetched."""
    made, _, _ = run(store, targets(folder))
    store.blobs.far, store.blobs.here = store.blobs.here, {}
    again, ran, _ = run(store, targets(folder))
    assert (again, ran) == (made, set())
    assert set(store.blobs.fetched) == set(store.blobs.far)


def test_looking_fetches_nothing(folder: Path, store: MemoryStore) -> None:
    """What a build would do is said without bringing anything."""
    run(store, targets(folder))
    store.blobs.far, store.blobs.here = store.blobs.here, {}
    rows = survey(BuildEngine(store), targets(folder))
    assert {row.state.value for row in rows} == {"cached"}
    assert not store.blobs.fetched and not store.blobs.here


@pytest.mark.parametrize("damage", ["gone", "lies"])
def test_a_layer_that_nobody_has_is_made_again(
    folder: Path, store: MemoryStore, damage: str
) -> None:
    """Whether it is gone or comes with other bytes than its digest's; only its step runs."""
    made, _, _ = run(store, targets(folder))
    system = Digest.of(b"You are Mario.")
    data = store.blobs.here.pop(system)
    if damage == "lies":
        store.blobs.far[system] = data[::-1]
    again, ran, _ = run(store, targets(folder))
    assert (again, ran) == (made, {"system"})
    assert store.blobs.here[system] == data


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"layers":[{}],"facts":{}}'])
def test_damaged_records_cost_a_rebuild(folder: Path, store: MemoryStore, text: str) -> None:
    """Whatever the cache holds, the model is the same."""
    made, first, _ = run(store, targets(folder))
    for place in store.cache.texts:
        if place[0] in (STEP.table, DESCRIPTION.table):
            store.cache.texts[place] = text
    again, ran, _ = run(store, targets(folder))
    assert (again, ran) == (made, first)


def forget_steps(store: MemoryStore) -> None:
    """Leave only where quantized ranges lie."""
    for place in list(store.cache.texts):
        if place[0] == STEP.table:
            del store.cache.texts[place]


def codes(events: Sequence[Any]) -> set[Code]:
    """What was told of a build beside its steps."""
    return {event.code for event in events if isinstance(event, Status)}


def weights(manifest: bytes) -> Digest:
    """The digest of a model's weights."""
    return Manifest.decode(manifest, "made").of_kind(MODEL)[0].digest


def test_quantized_ranges_are_found_at_their_places(folder: Path, store: MemoryStore) -> None:
    """In a blob of the store, through the two ports alone."""
    made, _, _ = run(store, targets(folder, "Q8_0"))
    forget_steps(store)
    again, ran, events = run(store, targets(folder, "Q8_0"))
    assert again == made and "quantize" in ran
    assert Code.REUSED_TENSORS in codes(events)


def test_a_place_with_other_bytes_is_quantized_again(folder: Path, store: MemoryStore) -> None:
    """What lies there counts only if its digest is right."""
    made, _, _ = run(store, targets(folder, "Q8_0"))
    forget_steps(store)
    for (table, key), text in list(store.cache.texts.items()):
        place = PLACE.read(text) if table == PLACE.table else None
        if place is not None:
            moved = RangePlace(place.path, place.offset + 1, place.size, place.digest)
            store.cache.texts[table, key] = PLACE.encode(moved)
    again, _, events = run(store, targets(folder, "Q8_0"))
    assert again == made and weights(again[0]) in store.blobs.here
    assert Code.REUSED_TENSORS not in codes(events)


def test_a_place_that_is_gone_is_forgotten(folder: Path, store: MemoryStore) -> None:
    """And the range is quantized again."""
    made, _, _ = run(store, targets(folder, "Q8_0"))
    forget_steps(store)
    keys = {key.partition(" ")[0] for table, key in store.cache.texts if table == PLACE.table}
    (lost,) = (store.blobs.here.pop(weights(data)) for data in made)
    for key in keys:
        store.cache.add_place(key, RangePlace("blobs/sha256-none", 0, 1, Digest.of(b"x", BLAKE3)))
    again, _, _ = run(store, targets(folder, "Q8_0"))
    assert again == made and store.blobs.here[weights(made[0])] == lost
    places = [place for found in store.cache.places(keys).values() for place in found]
    assert keys and {place.path for place in places} == {f"blobs/{weights(made[0]).filename}"}
