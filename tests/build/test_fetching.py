"""FROM a model in a registry: fetched when it is missing, and never else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run
from gguf_files import gguf_bytes, tiny_model
from inprocess import in_process
from live_server import lines_of, serving_here
from registries import docker_registry
from stand_in import StandIn, stand_in
from stores import check_promise, copy_tiny_store

from mbuild.build.fetching import Fetching, PullMode, is_whole
from mbuild.core.digest import Digest
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.registry.client.access import Access
from mbuild.registry.reference import ModelReference
from mbuild.registry.stored import stored_name
from mbuild.registry.transfer.push import push
from mbuild.store import Store
from mbuild.store.media import ADAPTER


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without logins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, on an empty store."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[StandIn, str]]:
    """A registry that has ``org/tiny:v1``."""
    with stand_in() as (found, host):
        yield found, host if put(found, host, tmp_path / "there") else ""


def put(registry: StandIn, host: str, folder: Path, system: str = "") -> str:
    """Push ``tiny`` as ``org/tiny:v1``; its id."""
    store = Store(folder if folder.is_dir() else copy_tiny_store(folder))
    name = ModelName.parse("tiny")
    if system:
        from mbuild.store import Layer
        from mbuild.store.media import SYSTEM

        blob = store.blobs.put(system.encode())
        manifest = store.manifests.read(name).manifest
        layers = (*manifest.layers[:1], Layer(SYSTEM, blob.digest, blob.size))
        store.replace(name, manifest._replace(layers=layers).encode())
    list(push(name, ModelReference.parse(f"{host}/org/tiny:v1"), store, Access()))
    registry.requests.clear()
    return str(store.manifests.read(name).id)


def modelfile(folder: Path, line: str) -> None:
    (folder / "Modelfile").write_text(f"FROM {line}\nPARAMETER temperature 0.5\n")


@pytest.mark.parametrize(
    "command", [["plan"], ["explain"], ["lock"], ["build", "--dry-run"], ["build", "-t", "x"]]
)
def test_an_error_of_a_registry_stands_at_its_line(
    command: list[str], mbuild: Run, tmp_path: Path
) -> None:
    """Of the Modelfile that was named, whether a build runs or is only looked at."""
    (tmp_path / "pl").mkdir()
    (tmp_path / "pl" / "Other.Modelfile").write_text("FROM 127.0.0.1:1/org/b:v1\n")
    done = mbuild(*command, "-f", "pl/Other.Modelfile")
    assert done.returncode == 1 and "--> pl/Other.Modelfile:1:1\n" in done.stderr
    assert "1 | FROM 127.0.0.1:1/org/b:v1\n" in done.stderr


def test_a_name_with_a_host_is_fetched_once(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """Then nobody is asked any more, not even for the manifest."""
    found, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    first = mbuild("-t", "mine")
    assert first.returncode == 0, first.stderr
    assert "pulling manifest" in first.stderr
    store = Store(tmp_path / "store")
    assert {str(name) for name in store.manifests.names()} == {
        "mine:latest",
        f"{host}/org/tiny:v1",
    }
    assert check_promise(tmp_path / "store") == 2
    found.requests.clear()
    again = mbuild("-t", "mine")
    assert again.returncode == 0 and "0 steps run" in again.stderr
    assert found.requests == []


def test_a_full_disk_is_told_in_the_words_of_what_was_asked(
    mbuild: Run,
    tmp_path: Path,
    registry: tuple[StandIn, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build that fetches a model speaks of building, a pull of pulling; both name the folder."""
    found, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    monkeypatch.setattr("mbuild.store.files.free_bytes", lambda folder: 7)
    for work, words in (("build", ("-t", "mine")), ("pull", ("pull", f"{host}/org/tiny:v1"))):
        done = mbuild(*words)
        assert done.returncode == 1
        assert f"the {work} will not fit on this disk: " in done.stderr
        assert f"7 bytes free in {tmp_path / 'store' / 'blobs'}\n" in done.stderr
        assert f"free space on that disk, then {work} again" in done.stderr
    assert not any(path.startswith("/v2/org/tiny/blobs") for _, path, _ in found.requests)


def test_the_result_is_that_of_a_local_model(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """Fetched by the build or pulled before it."""
    _, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    assert mbuild("-t", "fetched").returncode == 0
    store = Store(tmp_path / "store")
    one = store.manifests.read(ModelName.parse("fetched")).id
    assert mbuild("rm", "--purge", "fetched", f"{host}/org/tiny:v1").returncode == 0
    assert mbuild("pull", f"{host}/org/tiny:v1").returncode == 0
    assert mbuild("-t", "local", "--no-cache").returncode == 0
    assert Store(tmp_path / "store").manifests.read(ModelName.parse("local")).id == one


def test_a_store_of_one_model_is_told_of_in_the_singular(mbuild: Run, tmp_path: Path) -> None:
    """And how to fetch what is missing."""
    copy_tiny_store(tmp_path / "store")
    modelfile(tmp_path, "quite-another")
    said = mbuild("-t", "mine").stderr
    assert "the store has 1 model; fetch it first: mbuild pull quite-another" in said


def test_always_never_missing(mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]) -> None:
    """What the tag has by now, or nothing; what was there is not fetched again."""
    found, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    never = mbuild("-t", "mine", "--pull", "never")
    assert never.returncode == 1 and "no such model in the store" in never.stderr
    assert found.requests == []
    assert mbuild("-t", "mine", "--pull", "missing").returncode == 0
    old = Store(tmp_path / "store").manifests.read(ModelName.parse("mine")).id
    put(found, host, tmp_path / "there", system="You are new.")
    assert mbuild("-t", "mine", "--pull", "missing").returncode == 0
    assert Store(tmp_path / "store").manifests.read(ModelName.parse("mine")).id == old
    found.sent.clear()
    always = mbuild("-t", "mine", "--pull", "always")
    assert always.returncode == 0, always.stderr
    assert f"replaced {host}/org/tiny:v1" in always.stderr
    assert sum(found.sent.values()) == len("You are new.")
    assert mbuild("show", "mine", "--system").stdout == "You are new.\n"


def test_a_digest_is_met_exactly(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """By the tag that has it, or by the manifest itself; and then nobody is asked again."""
    found, host = registry
    old = put(found, host, tmp_path / "there")
    put(found, host, tmp_path / "there", system="You are new.")
    for line in (f"{host}/org/tiny@{old}", f"{host}/org/tiny:v1@{old}"):
        modelfile(tmp_path, line)
        done = mbuild("-t", "mine")
        assert done.returncode == 0, done.stderr
        assert mbuild("show", "mine", "--system").stdout.strip() == ""
    before = len(found.requests)
    assert mbuild("-t", "mine").returncode == 0
    assert len(found.requests) == before
    modelfile(tmp_path, f"{host}/org/tiny@sha256:{'0' * 64}")
    assert mbuild("-t", "mine").returncode == 1


def test_a_path_of_any_depth(mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]) -> None:
    """Has a name in the store that is its own."""
    found, host = registry
    for path in ("tiny", "org/team/tiny"):
        data = found.manifests["org/tiny:v1"]
        found.put(f"{path}:latest", data)
        modelfile(tmp_path, f"{host}/{path}")
        done = mbuild("-t", "mine")
        assert done.returncode == 0, done.stderr
    names = {str(name) for name in Store(tmp_path / "store").manifests.names()}
    assert {f"{host}/_/tiny:latest", f"{host}/org___team/tiny:latest"} <= names


def test_files_and_folders_come_first(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """A folder may be called as a model of a registry is."""
    found, host = registry
    place = tmp_path / f"{host}/org/tiny"
    place.mkdir(parents=True)
    modelfile(tmp_path, f"{host}/org/tiny")
    done = mbuild("-t", "mine")
    assert done.returncode == 1 and "no model in that directory" in done.stderr
    assert found.requests == []
    for line in ("./nothing/x", "models/none", "nothing", "a/b/c"):
        modelfile(tmp_path, line)
        assert mbuild("-t", "mine").returncode == 1
    assert found.requests == []


def test_an_error_names_its_line(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """And what the registry says; no model is left."""
    _, host = registry
    modelfile(tmp_path, f"{host}/org/nothing")
    done = mbuild("-t", "mine")
    assert done.returncode == 1
    assert "manifest unknown" in done.stderr and "Modelfile:1" in done.stderr
    assert list(Store(tmp_path / "store").manifests.names()) == []


def test_a_lock_pins_the_manifest(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """In a store without the model exactly that one is fetched, whatever its tag has by now."""
    found, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    assert mbuild("lock", "-t", "mine").returncode == 0
    locked = json.loads((tmp_path / "Modelfile.lock").read_text())["sources"]["from"]
    old = put(found, host, tmp_path / "there")
    assert locked == [{"model": f"{host}/org/tiny:v1", "manifest": old}]
    put(found, host, tmp_path / "there", system="You are new.")
    os.rename(tmp_path / "store", tmp_path / "first")
    done = mbuild("--locked", "-t", "mine")
    assert done.returncode == 0, done.stderr
    assert mbuild("show", "mine", "--system").stdout.strip() == ""
    assert mbuild("--locked", "-t", "mine", "--pull", "always").returncode == 1  # it moved on


def test_a_lock_of_stages_pins_every_manifest(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """Those of FROM, ADAPTER and DRAFT, each by its own name, in whatever store."""
    found, host = registry
    found.model("org/adapter:v1", gguf_bytes(tiny_model("adapter")))
    found.model("org/draft:v1", gguf_bytes(tiny_model(seed=7)))
    (tmp_path / "Modelfile").write_text(
        f"# syntax=mbuild/1\nFROM {host}/org/tiny:v1 AS base\nADAPTER {host}/org/adapter:v1\n"
        f"FROM base AS mine\nDRAFT {host}/org/draft:v1\nSYSTEM Hi.\n"
    )
    assert mbuild("lock").returncode == 0
    id_ = mbuild("--locked", "-t", "mine", "--progress", "quiet").stdout
    put(found, host, tmp_path / "there", system="You are new.")
    found.model("org/adapter:v1", gguf_bytes(tiny_model("adapter", seed=8)))
    found.model("org/draft:v1", gguf_bytes(tiny_model(seed=9)))
    os.rename(tmp_path / "store", tmp_path / "first")
    assert mbuild("pull", f"{host}/org/tiny:v1").returncode == 0
    newer = mbuild("show", f"{host}/org/tiny:v1", "--format", "json").stdout
    done = mbuild("--locked", "-t", "mine", "--progress", "quiet")
    assert (done.returncode, done.stdout) == (0, id_), done.stderr
    assert mbuild("show", f"{host}/org/tiny:v1", "--format", "json").stdout == newer
    found.requests.clear()
    assert mbuild("--locked", "-t", "mine").returncode == 0
    assert found.requests == []
    assert mbuild("--locked", "-t", "mine", "--pull", "always").returncode == 1  # they moved on


def locked_text(mbuild: Run, folder: Path, *options: str) -> str:
    """What ``mbuild lock`` writes."""
    (folder / "Modelfile.lock").unlink(missing_ok=True)
    done = mbuild("lock", *options)
    assert done.returncode == 0, done.stderr
    return (folder / "Modelfile.lock").read_text()


@pytest.mark.parametrize("options", [(), ("-q", "q8_0", "--allow-requantize")])
@pytest.mark.parametrize(
    "lines",
    [
        "FROM {host}/org/tiny:v1",
        "FROM {host}/org/tiny:v1@{id}",
        "FROM {host}/org/tiny@{id}",
        "FROM {host}/org/tiny:v1\nDRAFT {host}/org/tiny:v1",
        "FROM {host}/org/tiny:v1\nADAPTER {host}/org/adapter:v1",
        "FROM {host}/org/tiny:v1\nADAPTER {host}/org/named:v1",
    ],
)
def test_a_lock_is_the_same_whatever_the_store_has(
    mbuild: Run,
    tmp_path: Path,
    registry: tuple[StandIn, str],
    lines: str,
    options: tuple[str, ...],
) -> None:
    """Made before the fetching or after it; and it holds with and without what is fetched."""
    found, host = registry
    id_ = put(found, host, tmp_path / "there")
    found.model("org/adapter:v1", gguf_bytes(tiny_model("adapter")))
    named = {"mediaType": ADAPTER, **found.add(gguf_bytes(tiny_model("adapter", seed=3)))}
    found.model("org/named:v1", b"", layers=[{**named, "from": "lora.bin"}])
    modelfile(tmp_path, lines.removeprefix("FROM ").format(host=host, id=id_))
    empty = locked_text(mbuild, tmp_path, *options)
    full = locked_text(mbuild, tmp_path, *options)
    assert full == empty
    for folder in ("first", "second"):
        done = mbuild("--locked", "-t", "mine")  # the model is here
        assert done.returncode == 0, done.stderr
        os.rename(tmp_path / "store", tmp_path / folder)
        done = mbuild("--locked", "-t", "mine")  # the store is empty
        assert done.returncode == 0, done.stderr


def test_a_fetched_model_s_statement_holds_when_it_is_made_again(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """Though the second time nothing is fetched."""
    found, host = registry
    put(found, host, tmp_path / "there")
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    done = mbuild("-q", "q8_0", "--allow-requantize", "-t", "mine")
    assert done.returncode == 0, done.stderr
    done = mbuild("verify", "--rebuild", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(mbuild("provenance", "mine", "--format", "json").stdout)
    steps = said["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    assert "pull" in [step["kind"] for step in steps]  # it tells of the build as it was


def test_a_lock_that_counts_a_download_still_holds(
    mbuild: Run, tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """As earlier versions wrote it, where the model was not there."""
    _, host = registry
    modelfile(tmp_path, f"{host}/org/tiny:v1")
    value = json.loads(locked_text(mbuild, tmp_path))
    assert "pull" not in value["steps"]
    value["steps"]["pull"] = 1
    (tmp_path / "Modelfile.lock").write_text(json.dumps(value))
    for folder in ("first", "second"):
        done = mbuild("--locked", "-t", "mine")
        assert done.returncode == 0, done.stderr
        os.rename(tmp_path / "store", tmp_path / folder)


def test_over_http_only_what_the_operator_allows(
    tmp_path: Path, registry: tuple[StandIn, str]
) -> None:
    """403 with how to allow it, and with it the build; a bare name that is not there stays 404."""
    found, host = registry
    body = {"model": "mine", "from": f"{host}/org/tiny:v1"}
    with serving_here(tmp_path / "closed") as server:
        answer = server.create(**body)
        assert answer.status_code == 403
        assert f"--registry {host}" in answer.json()["error"]
        assert server.create(model="mine", **{"from": "nothing"}).status_code == 404
        assert server.create(model="mine", **{"from": "a/nothing"}).status_code == 404
    assert found.requests == []
    with serving_here(tmp_path / "open", registries=[f"http://{host}"]) as server:
        answer = server.create(**body)
        lines = lines_of(answer)
        assert lines[0] == {"status": "pulling manifest"}
        assert lines[-1] == {"status": "success"}
        assert (
            server.create(model="x", **{"from": f"{host}/org/no"}, stream=False).status_code == 500
        )


def test_two_builds_fetch_a_base_once(tmp_path: Path, registry: tuple[StandIn, str]) -> None:
    """Of one server, side by side."""
    import threading

    found, host = registry
    found.pause = 0.05
    with serving_here(tmp_path / "open", registries=[f"http://{host}"]) as server:
        answers = []

        def ask(system: str) -> None:
            body = {"from": f"{host}/org/tiny:v1", "system": system, "stream": False}
            answers.append(server.create(model=system, **body).status_code)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two", "three")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 3
        assert check_promise(tmp_path / "open") == 4
    assert sum(found.sent.values()) == 156339


def test_a_real_registry(mbuild: Run, tmp_path: Path) -> None:
    """Debian's docker-registry, over http because it is on this machine."""
    with docker_registry(tmp_path / "registry") as host:
        store = Store(copy_tiny_store(tmp_path / "there"))
        reference = ModelReference.parse(f"{host}/org/tiny:v1")
        list(push(ModelName.parse("tiny"), reference, store, Access()))
        modelfile(tmp_path, f"{host}/org/tiny:v1")
        done = mbuild("-t", "mine", "--progress", "json")
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        (finished,) = [e for e in events if e["event"] == "StepFinished" and e["kind"] == "pull"]
        assert finished["written"] == 156339 and not finished["cached"]
        assert finished["subject"] == f"{host}/org/tiny:v1"


def test_the_stores_own_names(tiny_store: Store) -> None:
    """A plain name comes first; a digest is met by the tag that has it."""
    identity = tiny_store.manifests.read(ModelName.parse("tiny")).id
    name = ModelName.parse("ghcr.io/org/m:v1")
    data = tiny_store.manifests.read_bytes(ModelName.parse("tiny"))
    assert data is not None
    tiny_store.replace(name, data)
    assert stored_name("tiny", tiny_store) == ModelName.parse("tiny")
    assert stored_name("ghcr.io/org/m:v1", tiny_store) == name
    assert stored_name(f"ghcr.io/org/m:v1@{identity}", tiny_store) == name
    other = Digest("0" * 64)
    assert stored_name(f"ghcr.io/org/m:v1@{other}", tiny_store).tag == other.filename
    with pytest.raises(InvalidNameError):
        stored_name("a//b", tiny_store)
    assert is_whole(name, tiny_store)
    tiny_store.blobs.path(tiny_store.manifests.read(name).manifest.layers[0].digest).unlink()
    assert not is_whole(name, tiny_store)
    assert not is_whole(ModelName.parse("nothing"), tiny_store)


def test_the_modes_are_those_of_the_option() -> None:
    """Nothing is fetched unasked but names with a host."""
    assert [mode.value for mode in PullMode] == ["always", "missing", "never"]
    assert Fetching() == Fetching(None, None, {})
