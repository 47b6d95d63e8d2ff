"""Results of other machines are held against a table: every field with every wrong type of JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from example_models import settle, write_chat
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore

from mbuild.build.engine import BuildEngine
from mbuild.build.exchange import fits, sane_result
from mbuild.build.graph import Result, Step
from mbuild.build.prepare import Build, plans_of, read_recipe
from mbuild.build.request import BuildRequest, Target
from mbuild.build.results import Outcome
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.steps.believed import ROWS, can_be
from mbuild.build.steps.kinds import KINDS
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.shared.cache import TeamCache
from mbuild.shared.envelope import Seal
from mbuild.store import Store
from mbuild.store.media import ADAPTER, MODEL, PROJECTOR, TEMPLATE

DIGEST = f"sha256:{'1' * 64}"


def layer(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 100, **more}


WEIGHTS = {
    "kind": "model",
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "1.2B",
    "file_type": "Q4_K_M",
}
QUALITY = {
    **{"positions": 10, "perplexity": 5.5, "perplexity_error": 0.1, "base_perplexity": 5.1},
    **{"mean_kld": 0.1, "mean_kld_error": 0.01, "kld_99": 0.3, "max_kld": 1.5, "same_top": 0.9},
}
CHAT = {"text": "{{ x }}", "bos": "<s>", "eos": "</s>", "adds_bos": True}
BASE = {"architecture": "llama", "numbers": {"llama.block_count": 2}, "tensors": {"a": [256, 4]}}
CHOICE = {
    **{"quantization": {"type": "Q4_K_M"}, "size": 100, "bits": 4.5, "loss": 0.25},
    **{"flags": "-q q4_K_M", "modelfile": "QUANTIZE q4_K_M"},
}
ERRORS = {"error": 0.5, "tensor": "a (Q4_0)", "mean_error": 0.25, "tensors": [["a", "b", "c", 0.5]]}
STOP = {"template": "chatml", "parameters": {"stop": ["</s>"]}}

GOOD: dict[str, list[dict[str, Any]]] = {
    "ask": [{"layers": [], "facts": {"answer": "four"}}],
    "change": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
    "check": [
        {"layers": [], "facts": facts}
        for facts in ({"value": 0.5}, {"value": True}, {"size": 1}, {"tensors": 2},
                      {"template": DIGEST}, {"chat_template": True})
    ],
    "choose": [{"layers": [], "facts": CHOICE}],
    "compare": [{"layers": [], "facts": ERRORS}],
    "convert": [{"layers": [layer(MODEL), layer(MODEL)], "facts": WEIGHTS}],
    "convert-adapter": [{"layers": [layer(ADAPTER, **{"from": "lora"})], "facts": WEIGHTS}],
    "convert-projector": [
        {"layers": [layer(PROJECTOR)], "facts": WEIGHTS}, {"layers": [], "facts": {}}
    ],
    "detect-template": [{"layers": [layer(TEMPLATE)], "facts": STOP}, {"layers": [], "facts": {}}],
    "header": [{"layers": [], "facts": facts} for facts in (CHAT, BASE, {})],
    "imatrix": [
        {
            "layers": [layer("application/vnd.mbuild.imatrix")],
            "facts": {"imatrix": DIGEST, "chunks": 2, "weights": 3, "unseen": {"a": [1, 2]}},
        }
    ],
    "import": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
    "keep-shards": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
    "measure": [{"layers": [], "facts": QUALITY}],
    "merge": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
    "quantize": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
    "split": [{"layers": [layer(MODEL)], "facts": WEIGHTS}],
}  # fmt: skip
"""What steps come to, each form of it."""

WRONG: tuple[Any, ...] = (
    None, True, False, 0, 7, -1, 1 << 70, 0.5, float("inf"), float("nan"), "", "x", "\ud800",
    [], [None], [[]], ["x"], [1], {}, {"x": None}, {"x": 1}, {"\ud800": 1},
)  # fmt: skip


def step_of(kind: str) -> Any:
    """As much of a step as the table asks for."""
    return SimpleNamespace(kind=kind, subject="lora", role="model")


def test_every_kind_that_others_are_asked_for_has_a_row() -> None:
    """All but those that are made sooner than anybody answers, and those that fetch."""
    asked = {kind for kind, step in KINDS.items() if not step.trivial and not step.fetches}
    assert ROWS.keys() == asked == GOOD.keys()


@pytest.mark.parametrize("kind", GOOD)
def test_what_a_step_comes_to_is_believed(kind: str) -> None:
    """Each form of it, and by a step that has no row anything."""
    for value in GOOD[kind]:
        assert sane_result(step_of(kind), json.dumps(value)) == Result.from_json(json.dumps(value))
    assert can_be(step_of("fake"), Result(facts={"x": object()}))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a value of JSON, itself among them."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from places(value[number], (*path, number))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return new
    found = copy.deepcopy(value)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return found


def form(value: Any) -> str:
    """A value's type in JSON; whole numbers and others are two."""
    return type(value).__name__


def tolerated(path: tuple[Any, ...], new: Any) -> bool:
    """Where another type is no lie that could hurt."""
    last = next((part for part in reversed(path) if isinstance(part, str)), "")
    return (
        (last in OPTIONAL and new is None)
        or (last in NUMBERS and form(new) in ("int", "float"))
        or (last == "value" and form(new) in ("bool", "int", "float"))
        or (last in EMPTY and new in ({}, []))
        or (last in NAMED and form(new) == "dict" and "\ud800" not in new and 1 in new.values())
    )


OPTIONAL = ("base_perplexity", "mean_kld", "mean_kld_error", "kld_99", "max_kld", "same_top",
            "unseen")  # fmt: skip
NUMBERS = (*OPTIONAL[:-1], "perplexity", "perplexity_error", "error", "mean_error", "tensors",
           "bits", "loss", "value")  # fmt: skip
EMPTY = ("numbers", "tensors", "unseen", "parameters", "facts", "layers", "model_families", "stop",
         "from")  # fmt: skip
NAMED = ("numbers",)


@pytest.mark.parametrize("kind", GOOD)
def test_every_field_with_every_wrong_type_is_not_believed(kind: str) -> None:
    """Nothing raises, and nothing of another type than it can be comes through."""
    count = 0
    for value in GOOD[kind]:
        for path in places(value):
            old = value
            for key in path:
                old = old[key]
            for new in WRONG:
                if form(new) == form(old) and not isinstance(new, float):
                    continue
                found = sane_result(step_of(kind), json.dumps(put(value, path, new)))
                count += 1
                if found is None or tolerated(path, new):
                    continue
                raise AssertionError(f"{kind}: {path} is {new!r}, and was believed")
    assert count > 60


@pytest.mark.parametrize("kind", GOOD)
def test_fields_that_are_missing_or_more_are_not_believed(kind: str) -> None:
    """Of a layer all but ``from`` are needed; facts have just those of their form."""
    for value in GOOD[kind]:
        for key in value["facts"]:
            less = copy.deepcopy(value)
            del less["facts"][key]
            found = sane_result(step_of(kind), json.dumps(less))
            assert found is None or (kind, less["facts"]) == ("header", {}), key
        more = put(value, ("facts",), {**value["facts"], "more": 1})
        assert sane_result(step_of(kind), json.dumps(more)) is None
        for key in ("mediaType", "digest", "size") if value["layers"] else ():
            less = copy.deepcopy(value)
            del less["layers"][0][key]
            assert sane_result(step_of(kind), json.dumps(less)) is None
        other = [*value["layers"], layer("application/vnd.ollama.image.system")]
        assert sane_result(step_of(kind), json.dumps({**value, "layers": other})) is None


# --- in a build ------------------------------------------------------------------------------


class Machines:
    """A model with a chat template, what its build put into a shared cache, and others' builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_chat(folder / "chat")
        settle()
        storage = MemoryStorage()
        self.good = self.build(storage, writes=True)
        self.objects = dict(storage.held)

    def steps(self) -> list[Step]:
        store = Store(self.folder / "planning")
        recipe, _ = read_recipe(b"FROM ./chat\n", "Modelfile", store)
        known = {type_.name: type_ for type_ in FILE_TYPES}
        target = Target((ModelName.parse("m"),), Quantization(known["Q8_0"]))
        context = LocalContext(self.folder, store, hash_files=True)
        build = Build(BuildRequest((target,)), recipe, context)
        return [plan.manifest for plan in plans_of(build, store)]

    def build(self, storage: MemoryStorage, *, writes: bool = False) -> str:
        """The manifest that a machine with nothing builds."""
        self.store = MemoryStore(self.folder / "store")
        target = storage if writes else None
        shared = TeamCache([] if writes else [storage], target, self.store.blobs)
        self.store.shared = shared
        self.ran = Outcome()
        steps = self.steps()
        list(BuildEngine(self.store).run(steps, self.ran))
        list(shared.drain())
        shared.close()
        return str(self.ran.results[steps[0]].facts["manifest"])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """Once."""
    return Machines(tmp_path_factory.mktemp("facts"))


def test_a_lie_about_a_step_without_weights_costs_a_rebuild(machines: Machines) -> None:
    """Records of the template that was found and of the header that was read, field by field."""
    lies = 0
    for name, data in machines.objects.items():
        record = json.loads(data) if name.startswith("record/step/") else {}
        value = json.loads(record["value"]) if record else {}
        if not record or value["facts"].keys() & {"model_family"}:
            continue
        for place, path in enumerate(places(value)):
            for new in (WRONG[place * 5 % len(WRONG)], WRONG[(place * 7 + 3) % len(WRONG)]):
                changed = json.dumps(put(value, path, new))
                storage = MemoryStorage()
                forged = Seal().close(record["kind"], record["key"], changed)
                storage.held = {**machines.objects, name: forged}
                if type(new) is str:
                    continue  # another text is a lie that only a signature finds
                assert machines.build(storage) == machines.good, (path, new)
                lies += 1
    assert lies > 20


def test_weights_have_to_be_what_their_header_says(machines: Machines) -> None:
    """In every fact, none missing, and of the media type that the step makes."""
    steps = [step for step in machines.ran.results if step.kind == "quantize"]
    machines.build(MemoryStorage(), writes=True)
    (step,) = steps or [s for s in machines.ran.results if s.kind == "quantize"]
    result = machines.ran.results[step]
    assert fits(step, result, machines.store)
    for name in result.facts:
        less = {key: value for key, value in result.facts.items() if key != name}
        assert not fits(step, result._replace(facts=less), machines.store)
        assert not fits(step, result._replace(facts={**result.facts, name: "x"}), machines.store)
    (own,) = result.layers
    wrong = own._replace(media_type=PROJECTOR)
    assert not fits(step, result._replace(layers=(wrong,)), machines.store)
