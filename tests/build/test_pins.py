"""What decides a build is written by digest: sources, texts, options, versions of steps."""

from __future__ import annotations

import json

from planned import Q4, Q8, asked_for, file, layer, recipe, stored

from mbuild.build.pins import FILES, UNQUANTIZED, inputs, results, variants
from mbuild.build.plan import plan
from mbuild.build.prepare import Resolved
from mbuild.build.sources.values import GGUFSource, Sources
from mbuild.core.digest import Digest
from mbuild.store import Manifest
from mbuild.store.manifest import CONFIG_TYPE
from mbuild.store.media import MODEL


def test_a_file_is_written_by_name_and_digest() -> None:
    """Neither its path nor its time; the texts of instructions by digest too."""
    sources = Sources((GGUFSource((file("a.gguf", "content"),)),))
    asked, request = recipe(system="s", parameters={"seed": 1}), asked_for()
    found = inputs([Resolved(asked, sources, request)], plan(asked, sources, request))
    named = file("a.gguf", "content").locked
    assert found["sources"]["from"] == [{"files": {"a.gguf": str(named)}}]
    assert found["modelfile"] == {"system": str(Digest.of(b"s")), "parameters": {"seed": 1}}
    assert found["options"]["quantize"] == {}
    assert set(found["steps"]) >= {"import", "params", "config", "manifest"}
    assert "nowhere" not in json.dumps(found)


def test_each_variant_has_its_options() -> None:
    """By its type; an importance matrix by its digest, so that another file is a difference."""
    matrix = file("m.dat", "matrix")
    base = stored(layer(MODEL, "w"))
    sources = Sources((base,), imatrices={"m.dat": matrix})
    request = asked_for((Q4._replace(imatrix="m.dat"), Q8))
    found = inputs([Resolved(recipe(), sources, request)], plan(recipe(), sources, request))
    options = found["options"]["quantize"]
    assert tuple(options) == variants(request) == ("Q4_0", "Q8_0")
    assert options["Q4_0"][FILES[0]] == {"m.dat": str(matrix.locked)}
    assert options["Q8_0"][FILES[0]] is None
    assert found["sources"]["from"] == [{"model": str(base.name), "manifest": str(base.id)}]


def test_a_result_is_its_manifest() -> None:
    """The model's id, its config and its layers, as the manifest's bytes have them."""
    weights = layer(MODEL, "w")
    data = Manifest(layer(CONFIG_TYPE, "{}"), (weights,)).encode()
    (found,) = results(asked_for(), [data]).items()
    name, value = found
    assert name == UNQUANTIZED
    assert value["id"] == str(Digest.of(data))
    assert value["layers"] == [weights.to_json()]
