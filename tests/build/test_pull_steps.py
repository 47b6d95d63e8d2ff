"""The step that downloads, and what a build has to know before it is planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from hub_stand_in import TOKEN, HubStandIn, hub_stand_in
from inprocess import in_process
from live_server import lines_of, serving_here
from stand_in import stand_in
from stores import check_promise, copy_tiny_store

from mbuild.build.learning import Inquiry, learn_address
from mbuild.build.sources.hub import absent, needed_names
from mbuild.build.sources.values import RemotePlace
from mbuild.build.steps.pull import Pull, pull_of, pulls
from mbuild.build.steps.pulling import fetch
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.core.names import ModelName
from mbuild.registry.client.access import Access
from mbuild.registry.hub.listing import HubFile, Listing
from mbuild.registry.reference import ModelReference
from mbuild.registry.transfer.push import push
from mbuild.store import Store


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "DOCKER_CONFIG", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return in_process(tmp_path, monkeypatch)


def listing(*names: str, shards: tuple[str, ...] = ()) -> Listing:
    return Listing("a/b", "0" * 40, {name: HubFile(name, 1, "") for name in names}, shards)


def test_only_one_form_of_the_weights_is_needed() -> None:
    """Shards of the index before a whole file, that before others; GGUF and pickles only then."""
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    other, config = "consolidated.safetensors", "config.json"
    index = "model.safetensors.index.json"
    assert needed_names(listing(config, index, one, two, other, "x.bin", shards=(one, two))) == [
        config, one, two, index,
    ]  # fmt: skip
    assert needed_names(listing(config, "model.safetensors", other, "tf.h5")) == [
        config, "model.safetensors",
    ]  # fmt: skip
    assert needed_names(listing(other, "sub/x.safetensors")) == [other]
    assert needed_names(listing("a.gguf", "README.md", "p.bin")) == ["README.md", "a.gguf"]
    assert needed_names(listing(config, "p.bin")) == [config, "p.bin"]


def test_files_of_one_place_are_one_step(tiny_store: Store) -> None:
    """Two who need the same have one node; what is read in place needs none."""
    place = RemotePlace("hf.co/a/b@1", "http://x/1", Access())
    one = absent("1", Digest("1" * 64), 5, place, tiny_store)
    two = absent("2", Digest("2" * 64), 6, place, tiny_store)
    other = absent("3", Digest("3" * 64), 7, place._replace(source="hf.co/c/d@2"), tiny_store)
    steps = pulls([one, two, other, one._replace(remote=None)])
    assert [step.source for step in steps] == ["hf.co/a/b@1", "hf.co/c/d@2"]
    assert pulls([one, two]) == steps[:1] and hash(pulls([one, two])[0]) == hash(steps[0])
    assert steps[0].cost(tiny_store).writes == 11
    assert not steps[0].is_there(tiny_store, bring=True)
    assert one.is_absent and one.locked == Digest("1" * 64)
    assert isinstance(steps[0], Pull) and callable(fetch)
    from mbuild.build.sources.values import StoredModel

    stored = tiny_store.manifests.read(ModelName.parse("tiny"))
    assert pull_of(StoredModel(stored.name, stored.id, stored.manifest), ()) == ()


def test_an_address_needs_a_digest(tiny_store: Store) -> None:
    """Else nobody could tell whether it is the same file tomorrow."""
    with pytest.raises(SourceError, match="needs the digest"):
        list(learn_address("FROM", "https://x.org/a.gguf?x=1", Inquiry(Access()), tiny_store))


def test_a_model_of_a_registry_is_a_step_and_known_beforehand(mbuild: Run, tmp_path: Path) -> None:
    """``plan`` tells its bytes from the manifest; a cached quantization needs no weights."""
    with stand_in() as (registry, host):
        store = Store(copy_tiny_store(tmp_path / "there"))
        name = ModelName.parse("tiny")
        list(push(name, ModelReference.parse(f"{host}/org/tiny:v1"), store, Access()))
        size = store.manifests.read(name).size
        weights = store.manifests.read(name).manifest.layers[0].digest
        (tmp_path / "Modelfile").write_text(f"FROM {host}/org/tiny:v1\nSYSTEM Hi\n")
        registry.sent.clear()
        plan = json.loads(mbuild("plan", "-t", "m", "--format", "json").stdout)
        assert plan["fetches"] == size and not registry.sent
        options = ("-t", "m", "-q", "q8_0", "--allow-requantize")
        done = mbuild(*options)
        assert done.returncode == 0, done.stderr
        assert registry.sent[str(weights)] > 0
        assert check_promise(tmp_path / "store") == 2
        assert mbuild("rm", f"{host}/org/tiny:v1", "--purge").returncode == 0
        registry.sent.clear()
        registry.requests.clear()
        done = mbuild(*options)
        assert done.returncode == 0, done.stderr
        assert registry.sent[str(weights)] == 0  # the result is cached
        shown = mbuild("history", "m", "--format", "json").stdout
        assert f"pull {host}/org/tiny:v1" in shown


def test_adapters_and_drafts_of_registries(mbuild: Run, tmp_path: Path) -> None:
    """DRAFT names a model of a registry: its weights come, without the model's name."""
    with stand_in() as (registry, host):
        store = Store(copy_tiny_store(tmp_path / "there"))
        list(push(ModelName.parse("tiny"), ModelReference.parse(f"{host}/o/t"), store, Access()))
        (tmp_path / "Modelfile").write_text(f"FROM {host}/o/t\nDRAFT {host}/o/t\n")
        done = mbuild("-t", "m")
        assert done.returncode == 0, done.stderr
        layers = Store(tmp_path / "store").manifests.read(ModelName.parse("m")).manifest.layers
        kinds = [layer.kind for layer in layers]
        assert kinds.count("model") == kinds.count("draft") == 1
        registry.requests.clear()
        assert "0 steps run" in mbuild("-t", "m").stderr and registry.requests == []


def hub_with(hub: HubStandIn, folder: Path) -> None:
    files = write_chat(folder)
    hub.put("org/chat", {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()})


def test_over_http_only_a_named_mirror_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """403 with how to allow it, and with it the build, with its operator's token."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_stand_in() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub_with(hub, tmp_path / "chat")
        hub.repositories["org/chat"].private = True
        host = hub.url.partition("://")[2]
        body = {"model": "mine", "from": "hf.co/org/chat"}
        with serving_here(tmp_path / "closed") as server:
            answer = server.create(**body)
            assert answer.status_code == 403 and f"--registry {host}" in answer.json()["error"]
        assert hub.requests == []
        with serving_here(tmp_path / "half", registries=[f"http://{host}"]) as server:
            (error,) = [line for line in lines_of(server.create(**body)) if "error" in line]
            assert "loopback address, and was not named" in error["error"]  # the storage
        with serving_here(tmp_path / "open", registries=[hub.url, hub.storage]) as server:
            lines = lines_of(server.create(**body))
            assert lines[-1] == {"status": "success"}, lines
