"""Whatever lies in a shared cache, the model is the same: hundreds of damaged and lying objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from checkpoints import FAMILIES, write_family
from example_models import settle
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import Step
from mbuild.build.prepare import Build, plans_of, read_recipe
from mbuild.build.request import BuildRequest, Target
from mbuild.build.results import Outcome
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.keys import make_key
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.shared.cache import TeamCache
from mbuild.shared.envelope import UNSIGNED, Seal
from mbuild.store import Store

Objects = dict[str, bytes]

NAMES = ("Q4_K_M", "Q8_0")
"""The shared cache holds the second; the first is another model whose objects can be mixed up."""


def _steps(folder: Path, name: str) -> list[Step]:
    store = Store(folder / "planning")
    recipe, _ = read_recipe(b"FROM ./model\nTEMPLATE x\n", "Modelfile", store)
    known = {type_.name: type_ for type_ in FILE_TYPES}
    target = Target((ModelName.parse("m"),), Quantization(known[name]))
    build = Build(BuildRequest((target,)), recipe, LocalContext(folder, store, hash_files=True))
    return [plan.manifest for plan in plans_of(build, store)]


class Made:
    """A good model, what a build of it put into a shared cache, and how to build it again."""

    def __init__(self, folder: Path) -> None:
        write_family(folder / "model", FAMILIES["odd"])
        settle()
        self.folder = folder
        self.key = make_key(folder / "key.pem")
        self.objects: dict[str, Objects] = {}
        self.good: dict[str, bytes] = {}
        for name in NAMES:
            storage = MemoryStorage()
            cache = self.build(name, storage, writes=True, seal=Seal(self.key))
            self.good[name] = cache
            self.objects[name] = dict(storage.held)

    def build(
        self, name: str, storage: MemoryStorage, *, writes: bool = False, seal: Seal = UNSIGNED
    ) -> bytes:
        """The manifest that a machine without anything builds with this storage."""
        self.blobs = MemoryStore(self.folder / "store")
        self.ran = Outcome()
        self.asked = storage.asked
        shared = TeamCache(
            [] if writes else [storage], storage if writes else None, self.blobs.blobs, seal=seal
        )
        self.blobs.shared = shared
        steps = _steps(self.folder, name)
        list(BuildEngine(self.blobs).run(steps, self.ran))
        list(shared.drain())
        shared.close()
        return str(self.ran.results[steps[0]].facts["manifest"]).encode()

    def check(self, objects: Mapping[str, bytes], seal: Seal = UNSIGNED) -> None:
        """A build from these objects makes the good model, whatever is wrong with them."""
        storage = MemoryStorage()
        storage.held = dict(objects)
        assert self.build(NAMES[0], storage, seal=seal) == self.good[NAMES[0]]
        for digest, data in self.blobs.blobs.here.items():
            assert hashlib.sha256(data).hexdigest() == digest.hex


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The models, once."""
    yield Made(tmp_path_factory.mktemp("corruption"))


Change = Callable[[bytes, Made], bytes | None]


def _bit(place: float) -> Change:
    def change(data: bytes, made: Made) -> bytes:
        at = min(int(len(data) * place), len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << (at % 8)]) + data[at + 1 :]

    return change


def _field(**fields: Any) -> Change:
    """A record with other fields, its own check left as it was."""

    def change(data: bytes, made: Made) -> bytes:
        try:
            record = json.loads(data)
        except ValueError:  # a blob
            return json.dumps(fields, default=str).encode()
        return json.dumps({**record, **fields}).encode()

    return change


ANYTHING: dict[str, Change] = {
    "gone": lambda data, made: None,
    "empty": lambda data, made: b"",
    "half": lambda data, made: data[: len(data) // 2],
    "one-short": lambda data, made: data[:-1],
    "one-more": lambda data, made: data + b"\0",
    "twice": lambda data, made: data + data,
    "zeros": lambda data, made: bytes(len(data)),
    "backwards": lambda data, made: data[::-1],
    "a-page": lambda data, made: b"<html><body>502 Bad Gateway</body></html>",
    "null": lambda data, made: b"null",
    "a-number": lambda data, made: b"1",
    "a-list": lambda data, made: b"[]",
    "an-object": lambda data, made: b"{}",
    "deep": lambda data, made: b"[" * 100_000,
    "not-utf-8": lambda data, made: b"\xff\xfe" + data,
    "another-kind": _field(kind="other"),
    "another-key": _field(key="0" * 64),
    "no-value": _field(value=None),
    "a-list-for-value": _field(value=[1]),
    "value-of-nothing": _field(value=""),
    "check-of-nothing": _field(check=""),
    "check-is-a-list": _field(check=[]),
    "signature-is-a-list": _field(signature=[]),
    **{f"bit-{number}": _bit(number / 16) for number in range(16)},
}
"""What can become of an object by accident: on a disk, on the way, in a proxy."""

PLACES = ("record/step/", "record/description/", "record/range/", "record/source-ranges/", "blob/")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", ANYTHING)
@pytest.mark.parametrize("every", [True, False], ids=["all", "first"])
def test_damage_costs_a_rebuild(made: Made, place: str, change: str, every: bool) -> None:
    """Whatever became of all objects of a kind, or of the first one, the model is the same."""
    objects = dict(made.objects[NAMES[0]])
    names = sorted(name for name in objects if name.startswith(place))
    assert names
    if place in ("record/range/", "record/source-ranges/"):  # else nobody needs them
        for name in [name for name in objects if name.startswith("record/step/")]:
            del objects[name]
    for name in names if every else names[:1]:
        data = ANYTHING[change](objects.pop(name), made)
        if data is not None:
            objects[name] = data
    made.check(objects)


def _lying(data: bytes, value: str) -> bytes:
    """A record that says something else, with a check that is right: a malicious writer's."""
    from mbuild.shared.envelope import Seal as Forger

    record = json.loads(data)
    return Forger().close(record["kind"], record["key"], value)


def _layers(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """A step's result with other layers."""

    def changed(text: str) -> str:
        value = json.loads(text)
        for layer in value["layers"]:
            change(layer)
        return json.dumps(value)

    return changed


def _place(number: int, value: Any) -> Callable[[str], str]:
    """A range's place with another field."""

    def changed(text: str) -> str:
        fields = json.loads(text)
        fields[number] = value
        return json.dumps(fields)

    return changed


LIES: dict[str, tuple[str, Callable[[str], str]]] = {
    "size-one-more": ("step", _layers(lambda layer: layer.update(size=layer["size"] + 1))),
    "size-negative": ("step", _layers(lambda layer: layer.update(size=-1))),
    "size-huge": ("step", _layers(lambda layer: layer.update(size=1 << 62))),
    "size-a-text": ("step", _layers(lambda layer: layer.update(size="1"))),
    "size-true": ("step", _layers(lambda layer: layer.update(size=True))),
    "size-a-list": ("step", _layers(lambda layer: layer.update(size=[]))),
    "digest-of-nothing": ("step", _layers(lambda layer: layer.update(digest="sha256:" + "0" * 64))),
    "digest-a-path": ("step", _layers(lambda layer: layer.update(digest="../../etc/passwd"))),
    "digest-a-number": ("step", _layers(lambda layer: layer.update(digest=1))),
    "no-digest": ("step", _layers(lambda layer: layer.pop("digest"))),
    "type-a-number": ("step", _layers(lambda layer: layer.update(mediaType=1))),
    "layers-a-text": ("step", lambda text: '{"facts":{},"layers":"x"}'),
    "layers-null": ("step", lambda text: '{"facts":{},"layers":null}'),
    "facts-null": ("step", lambda text: text.replace('"facts":{', '"facts":null,"x":{', 1)),
    "result-a-list": ("step", lambda text: "[]"),
    "result-deep": ("step", lambda text: '{"layers":' + "[" * 50_000),
    "place-up": ("range", _place(0, "../../etc/passwd")),
    "place-absolute": ("range", _place(0, "/etc/passwd")),
    "place-partial": ("range", _place(0, "partial/tmp-1")),
    "place-no-digest": ("range", _place(0, "blobs/sha256-0")),
    "place-offset-huge": ("range", _place(1, 1 << 61)),
    "place-offset-negative": ("range", _place(1, -1)),
    "place-offset-other": ("range", _place(1, 0)),
    "place-offset-text": ("range", _place(1, "x")),
    "place-size-huge": ("range", _place(2, 1 << 61)),
    "place-size-large": ("range", _place(2, 1 << 31)),
    "place-size-zero": ("range", _place(2, 0)),
    "place-size-one-less": ("range", _place(2, 1)),
    "place-digest-other": ("range", _place(3, "0" * 64)),
    "place-digest-text": ("range", _place(3, "x")),
    "place-short": ("range", lambda text: json.dumps(json.loads(text)[:3])),
    "ranges-a-list": ("source-ranges", lambda text: "[]"),
    "ranges-numbers": ("source-ranges", lambda text: '{"0 output.weight": 1}'),
    "ranges-none": ("source-ranges", lambda text: "{}"),
    "description-other": ("description", lambda text: "{}"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_can_be_seen_costs_a_rebuild(made: Made, lie: str) -> None:
    """Checked records of impossible values: paths, sizes, digests and forms that cannot be."""
    table, change = LIES[lie]
    objects = dict(made.objects[NAMES[0]])
    if table != "step":
        objects = {name: data for name, data in objects.items() if "record/step/" not in name}
    for name in [name for name in objects if name.startswith(f"record/{table}/")]:
        objects[name] = _lying(objects[name], change(json.loads(objects[name])["value"]))
    made.check(objects)


def test_a_record_that_names_another_models_blob_costs_a_rebuild(made: Made) -> None:
    """A checked record whose layer is that of another type: the layer's header tells."""
    own, other = (dict(made.objects[name]) for name in NAMES)
    layer = next(
        layer
        for name, data in other.items()
        if name.startswith("record/step/")
        for layer in json.loads(json.loads(data)["value"])["layers"]
        if layer["mediaType"].endswith("model")
    )
    changed = 0
    for name in [name for name in own if name.startswith("record/step/")]:
        value = json.loads(json.loads(own[name])["value"])
        if value["layers"]:
            value["layers"] = [layer]
            own[name] = _lying(own[name], json.dumps(value))
            changed += 1
    assert changed
    made.check({**other, **own})
    assert any(what == "stream" for what, _ in made.asked), "it was fetched, and looked into"


@pytest.mark.parametrize("lie", ["step", "range", "source-ranges"])
def test_only_signed_records_count_where_a_key_is_given(
    made: Made, lie: str, tmp_path: Path
) -> None:
    """What somebody without the key wrote is not there, however good it looks."""
    signed = Seal(None, (made.key.public,))
    objects = dict(made.objects[NAMES[0]])
    made.check(objects, signed)
    assert "quantize" not in {step.kind for step in made.ran.ran}, "signed records count"
    stranger = Seal(make_key(tmp_path / "stranger.pem"))
    for name, data in list(objects.items()):
        if name.startswith("record/"):
            record = json.loads(data)
            objects[name] = stranger.close(record["kind"], record["key"], record["value"])
    made.check(objects, signed)
    assert "quantize" in {step.kind for step in made.ran.ran}, "a stranger's do not"
    made.check({**objects, **{n: d for n, d in made.objects[NAMES[0]].items() if lie in n}}, signed)


def test_a_signature_is_of_one_record(made: Made) -> None:
    """A good signature under another record's name, or beside another value, is none."""
    signed = Seal(None, (made.key.public,))
    records = [d for n, d in made.objects[NAMES[0]].items() if n.startswith("record/range/")]
    one, two = (json.loads(data) for data in records[:2])
    mixed = {**one, "signature": two["signature"]}
    assert signed.open(json.dumps(one).encode(), one["kind"], one["key"]) == one["value"]
    assert signed.open(json.dumps(mixed).encode(), one["kind"], one["key"]) is None
    assert signed.open(json.dumps(two).encode(), one["kind"], one["key"]) is None
    assert signed.open(json.dumps(one).encode(), "step", one["key"]) is None
