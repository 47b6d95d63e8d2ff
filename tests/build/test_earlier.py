"""Lines of the log that mbuild wrote before it wrote build requests are still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mbuild.build.earlier import record_of
from mbuild.build.history import BuildRecord, History
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Store

TEXT = Digest.of(b"FROM ./model.gguf\n")
ID = Digest.of(b"a model")


def line(names: list[str], **options: Any) -> dict[str, Any]:
    """A line as mbuild 0.1 wrote it."""
    steps = [
        {"kind": kind, "label": kind, "key": "", "inputs": [], "status": "cached"}
        for kind in ("import", "manifest", "config", "manifest")
    ]
    script = {"name": "Modelfile", "text": str(TEXT), "folder": "/f", "directory": "/d"}
    return {
        "id": "0123456789ab",
        "time": 5,
        "seconds": 1.5,
        "names": names,
        "models": {names[0]: str(ID)},
        "result": "built",
        "error": "",
        "script": {**script, "options": options},
        "steps": steps,
        "version": "0.1.0",
    }


def names(*texts: str) -> tuple[ModelName, ...]:
    return tuple(map(ModelName.parse, texts))


def test_variants_have_the_names_that_they_had() -> None:
    """Names stood variant by variant, each with as many; the options were the same for all."""
    value = line(
        ["m:q8_0", "n:q8_0", "m:q4_0", "n:q4_0"],
        quantize=["q8_0", "Q8_0", "q4_0"],
        pure=True,
        imatrix="i.dat",
        tensor_type=["attn_v=q6_K"],
        outtype="f16",
        link=True,
        draft_quantize="q8_0",
    )
    quantization = Quantization(
        file_type("q8_0"),
        imatrix="i.dat",
        pure=True,
        tensor_types=(("attn_v", GGMLType.Q6_K),),
    )
    record = BuildRecord.from_json(value)
    assert record.request == BuildRequest(
        (
            Target(names("m:q8_0", "n:q8_0"), quantization),
            Target(names("m:q4_0", "n:q4_0"), quantization._replace(file_type=file_type("q4_0"))),
        ),
        Script("Modelfile", TEXT, "/f", "/d"),
        "f16",
        draft_quantize=file_type("q8_0"),
        link=True,
    )
    assert record.names_by_step == {1: ("m:q8_0", "n:q8_0"), 3: ("m:q4_0", "n:q4_0")}
    assert (record.id, record.time, record.version) == ("0123456789ab", 5, "0.1.0")
    assert record.target_of("copy:latest", ID) == record.request.targets[0]


def test_a_plain_build_and_one_of_a_program() -> None:
    """Without -q there is one model of all names; a program's build tells no source."""
    plain = BuildRecord.from_json(line(["a", "b:latest"]))
    assert plain.request.targets == (Target(names("a", "b")),)
    program = {**line(["a"]), "script": None}
    assert BuildRecord.from_json(program).request == BuildRequest((Target(names("a")),))


def test_rules_that_stood_in_a_file(tmp_path: Path) -> None:
    """Of --tensor-type-file only the path was kept: it is read where it still can be."""
    (tmp_path / "rules").write_text("attn_v=q8_0\nffn=f16\n")
    value = line(["m"], quantize=["q4_0"], tensor_type=["a=q6_k"], tensor_type_file="rules")
    value["script"]["directory"] = str(tmp_path)
    (target,) = record_of(value)["request"]["targets"]
    assert target["quantize"]["tensor_type"] == ["a=Q6_K", "attn_v=Q8_0", "ffn=F16"]
    (tmp_path / "rules").unlink()
    (target,) = record_of(value)["request"]["targets"]
    assert target["quantize"]["tensor_type"] == ["a=Q6_K"]


@pytest.mark.parametrize("options", [{"quantize": ["q99"]}, {"quantize": 5}, {"quantize": [[]]}])
def test_a_line_that_cannot_be_read_is_passed_over(tmp_path: Path, options: Any) -> None:
    """One of a type that nobody knows any more costs itself only."""
    store = Store(tmp_path / "store")
    store.prepare()
    log = History(store)
    lines = [line(["good"]), line(["bad"], **options), {**line(["worse"]), "steps": 1}]
    log.path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert [record.names for record in log.newest_first()] == [("good:latest",)]
