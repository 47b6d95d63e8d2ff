"""The published JSON Schemas hold what mbuild really writes, and nothing that it would not read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Run
from documents import DOCS
from example_models import generator, settle
from inprocess import in_process

from mbuild.build.history import History
from mbuild.build.request import BuildRequest
from mbuild.core.errors import FormatError
from mbuild.store import Store

REQUEST = json.loads((DOCS / "request.schema.json").read_text())
PROGRESS = json.loads((DOCS / "progress.schema.json").read_text())

BUILDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "converted": ("--outtype", "f16", "--pre", "llama-bpe"),
    "quantized": ("-q", "q4_K_M", "-q", "q8_0", "--pure", "--imatrix", "imatrix.dat"),
    "with all options": (
        *("-q", "q5_K_M", "--recipe", "ollama", "--leave-output-tensor"),
        *("--token-embedding-type", "q8_0", "--tensor-type", "attn_v=f16", "--allow-requantize"),
        *("--override-kv", "general.author=str:me"),
    ),
    "split": ("--split-layers", "1"),
    "with arguments": ("-f", "stages.Modelfile", "--build-arg", "WHO=Luigi", "--target", "a"),
}


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, in a folder with a checkpoint."""
    import struct

    generator().write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    lines = ["# syntax=mbuild/1", "ARG WHO=Mario", "FROM ./chat AS a", "SYSTEM You are ${WHO}."]
    (tmp_path / "stages.Modelfile").write_text("\n".join(lines) + "\n")
    name = b"blk.0.attn_q.weight"
    row = struct.pack("<ii", 1, 256) + struct.pack("<256f", *range(1, 257))
    (tmp_path / "imatrix.dat").write_bytes(struct.pack("<ii", 1, len(name)) + name + row)
    settle()
    return in_process(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", BUILDS)
def test_real_requests_and_events_fit(name: str, mbuild: Run, tmp_path: Path) -> None:
    """What the log and the statement have of a build, and every line of --progress json."""
    done = mbuild("-t", "mario", "--progress", "json", *BUILDS[name])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    for line in lines:
        jsonschema.validate(line, PROGRESS)
    record = next(History(Store(tmp_path / "store")).newest_first())
    jsonschema.validate(record.request.to_json(), REQUEST)
    for built in record.models:
        said = json.loads(mbuild("provenance", built, "--format", "json").stdout)
        asked = said["predicate"]["buildDefinition"]["externalParameters"]["request"]
        jsonschema.validate(asked, REQUEST)
    if name != "converted":  # whose pre-tokenizer does not fit
        assert done.returncode == 0, done.stderr


def test_the_schema_and_the_reader_agree_on_what_is_none(mbuild: Run, tmp_path: Path) -> None:
    """Each field with a wrong kind of value, unknown fields, none at all: refused by both."""
    assert mbuild("-t", "mario", *BUILDS["with all options"]).returncode == 0
    record = next(History(Store(tmp_path / "store")).newest_first())
    good = record.request.to_json()
    jsonschema.validate(good, REQUEST)
    for path, value in (
        (("request",), 2),
        (("unknown",), 1),
        (("modelfile", "unknown"), "x"),
        (("modelfile", "text"), "no digest"),
        (("targets",), {}),
        (("targets", 0, "names"), "mario"),
        (("targets", 0, "unknown"), 1),
        (("targets", 0, "quantize", "unknown"), 1),
        (("targets", 0, "quantize", "type"), 1),
        (("targets", 0, "quantize", "leave_output_tensor"), "yes"),
        (("targets", 0, "quantize", "recipe"), "mine"),
        (("link",), "yes"),
        (("pre",), 1),
    ):
        bad: Any = copy.deepcopy(good)
        place = bad
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, REQUEST)
        with pytest.raises(FormatError):
            BuildRequest.from_json(bad)
    for junk in ({}, [], None, "x", {"request": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(junk, REQUEST)
