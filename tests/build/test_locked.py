"""The gates that write a lock and hold a build to it, by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from asked import asked
from gguf_files import tiny_gguf

from mbuild.build.build import build
from mbuild.build.history import keep_modelfile
from mbuild.build.lock import BuildLock, locked_quantization, locked_request
from mbuild.build.locked import Locked, Writing
from mbuild.build.prepare import Build, read_recipe
from mbuild.build.request import Script, Target
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import ModelfileError
from mbuild.core.names import ModelName
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Store

NAME = ModelName.parse("m")


def wanted(folder: Path, store: Store, text: bytes) -> Build:
    """The build of a Modelfile, every file of it read beforehand."""
    recipe, _ = read_recipe(text, "Modelfile", store)
    keep_modelfile(text, store)
    source = Script("Modelfile", Digest.of(text), str(folder))
    return asked(recipe, LocalContext(folder, store, hash_files=True), NAME, source=source)


def lock_of(build_: Build, store: Store) -> BuildLock:
    """The lock that a build writes."""
    writing = Writing(build_)
    list(build(build_._replace(gate=writing), store))
    return BuildLock(writing.inputs, writing.results)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store beside a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def test_a_lock_holds_a_build(tmp_path: Path, store: Store) -> None:
    """What is locked is built; an edited line is refused at its place, and nothing runs."""
    first = wanted(tmp_path, store, b"FROM ./model.gguf\nSYSTEM one\n")
    lock, path = lock_of(first, store), Path("Modelfile.lock")
    list(build(first._replace(gate=Locked(lock, path, first, store)), store))
    other = wanted(tmp_path, store, b"FROM ./model.gguf\n\nSYSTEM two\n")
    with pytest.raises(ModelfileError) as refused:
        list(build(other._replace(gate=Locked(lock, path, other, store)), store))
    (problem,) = refused.value.problems
    assert (problem.code, problem.filename, problem.span.line) == ("drift", "Modelfile", 3)
    assert "SYSTEM changed" in problem.message
    assert "mbuild lock" in problem.suggestion


def test_a_result_that_differs_is_refused(tmp_path: Path, store: Store) -> None:
    """The inputs are as locked: the layer is named, and what the lock was written by."""
    first = wanted(tmp_path, store, b"FROM ./model.gguf\nSYSTEM one\n")
    lock = lock_of(first, store)
    ((variant, result),) = lock.results.items()
    layers = [{**layer, "digest": f"sha256:{'0' * 64}"} for layer in result["layers"]]
    other = BuildLock(lock.inputs, {variant: {**result, "layers": layers}}, "0.0.1")
    with pytest.raises(ModelfileError, match="layer 1 changed") as refused:
        list(build(first._replace(gate=Locked(other, Path("L"), first, store)), store))
    assert "which mbuild 0.0.1 wrote" in refused.value.problems[-1].suggestion


def test_what_a_lock_asks_for(tmp_path: Path, store: Store) -> None:
    """A variant's quantization comes back typed, and the request has what all targets share."""
    quantization = Quantization(
        file_type("q8_0"),
        pure=True,
        token_embedding_type=GGMLType.F16,
        tensor_types=(("attn_v", GGMLType.Q8_0),),
    )
    first = wanted(tmp_path, store, b"FROM ./model.gguf\n")
    request = first.request._replace(targets=(Target((NAME,), quantization),), pre="llama-bpe")
    lock = lock_of(first._replace(request=request), store)
    lock = BuildLock.from_text(lock.to_text(), "Modelfile.lock")
    assert locked_quantization(lock, "Q8_0") == quantization
    assert locked_quantization(lock, "Q4_0") is None
    assert request.script is not None
    assert locked_request(lock, request.targets[0], request.script) == request
