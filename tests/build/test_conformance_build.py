"""What mbuild builds from 1,020 Modelfiles is what Ollama 0.32.15 built from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asked import asked
from conformance import Case, cases
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError
from mbuild.core.names import ModelName
from mbuild.language.printable import visible
from mbuild.store import Store

BUILT = [case for case in cases() if case.ok and not case.nonprintable]
INVISIBLE = [case for case in cases() if case.ok and case.nonprintable]
REFUSED = [case for case in cases() if not case.ok]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all cases: what a build makes does not depend on its neighbours."""
    return Store(copy_tiny_store(tmp_path_factory.mktemp("conformance") / "store"))


def build_case(case: Case, store: Store) -> ModelName:
    """Build a case under a name of its own."""
    name = ModelName.parse(f"case:{case.id}")
    context = LocalContext(Path(store.root), store)
    recipe, _ = read_recipe(case.modelfile, "Modelfile", store)
    for _ in build(asked(recipe, context, name), store):
        pass
    return name


def chunks(some: list[Case], size: int = 60) -> list[list[Case]]:
    """Cases in groups, so that workers share them and a failure names few."""
    return [some[start : start + size] for start in range(0, len(some), size)]


def ids(some: list[Case]) -> str:
    """A group's name."""
    return f"{some[0].id}-{some[-1].id}"


def test_there_are_as_many_cases_as_recorded() -> None:
    """Nothing was lost on the way into the repository."""
    assert (len(BUILT), len(INVISIBLE), len(REFUSED)) == (600, 60, 360)


@pytest.mark.parametrize("group", chunks(BUILT), ids=ids)
def test_manifest_config_and_layers_have_ollamas_bytes(group: list[Case], store: Store) -> None:
    """Manifest, config and every small layer are byte for byte what Ollama wrote."""
    for case in group:
        name = build_case(case, store)
        assert store.manifests.read_bytes(name) == case.manifest, case.id
        assert case.config is not None
        for layer in (case.config, *case.layers):
            digest = Digest.parse(layer.digest)
            if layer.content is not None:
                assert store.blobs.read(digest, 1 << 20) == layer.content, case.id
            assert store.blobs.has(digest, layer.size), case.id


@pytest.mark.parametrize("group", chunks(INVISIBLE), ids=ids)
def test_invisible_characters_are_kept(group: list[Case], store: Store) -> None:
    """Where Ollama drops characters, ours differs by exactly these characters."""
    for case in group:
        stored = store.manifests.read(build_case(case, store))
        ours = [
            (layer.media_type, visible(store.blobs.read(layer.digest, 1 << 20).decode()))
            for layer in stored.manifest.layers
            if layer.kind != "model"
        ]
        theirs = [
            (layer.media_type, layer.content.decode())
            for layer in case.layers
            if layer.content is not None
        ]
        assert [_texts(*layer) for layer in ours if layer[1]] == [
            _texts(*layer) for layer in theirs if layer[1]
        ], case.id


def _texts(media_type: str, text: str) -> tuple[str, object]:
    """A layer's text; JSON parsed, since escapes of invisible characters are visible."""
    if media_type.endswith(("params", "messages")):
        return media_type, json.loads(text, parse_constant=float, object_hook=_visible)
    return media_type, text


def _visible(value: dict[str, object]) -> dict[str, object]:
    def clean(item: object) -> object:
        if isinstance(item, list):
            return [clean(part) for part in item]
        return visible(item) if isinstance(item, str) else item

    return {key: clean(item) for key, item in value.items()}


@pytest.mark.parametrize("group", chunks(REFUSED), ids=ids)
def test_what_ollama_refuses_is_refused(group: list[Case], store: Store) -> None:
    """Each refused Modelfile raises an error of ours and leaves no manifest."""
    for case in group:
        with pytest.raises(MbuildError):
            build_case(case, store)
        assert store.manifests.read_bytes(ModelName.parse(f"case:{case.id}")) is None, case.id
