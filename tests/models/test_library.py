"""The models of a store by themselves: a Modelfile of one, by any reference to its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import copy_tiny_store

from mbuild.build.prepare import read_recipe
from mbuild.core.names import ModelName
from mbuild.core.values import replace
from mbuild.models.library import by_digest, by_path, modelfile_of, view
from mbuild.store import Layer, Manifest, Store
from mbuild.store.contents import Contents
from mbuild.store.media import MODEL, PARAMS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the model ``tiny``."""
    return Store(copy_tiny_store(tmp_path / "store"))


@pytest.fixture
def tiny(store: Store) -> Contents:
    """What is in it."""
    return view(store, ModelName.parse("tiny"))


def from_lines(text: str) -> list[str]:
    """The FROM lines of a Modelfile."""
    return [line for line in text.splitlines() if line.startswith("FROM ")]


def test_weights_are_named_by_path_by_digest_or_as_the_caller_says(
    store: Store, tiny: Contents
) -> None:
    """Three front ends name the same layer in three ways."""
    (layer,) = tiny.stored.manifest.of_kind(MODEL)

    def file(layer: Layer) -> str:
        return f"./{layer.kind}.gguf"

    assert from_lines(modelfile_of(tiny, by_path(store))) == [
        f"FROM {store.blobs.path(layer.digest)}"
    ]
    assert from_lines(modelfile_of(tiny, by_digest)) == [f"FROM @{layer.digest}"]
    assert from_lines(modelfile_of(tiny, file)) == ["FROM ./model.gguf"]


def test_a_path_that_is_no_text_becomes_a_digest(tiny: Contents, tmp_path: Path) -> None:
    """A Modelfile is UTF-8; a folder's name need not be."""
    (layer,) = tiny.stored.manifest.of_kind(MODEL)
    odd = Store(tmp_path / "caf\udce9")
    assert by_path(odd)(layer) == f"@{layer.digest}"


@pytest.mark.parametrize("text", ["SYSTEM hi", "hi", 'SYSTEM "hi there"', "a\nSYSTEM hi\nb"])
def test_each_text_stands_in_its_own_instruction(store: Store, tiny: Contents, text: str) -> None:
    """A template, a system message and a license of the same words are three instructions."""
    same = replace(tiny, template=text, system=text, licenses=(text, text))
    recipe, _ = read_recipe(modelfile_of(same, by_digest).encode(), "Modelfile", store)
    assert (recipe.template, recipe.system, recipe.licenses) == (text, text, (text, text))


def test_a_view_reads_numbers_as_ollama_does(store: Store, tiny: Contents) -> None:
    """Every number of the parameters is a float, whatever it looks like in the layer."""
    blob = store.blobs.put(b'{"top_k":40,"seed":-0}')
    manifest = tiny.stored.manifest
    layers = (*manifest.layers, Layer(PARAMS, blob.digest, blob.size))
    store.replace(ModelName.parse("m"), Manifest(manifest.config, layers).encode())
    parameters = view(store, ModelName.parse("m")).parameters
    assert repr(dict(parameters)) == "{'top_k': 40.0, 'seed': -0.0}"
