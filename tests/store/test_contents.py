"""The one reader of stored models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gguf_files import gguf_bytes, tiny_model

from mbuild.core.errors import DamagedError, FormatError
from mbuild.core.names import ModelName
from mbuild.store import Layer, Manifest, Store, StoredManifest
from mbuild.store.contents import (
    MAX_SMALL,
    Numbers,
    open_layer,
    read_contents,
    read_object,
    read_text,
)
from mbuild.store.manifest import CONFIG_TYPE
from mbuild.store.media import (
    LICENSE,
    MESSAGES,
    MODEL,
    PARAMS,
    PROMPT,
    SYSTEM,
    TEMPLATE,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def layer(store: Store, media_type: str, content: Any) -> Layer:
    """A layer with bytes, or with the JSON of anything else."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    blob = store.blobs.put(data)
    return Layer(media_type, blob.digest, blob.size)


def model(store: Store, *layers: Layer, config: Mapping[str, Any] | bytes = {}) -> StoredManifest:
    """A model of these layers, as the store reads it."""
    name = ModelName.parse("m")
    store.replace(name, Manifest(layer(store, CONFIG_TYPE, config), layers).encode())
    return store.manifests.read(name)


def test_of_several_texts_the_last_counts_and_licenses_add_up(store: Store) -> None:
    """As in Ollama, which keeps old layers that a build did not replace."""
    rows = [(SYSTEM, b"one"), (SYSTEM, b"two"), (LICENSE, b"MIT"), (LICENSE, b"BSD")]
    found = read_contents(store.blobs, model(store, *(layer(store, *row) for row in rows)))
    assert (found.system, found.licenses, found.template) == ("two", ("MIT", "BSD"), "")


def test_an_old_prompt_stands_for_a_template_that_is_missing(store: Store) -> None:
    """Models of 2023 have their template in a layer of another type."""
    prompt = layer(store, PROMPT, b"{{ .Prompt }}")
    assert read_contents(store.blobs, model(store, prompt)).template == "{{ .Prompt }}"
    both = model(store, prompt, layer(store, TEMPLATE, b"new"))
    assert read_contents(store.blobs, both).template == "new"


def test_numbers_are_as_written_or_as_go_reads_them(store: Store) -> None:
    """40 is an int for whoever exports it, a double for whoever merges it; -0 keeps its sign."""
    stored = model(store, layer(store, PARAMS, b'{"top_k":40,"seed":-0,"stop":["x"]}'))
    written = read_contents(store.blobs, stored).parameters
    as_go = read_contents(store.blobs, stored, Numbers.AS_IN_GO).parameters
    assert repr(written) == "{'top_k': 40, 'seed': 0, 'stop': ['x']}"
    assert repr(as_go) == "{'top_k': 40.0, 'seed': -0.0, 'stop': ['x']}"


def test_details_say_where_the_weights_came_from(store: Store) -> None:
    """The first layer of weights with an origin names the parent."""
    weights = layer(store, MODEL, b"x")._replace(origin="base:latest")
    config = {"model_family": "llama", "file_type": "F16"}
    details = read_contents(store.blobs, model(store, weights, config=config)).details
    assert details["parent_model"] == "base:latest"
    assert (details["family"], details["families"]) == ("llama", None)
    assert (details["quantization_level"], details["parameter_size"]) == ("F16", "")


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        (PARAMS, b"[1]"),
        (PARAMS, b"{"),
        (PARAMS, b"null"),
        (MESSAGES, b"{}"),
        (MESSAGES, b'["a"]'),
        (MESSAGES, b"[" * 100_000),
        (CONFIG_TYPE, b"7"),
    ],
)
def test_json_of_another_form_is_damage_that_names_the_blob(
    store: Store, media_type: str, content: bytes
) -> None:
    """A params layer that is an array, messages that are no objects, a config that is a number."""
    wrong = layer(store, media_type, content)
    given = model(store, config=content) if media_type == CONFIG_TYPE else model(store, wrong)
    with pytest.raises(DamagedError, match=rf"{wrong.digest} \({wrong.kind}\) is not a JSON") as e:
        read_contents(store.blobs, given)
    assert e.value.hint == "build or pull the model again"


def test_a_blob_that_is_gone_or_too_long_is_damage(store: Store) -> None:
    """Nothing is read without a limit."""
    text = layer(store, SYSTEM, b"12345")
    assert read_text(store.blobs, text) == "12345"
    with pytest.raises(DamagedError, match="longer than 4 bytes"):
        read_text(store.blobs, text, 4)
    long = layer(store, CONFIG_TYPE, b"{}" + b" " * MAX_SMALL)
    with pytest.raises(DamagedError, match="longer than"):
        read_object(store.blobs, long)
    store.blobs.path(text.digest).unlink()
    with pytest.raises(DamagedError, match="No such file"):
        read_text(store.blobs, text)


def test_weights_are_opened_under_the_models_name(store: Store) -> None:
    """A header that is not GGUF and a file that is cut short are told apart, with the name."""
    good, bad = layer(store, MODEL, gguf_bytes(tiny_model())), layer(store, MODEL, b"GGML")
    with open_layer(store.blobs, good, "mario") as file:
        assert file.tensors
    with pytest.raises(FormatError, match="mario"), open_layer(store.blobs, bad, "mario"):
        pass
    store.blobs.path(good.digest).write_bytes(b"short")
    with (
        pytest.raises(DamagedError, match=f"mario: its model {good.digest} is missing"),
        open_layer(store.blobs, good, "mario"),
    ):
        pass
