"""The other forms of a model's manifest in ``/v2/``, the lists of models, tags and referrers."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Server, serving_here
from programs import need
from stores import check_promise, copy_tiny_store

from mbuild.core.digest import Digest
from mbuild.core.errors import RegistryError
from mbuild.core.names import ModelName
from mbuild.core.transfers import Transferred
from mbuild.registry.client.access import Access
from mbuild.registry.client.registry import OCI_INDEX, OCI_MANIFEST
from mbuild.registry.dialects import docker, modelpack
from mbuild.registry.dialects.table import BY_NAME, DIALECTS
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.pull import pull
from mbuild.registry.transfer.push import Wanted, push
from mbuild.server import forms
from mbuild.store import Store

TINY = ModelName.parse("tiny")
SUFFIXES = [dialect.suffix for dialect in DIALECTS if dialect.suffix]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with ``tiny`` that takes pushes."""
    with serving_here(copy_tiny_store(tmp_path / "there"), writable=True) as found:
        yield found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_form_by_tag_and_by_digest(server: Server, suffix: str, tmp_path: Path) -> None:
    """Equal bytes each time, every blob is there, and mbuild pulls the same model from it."""
    path = f"/v2/library/tiny/manifests/latest{suffix}"
    answer = server.http.get(path)
    assert answer.headers["content-type"] == OCI_MANIFEST
    digest = answer.headers["docker-content-digest"]
    assert digest == "sha256:" + hashlib.sha256(answer.content).hexdigest()
    assert server.http.get(path.replace(f"latest{suffix}", digest)).content == answer.content
    assert server.http.head(path).headers["content-length"] == str(len(answer.content))
    value = answer.json()
    for layer in (value["config"], *value["layers"]):
        data = server.http.get(f"/v2/library/tiny/blobs/{layer['digest']}").content
        assert layer["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        assert layer["size"] == len(data)
    store = Store(tmp_path / "other")
    reference = ModelReference.parse(f"127.0.0.1:{server.port}/library/tiny:latest{suffix}")
    *_, last = pull(reference, TINY, store, Access())
    assert isinstance(last, Transferred)
    assert last.id == server.store.manifests.read(TINY).id
    assert check_promise(store.root) == 1


def test_what_refers_to_a_model(server: Server) -> None:
    """Both other forms, or those of one type; nothing to what is not there."""
    identity = server.store.manifests.read(TINY).id
    answer = server.http.get(f"/v2/library/tiny/referrers/{identity}")
    assert answer.headers["content-type"] == OCI_INDEX
    rows = answer.json()["manifests"]
    assert [row["artifactType"] for row in rows] == [modelpack.ARTIFACT_TYPE, docker.CONFIG]
    for row in rows:
        data = server.http.get(f"/v2/library/tiny/manifests/{row['digest']}").content
        assert row["size"] == len(data)
        assert json.loads(data)["subject"]["digest"] == str(identity)
    query = {"artifactType": docker.CONFIG}
    one = server.http.get(f"/v2/library/tiny/referrers/{identity}", params=query)
    assert one.json()["manifests"] == rows[1:]
    assert one.headers["oci-filters-applied"] == "artifactType"
    for path in (f"library/tiny/referrers/sha256:{'0' * 64}", f"a/b/referrers/{identity}"):
        empty = server.http.get(f"/v2/{path}")
        assert (empty.status_code, empty.json()["manifests"]) == (200, [])
    bad = server.http.get("/v2/library/tiny/referrers/sha256:1")
    assert (bad.status_code, bad.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")


def test_a_tag_of_the_store_comes_before_a_form(server: Server) -> None:
    """A model that is really called so is what the tag means."""
    name = "library/tiny:latest-docker"
    server.http.post("/api/copy", json={"source": "tiny", "destination": name})
    answer = server.http.get("/v2/library/tiny/manifests/latest-docker")
    assert answer.content == server.store.manifests.read_bytes(TINY)
    assert server.http.get("/v2/library/tiny/manifests/-docker").status_code == 404
    assert forms.by_tag(server.store, ModelName.parse("none:v1-docker")) is None
    assert list(forms.of_model(server.store, ModelName.parse("none"))) == []


def test_a_damaged_model_has_no_forms(server: Server) -> None:
    """Its config is gone: the tag is unknown, and nothing refers to it."""
    stored = server.store.manifests.read(TINY)
    server.store.blobs.path(stored.manifest.config.digest).unlink()
    assert server.http.get("/v2/library/tiny/manifests/latest-docker").status_code == 404
    assert server.http.get(f"/v2/library/tiny/referrers/{stored.id}").json()["manifests"] == []


def test_mbuild_pushes_all_forms_to_mbuild(server: Server, tmp_path: Path) -> None:
    """They are there already, being made from the model; under another tag they cannot be."""
    store = Store(copy_tiny_store(tmp_path / "here"))
    reference = ModelReference.parse(f"127.0.0.1:{server.port}/org/tiny:v1")
    wanted = [Wanted(dialect) for dialect in DIALECTS]
    *_, last = push(TINY, reference, store, Access(), wanted)
    assert isinstance(last, Transferred)
    *_, again = push(TINY, reference, store, Access(), wanted)
    assert isinstance(again, Transferred) and again.moved == 0
    assert {name.tag for name in server.store.manifests.names()} == {"latest", "v1"}
    with pytest.raises(RegistryError, match=": org/tiny:mine: this registry takes only Ollama"):
        list(push(TINY, reference, store, Access(), [Wanted(BY_NAME["docker"], "mine")]))
    assert check_promise(server.root) == 2


def test_all_models_and_their_tags_in_pages(server: Server) -> None:
    """In order, at most ``n`` after ``last``, and a link to the next ones."""
    for name in ("b:v1", "b:v2", "b:v3", "ghcr.io/org/c:v1"):
        server.http.post("/api/copy", json={"source": "tiny", "destination": name})
    everything = ["ghcr.io/org/c", "library/b", "library/tiny"]
    assert server.http.get("/v2/_catalog").json() == {"repositories": everything}
    for path, key, names in (
        ("/v2/_catalog", "repositories", everything),
        ("/v2/library/b/tags/list", "tags", ["v1", "v2", "v3"]),
    ):
        found, following = [], f"{path}?n=2"
        while following:
            answer = server.http.get(following)
            page = answer.json()[key]
            assert len(page) <= 2
            found += page
            following = answer.links.get("next", {}).get("url", "")
        assert found == names
        for odd in ("n=x", "n=-1", "n=99", "n="):
            assert server.http.get(f"{path}?{odd}").json()[key] == names
        empty = server.http.get(f"{path}?n=0")
        assert empty.json()[key] == [] and not empty.links
    assert server.http.get("/v2/library/b/tags/list?last=v2").json()["tags"] == ["v3"]


def test_skopeo_copies_a_form_from_it(server: Server, tmp_path: Path) -> None:
    """With every blob and the manifest's bytes."""
    need("skopeo")
    for suffix in SUFFIXES:
        folder = tmp_path / f"copy{suffix}"
        place = f"docker://127.0.0.1:{server.port}/library/tiny:latest{suffix}"
        command = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"]
        done = subprocess.run(
            [*command, "--preserve-digests", place, f"dir:{folder}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        data = (folder / "manifest.json").read_bytes()
        shown = forms.by_tag(server.store, ModelName.parse(f"tiny:latest{suffix}"))
        assert shown is not None and shown.digest == Digest.of(data)
