"""What decides a build is written by digest: sources, texts, options, versions of steps."""

from __future__ import annotations

import json

from planned import Q4, Q8, asked_for, file, layer, recipe, stored

from mbuild.build.graph import in_order
from mbuild.build.lock import BuildLock, drift_of_inputs, pinned_commits
from mbuild.build.pins import FILES, UNQUANTIZED, inputs, is_revision, results, variants
from mbuild.build.plan import plan
from mbuild.build.prepare import Resolved
from mbuild.build.sources.values import FileStamp, GGUFSource, RemotePlace, Sources
from mbuild.core.digest import Digest
from mbuild.registry.client.access import Access
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


def test_a_download_leaves_no_trace() -> None:
    """Whether something was here already says nothing of the project, and holds in no other store.

    Of the Hub a file has its commit in any case; one of a model of its registry has none.
    """
    place = RemotePlace("hf.co/org/m:Q4_K_M", "", Access())
    here = file("sha256-1", "w")._replace(sha256=Digest.of(b"w"))
    away = here._replace(stamp=FileStamp(0, 0, 100, 0, None), remote=place)
    exact = place._replace(source=f"hf.co/org/m@{Digest.of(b'm')}")
    texts = set()
    for each in (here, away, away._replace(remote=exact)):
        base = stored(layer(MODEL, "b"))
        if each is not here:
            base = base._replace(remote=place, data=b"{}")
        sources = Sources((base,), drafts=(GGUFSource((each,)),))
        planned = plan(recipe(), sources, asked_for())
        pulls = [step for step in in_order(planned[0].ends) if step.kind == "pull"]
        assert len(pulls) == (0 if each is here else 2)
        texts.add(json.dumps(inputs([Resolved(recipe(), sources, asked_for())], planned)))
    assert len(texts) == 1
    assert not is_revision("org/m:Q4_K_M") and is_revision(f"org/m@{'0' * 40}")
    now = json.loads(texts.pop())
    old = json.loads(json.dumps(now))  # as earlier versions wrote it before the downloads
    old["steps"]["pull"] = 1
    for text in ("org/m:Q4_K_M", f"org/m@{Digest.of(b'm')}"):
        old["sources"]["draft"][0]["revision"] = text
        lock = BuildLock(old, {UNQUANTIZED: {}})
        assert drift_of_inputs(lock, now, [UNQUANTIZED]) == [] and pinned_commits(lock) == {}
