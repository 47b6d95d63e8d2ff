"""What the log gets of a build: what was asked, and which step made which model."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.build.build import build
from mbuild.build.history import BuildRecord, History
from mbuild.build.prepare import Build
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe, Reference
from mbuild.store import Store


def names(*texts: str) -> tuple[ModelName, ...]:
    return tuple(map(ModelName.parse, texts))


def wanted(folder: Path, store: Store, model: str) -> Build:
    """A build of two targets, of which one has two names."""
    targets = (Target(names("a", "b")), Target(names("c")))
    request = BuildRequest(targets, Script("Modelfile", Digest.of(b""), str(folder)), "f16")
    return Build(request, Recipe((Reference(model),)), LocalContext(folder, store))


def last(store: Store) -> BuildRecord:
    return next(History(store).newest_first())


def test_each_target_has_the_step_that_made_it(tmp_path: Path) -> None:
    """The record has the request, and for each target the place of its manifest."""
    store = Store(tmp_path / "store")
    tiny_gguf(tmp_path / "model.gguf")
    asked = wanted(tmp_path, store, "./model.gguf")
    list(build(asked, store))
    record = last(store)
    assert record.request == asked.request
    assert len(record.manifests) == 2
    assert {record.steps[place].kind for place in record.manifests} == {"manifest"}
    told = [name for each in record.names_by_step.values() for name in each]
    assert told == [*record.names] == ["a:latest", "b:latest", "c:latest"]
    identity = record.models["c:latest"]
    assert record.target_of("c:latest", identity) == asked.request.targets[1]
    assert record.target_of("copy", identity) is not None
    assert record.target_of("c:latest", Digest.of(b"other")) is None


def test_a_build_that_found_no_source_has_its_request_only(tmp_path: Path) -> None:
    """It failed before there was a graph: no step, no model, but what was asked."""
    store = Store(tmp_path / "store")
    store.prepare()
    asked = wanted(tmp_path, store, "./nothing.gguf")
    with pytest.raises(MbuildError):
        list(build(asked, store))
    record = last(store)
    assert (record.result, record.steps, record.manifests) == ("failed", (), ())
    assert record.request == asked.request
    assert record.names == ("a:latest", "b:latest", "c:latest")
    assert record.names_by_step == {}


def test_a_build_that_gives_no_names(tmp_path: Path) -> None:
    """The models are made and recorded by their steps; the store names none."""
    store = Store(tmp_path / "store")
    tiny_gguf(tmp_path / "model.gguf")
    asked = wanted(tmp_path, store, "./model.gguf")
    asked = asked._replace(request=asked.request._replace(named=False))
    list(build(asked, store))
    record = last(store)
    assert (record.models, record.request.named) == ({}, False)
    assert len(record.manifests) == 2
    assert list(store.manifests.names()) == []
