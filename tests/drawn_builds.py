"""Builds to draw: three variants of the example with an adapter, and their times made the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from example_models import generator, settle

from mbuild.build.build import build
from mbuild.build.forecast import Forecast, forecast
from mbuild.build.history import BuildRecord, History
from mbuild.build.prepare import Build, read_recipe
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Store

MODELFILE = """\
FROM ./tiny-chat
ADAPTER ./tiny-lora
SYSTEM You are Mario from {world}.
PARAMETER temperature 0.7
LICENSE Apache-2.0
"""

_TIME = 1_795_600_000_000_000_000
_SECONDS = {"quantize": 4.2, "convert-adapter": 0.4, "detect-template": 0.2}


class Drawn(NamedTuple):
    """A store with two builds: ``record`` is the last one, ``ahead`` what comes after an edit."""

    store: Store
    record: BuildRecord
    ahead: Forecast


def three_variants(folder: Path) -> Drawn:
    """Build three variants, edit SYSTEM and one type, build again; plan a third build."""
    make = generator()
    make.write_chat(folder / "tiny-chat")
    make.write_lora(folder / "tiny-lora")
    settle()
    store = Store(folder / "store")
    for types, world in (
        (("Q4_K_M", "Q8_0", "Q5_K_M"), "a game"),
        (("Q4_K_M", "Q8_0", "Q6_K"), "it"),
    ):
        for _ in build(request(folder, store, types, world), store):
            pass
    record = next(History(store).newest_first())
    ahead = forecast(request(folder, store, ("Q4_K_M", "Q8_0", "Q3_K_M"), "there"), store)
    steps = [
        step._replace(seconds=_SECONDS.get(step.kind, 0.01) if step.seconds != 0 else 0.0)
        for step in ahead.steps
    ]
    return Drawn(store, steady(record), ahead._replace(steps=tuple(steps)))


def request(folder: Path, store: Store, types: tuple[str, ...], world: str) -> Build:
    """The build of a Modelfile in ``folder`` to these types."""
    data = MODELFILE.format(world=world).encode()
    recipe, warnings = read_recipe(data, "Modelfile", store)
    targets = tuple(
        Target((ModelName.parse(f"mario:{type_}"),), Quantization(file_type(type_)))
        for type_ in types
    )
    script = Script("Modelfile", Digest.of(data), str(folder))
    request = BuildRequest(targets, script)
    return Build(request, recipe, LocalContext(folder, store), warnings=warnings)


def steady(record: BuildRecord) -> BuildRecord:
    """The same build at a given time, with given times of its steps, from a given folder.

    Of two steps with one key that begin at once, either may find the other's
    result; here both ran.
    """
    ran = {(step.kind, step.key): step for step in record.steps if step.status == "ran"}
    now, steps = 0.02, []
    for each in record.steps:
        step = ran.get((each.kind, each.key), each)._replace(inputs=each.inputs)
        seconds = _SECONDS.get(step.kind, 0.02) if step.status == "ran" else 0.0
        materials = tuple(m._replace(place=f"/home/me/{m.name}") for m in step.materials)
        started = now if seconds else 0.0
        steps.append(step._replace(started=started, seconds=seconds, materials=materials))
        now += seconds
    assert record.request.script is not None
    request = record.request._replace(source=record.request.script._replace(folder="/home/me"))
    return record._replace(
        id="6b06f1952e31", time=_TIME, seconds=now + 0.03, request=request, steps=tuple(steps)
    )
