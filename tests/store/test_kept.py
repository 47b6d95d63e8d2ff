"""A cache that outlives a name: what runs again, and what does not, over the life of a store."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from documents import documented
from example_models import edit_json, generator, settle
from gguf_files import tiny_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inprocess import in_process

from mbuild.core.names import ModelName
from mbuild.models.disk import PrunePolicy, prune, usage
from mbuild.store import Store

MODELFILE = "FROM ./chat\nSYSTEM You are Mario.\n"
Steps = set[str]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    generator().write_chat(folder)
    return folder


@pytest.fixture
def project(chat: Path, tmp_path: Path) -> Path:
    """A folder with a Modelfile and the checkpoint, last changed a while ago."""
    shutil.copytree(chat, tmp_path / "project" / "chat")
    (tmp_path / "project" / "Modelfile").write_text(MODELFILE)
    settle()
    return tmp_path / "project"


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process, on a store beside the project."""
    run = in_process(project, monkeypatch)
    monkeypatch.setenv("OLLAMA_MODELS", str(project.with_name("store")))
    return run


def ran(mbuild: Run, *arguments: str, name: str = "m") -> Steps:
    """Build; the kinds of the steps that ran."""
    done = mbuild("--progress", "json", "-t", name, *arguments)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {e["kind"] for e in events if e["event"] == "StepFinished" and not e["cached"]}


def retrain(checkpoint: Path, theta: float) -> None:
    """Another config, as a training step might leave it."""
    edit_json(checkpoint / "config.json", rope_theta=theta)


def explained(mbuild: Run, *arguments: str) -> Steps:
    """The kinds of the steps that ``explain`` says will run."""
    done = mbuild("explain", "--format", "json", "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return {s["kind"] for s in json.loads(done.stdout)["steps"] if s["state"] == "run"}


EVERYTHING = {"convert", "config", "detect-template", "params", "system", "manifest"}
QUANTIZED = {"quantize", "config", "manifest"}


def toggle_types(mbuild: Run, project: Path) -> list[Steps]:
    """Three types under one name, and the first again."""
    first, *others = (ran(mbuild, "-q", t) for t in ("q5_0", "q4_0", "q8_0", "q5_0", "q4_0"))
    assert "quantize" in first
    return others


def revert(mbuild: Run, project: Path) -> list[Steps]:
    """Another system prompt and back; another training step and back."""
    ran(mbuild)
    results = []
    for text in ("You are Luigi.", "You are Mario."):
        (project / "Modelfile").write_text(f"FROM ./chat\nSYSTEM {text}\n")
        results.append(ran(mbuild))
    before = (project / "chat/config.json").read_bytes()
    retrain(project / "chat", 5000.0)
    results.append(ran(mbuild))
    (project / "chat/config.json").write_bytes(before)
    return [*results, ran(mbuild)]


def rename_folder(mbuild: Run, project: Path) -> list[Steps]:
    """The project's folder gets another name; the checkpoint in it keeps its own."""
    ran(mbuild)
    project.rename(project.with_name("moved"))
    os.chdir(project.with_name("moved"))
    return [ran(mbuild)]


def copy_folder(mbuild: Run, project: Path) -> list[Steps]:
    """A fresh copy of everything, as a checkout makes it."""
    ran(mbuild)
    shutil.copytree(project, project.with_name("copy"), ignore=shutil.ignore_patterns("store"))
    os.chdir(project.with_name("copy"))
    assert explained(mbuild) == set()
    return [ran(mbuild)]


def touch(mbuild: Run, project: Path) -> list[Steps]:
    """Every file gets a new time; plan, explain and build agree."""
    ran(mbuild)
    for path in project.glob("chat/*"):
        path.touch()
    steps = json.loads(mbuild("plan", "--format", "json", "-t", "m").stdout)["steps"]
    assert {s["state"] for s in steps} == {"cached"}
    return [ran(mbuild)]


def remove_and_build(mbuild: Run, project: Path) -> list[Steps]:
    """The model goes, and is built again; then nothing of it is kept."""
    ran(mbuild)
    assert "kept in the cache" in mbuild("rm", "m").stdout
    again = ran(mbuild)
    assert "kept" not in mbuild("rm", "m", "--purge").stdout
    return [again, ran(mbuild)]


def overwritten_by_ollama(mbuild: Run, project: Path) -> list[Steps]:
    """Another program takes the name, and removes the blobs that nothing names."""
    ran(mbuild)
    as_ollama_starts(project.parent / "store", write=b"{}")
    shutil.rmtree(project.parent / "store/manifests")
    return [ran(mbuild)]


def another_store(mbuild: Run, project: Path) -> list[Steps]:
    """A store has its own cache, and building elsewhere costs the first one nothing."""
    ran(mbuild)
    os.environ["OLLAMA_MODELS"] = str(project / "other")
    elsewhere = ran(mbuild)
    os.environ["OLLAMA_MODELS"] = str(project.with_name("store"))
    return [elsewhere, ran(mbuild)]


def two_stores(mbuild: Run, project: Path) -> list[Steps]:
    """One project, built into two stores in turn, under one name with two types."""
    stores = [str(project / "a"), str(project / "b")]
    for quant in ("q8_0", "q4_0"):
        for store in stores:
            ran(mbuild, "--store", store, "-q", quant)
    return [ran(mbuild, "--store", store, "-q", "q8_0") for store in stores]


def restored_in_ci(mbuild: Run, project: Path) -> list[Steps]:
    """A later job: one archive of the folder is unpacked, the sources are checked out anew."""
    home = project / "home"
    os.environ["MBUILD_HOME"] = str(home)
    del os.environ["OLLAMA_MODELS"]
    ran(mbuild)
    with tarfile.open(project / "saved.tar", "w") as archive:
        archive.add(home, "home")
    shutil.rmtree(home)
    job = project.with_name("job")
    job.mkdir()
    shutil.copytree(project / "chat", job / "chat", copy_function=shutil.copyfile)
    shutil.copyfile(project / "Modelfile", job / "Modelfile")
    with tarfile.open(project / "saved.tar") as archive:
        # Python 3.11.4 and newer have this filter.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(project)
    os.chdir(job)
    return [ran(mbuild)]


def budget_reached(mbuild: Run, project: Path) -> list[Steps]:
    """A budget for one file of weights: of two that are unused the older one goes."""
    os.environ["MBUILD_KEEP"] = "1MB"
    for quant in ("q8_0", "q5_0", "q4_0"):
        ran(mbuild, "-q", quant)
    kept = usage(Store(project.parent / "store")).kept
    assert 0 < kept <= 1_000_000
    return [ran(mbuild, "-q", "q5_0"), ran(mbuild, "-q", "q8_0")]


def disk_nearly_full(mbuild: Run, project: Path) -> list[Steps]:
    """Where the disk has no room, what is kept yields to what is built."""
    ran(mbuild, "-q", "q8_0")
    ran(mbuild, "-q", "q5_0")
    real = os.statvfs

    def full(path: object) -> os.statvfs_result:
        values = list(real(path))  # type: ignore[arg-type]
        kept = sum(p.stat().st_size for p in (project.parent / "store/.mbuild/kept").iterdir())
        values[4] = max(0, (2_300_000 - kept) // values[1])  # f_bavail, in units of f_frsize
        return os.statvfs_result(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", full)
        ran(mbuild, "-q", "q6_K")
    return [ran(mbuild, "-q", "q8_0")]


SEQUENCES: list[tuple[Callable[[Run, Path], list[Steps]], list[Steps]]] = [
    (toggle_types, [QUANTIZED, QUANTIZED, set(), set()]),
    (revert, [{"system", "manifest"}, set(), EVERYTHING - {"system", "params"}, set()]),
    (rename_folder, [set()]),
    (copy_folder, [set()]),
    (touch, [set()]),
    (remove_and_build, [set(), EVERYTHING - {"manifest"}]),
    (overwritten_by_ollama, [set()]),
    (another_store, [EVERYTHING, set()]),
    (two_stores, [set(), set()]),
    (restored_in_ci, [set()]),
    (budget_reached, [set(), {"quantize", "config"}]),
    (disk_nearly_full, [{"quantize", "config"}]),
]


@pytest.mark.parametrize(
    ("sequence", "expected"), SEQUENCES, ids=[each.__name__ for each, _ in SEQUENCES]
)
def test_what_runs_again(
    sequence: Callable[[Run, Path], list[Steps]],
    expected: list[Steps],
    mbuild: Run,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sequence of commands runs exactly these kinds of steps; a set for each build."""
    for variable in ("MBUILD_HOME", "MBUILD_KEEP"):  # the sequences change them
        monkeypatch.setenv(variable, "")
    assert sequence(mbuild, project) == expected


def as_ollama_starts(store: Path, write: bytes) -> None:
    """What Ollama's start does to a store whose manifests name nothing: every blob goes."""
    for blob in (store / "blobs").iterdir():
        blob.unlink()


def test_a_layer_that_ollama_removed_comes_back(mbuild: Run, project: Path) -> None:
    """A model with its name and without its blobs is whole again after a build of 0 steps."""
    ran(mbuild)
    as_ollama_starts(project.parent / "store", b"")
    assert ran(mbuild) == set()
    assert mbuild("verify").returncode == 0


# What is replaced, and earlier builds.


def test_overwriting_says_what_was_replaced_and_an_id_brings_it_back(
    mbuild: Run, project: Path
) -> None:
    """The line names the old id; ``cp ID NAME`` gives that very model a name again."""
    ran(mbuild)
    old = str(Store(project.parent / "store").manifests.read(ModelName.parse("m")).id.hex)
    (project / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Luigi.\n")
    done = mbuild("-t", "m", "--progress", "plain")
    assert f"replaced m:latest (was {old[:12]})" in done.stderr
    done = mbuild("cp", old[:12], "old")
    assert done.returncode == 0, done.stderr
    assert mbuild("show", "old", "--system").stdout == "You are Mario.\n"
    assert Store(project.parent / "store").manifests.read(ModelName.parse("old")).id.hex == old
    assert mbuild("verify").returncode == 0


def test_an_earlier_build_whose_layers_are_gone_is_refused_by_layer(
    mbuild: Run, project: Path
) -> None:
    """``cp ID`` after a prune says which layer the cache has no more."""
    ran(mbuild)
    old = Store(project.parent / "store").manifests.read(ModelName.parse("m")).id.hex
    mbuild("rm", "m")
    mbuild("prune")
    done = mbuild("cp", old[:12], "old")
    assert done.returncode == 1
    assert "was removed from the cache" in done.stderr
    assert "build it again" in done.stderr
    assert mbuild("cp", "0123456789ab", "old").returncode == 1


def test_removing_a_model_that_another_one_shares_keeps_nothing_twice(
    mbuild: Run, project: Path
) -> None:
    """``rm --purge`` frees what only that model used, at once."""
    ran(mbuild)
    ran(mbuild, name="n")
    assert "kept" not in mbuild("rm", "m").stdout
    before = usage(Store(project.parent / "store")).total
    done = mbuild("rm", "n", "--purge")
    assert "freed" in done.stdout
    after = usage(Store(project.parent / "store"))
    assert (after.used, after.kept, after.unused) == (0, 0, 0)
    assert after.total < before


# The name that nobody asked for.


def test_without_a_tag_nothing_is_replaced_by_accident(mbuild: Run, project: Path) -> None:
    """The folder's name counts if it is free or this Modelfile's own model has it."""
    assert mbuild().returncode == 0
    (project / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Luigi.\n")
    assert mbuild().returncode == 0
    (project / "Other").write_text("FROM ./chat\n")
    before = mbuild("list", "--json").stdout
    done = mbuild("-f", "Other")
    assert done.returncode == 2
    assert "a model project:latest that was not built from this Modelfile" in done.stderr
    assert "-t" in done.stderr
    assert mbuild("list", "--json").stdout == before
    assert mbuild("cp", "project", "copy").returncode == 0
    assert mbuild("-f", "Other", "-t", "project").returncode == 0
    assert mbuild().returncode == 2


# The budget.


def test_the_budget_and_prune_mean_the_same_bytes(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MBUILD_KEEP`` at a build and ``prune --keep`` leave the same files; du counts them."""
    for quant in ("q8_0", "q5_0", "q4_0"):
        ran(mbuild, "-q", quant)
    store = Store(project.parent / "store")
    would = prune(store, PrunePolicy(keep=1_000_000), dry_run=True)
    monkeypatch.setenv("MBUILD_KEEP", "1MB")
    ran(mbuild, "-q", "q4_1", name="other")
    left = {blob.digest for blob in store.kept.unnamed() if blob.size > 100_000}
    assert left == {digest for digest, file in would.kept if file.size > 100_000}
    assert len(left) == 1
    assert usage(store).budget == 1_000_000
    assert usage(store).kept == sum(blob.size for blob in store.kept.unnamed())
    prune(store)
    assert usage(store).kept == 0
    assert mbuild("verify").returncode == 0


def test_a_budget_that_is_no_size_is_refused(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped MBUILD_KEEP is wrong usage, not a budget of nothing."""
    monkeypatch.setenv("MBUILD_KEEP", "lots")
    done = mbuild("-t", "m")
    assert done.returncode == 2
    assert "MBUILD_KEEP='lots' is not a size" in done.stderr


# What must not be kept, or not be trusted.


def test_a_linked_file_is_its_owners_again(mbuild: Run, project: Path) -> None:
    """A file imported with --link may be edited once no model names it: nothing keeps it."""
    ran(mbuild)
    assert mbuild("export", "m", "-o", "m.gguf").returncode == 0
    (project / "Modelfile").write_text("FROM ./m.gguf\n")
    settle()
    ran(mbuild, "--link", name="linked")
    blob = (project / "m.gguf").stat()
    assert blob.st_nlink == 2
    assert ran(mbuild, "--link", name="linked") == set()
    assert "linked" in mbuild("du").stdout
    mbuild("rm", "linked")
    assert (project / "m.gguf").stat().st_nlink == 1


def test_a_kept_file_with_another_name_counts_by_its_digest(mbuild: Run, project: Path) -> None:
    """Somebody links a kept blob and edits the file: it is not brought back."""
    ran(mbuild)
    mbuild("rm", "m")
    kept = max(
        (project.parent / "store/.mbuild/kept").iterdir(), key=lambda path: path.stat().st_size
    )
    os.link(kept, project / "mine")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    with (project / "mine").open("r+b") as file:
        file.write(data)
    assert "convert" in ran(mbuild)
    assert mbuild("verify").returncode == 0


def test_a_damaged_blob_is_set_aside_under_both_names(mbuild: Run, project: Path) -> None:
    """What verify moves away is not brought back from the cache's second name of it."""
    ran(mbuild)
    blob = max((project.parent / "store/blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    with blob.open("r+b") as file:
        file.write(data)
    assert mbuild("verify").returncode == 1
    assert "convert" in ran(mbuild)
    assert mbuild("verify").returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a library makes link() fail with LD_PRELOAD")
def test_without_hard_links_blobs_move(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that refuses links: the blob moves to the cache and back, never copied."""

    def refuse(*paths: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    ran(mbuild)
    assert "kept in the cache" in mbuild("rm", "m").stdout
    assert not [*(project.parent / "store/blobs").iterdir()]
    assert ran(mbuild) == set()
    assert mbuild("verify").returncode == 0


def test_two_builds_that_bring_a_blob_back_at_once_share_it(mbuild: Run, project: Path) -> None:
    """The second link finds the first one's, and leaves it; a damaged file is replaced whole."""
    ran(mbuild)
    mbuild("rm", "m")
    store = Store(project.parent / "store")
    blob = store.kept.unnamed()[-1]
    assert store.kept.restore(blob.digest, blob.size)
    place = store.blobs.path(blob.digest)
    inode = place.stat().st_ino
    assert store.kept.restore(blob.digest, blob.size)
    assert place.stat().st_ino == inode
    place.unlink()
    place.write_bytes(b"damaged")
    assert store.kept.restore(blob.digest, blob.size)
    assert (place.stat().st_ino, place.stat().st_size) == (inode, blob.size)
    assert not [path for path in store.kept.folder.iterdir() if path.name.startswith("tmp-")]


# Tensors.


def test_a_tensor_is_found_wherever_its_bytes_lie(mbuild: Run, project: Path) -> None:
    """Two models hold a tensor; removing either spoils nothing for the other's variants."""
    ran(mbuild, "-q", "q8_0", name="a")
    shutil.copytree(project / "chat", project / "talk")
    (project / "Modelfile").write_text("FROM ./talk\n")
    done = mbuild("--progress", "plain", "-t", "b", "-q", "q8_0")
    assert "reused" in done.stderr
    mbuild("rm", "b:q8_0", "--purge")
    retrain(project / "talk", 5000.0)
    done = mbuild("--progress", "plain", "-t", "c", "-q", "q8_0")
    assert "reused" in done.stderr
    words = next(line for line in done.stderr.splitlines() if line.startswith("reused")).split()
    assert words[1] == words[3]


# What the documentation shows.


def test_the_documented_jobs(tmp_path: Path) -> None:
    """Each command of docs/ci.md prints what the page shows."""
    job = tmp_path / "work" / "job1"
    job.mkdir(parents=True)
    tiny_gguf(job / "model.gguf")
    (job / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    documented("ci.md", tmp_path, without="OLLAMA_MODELS")


# Any order.


class World:
    """A project whose inputs take a few values, and the builds that were made of it."""

    def __init__(self, mbuild: Run, project: Path) -> None:
        self.mbuild, self.project = mbuild, project
        self.built: set[tuple[str, str, str]] = set()
        self.names: set[str] = set()
        self.text, self.theta = "Mario", "1"

    def build(self, quant: str, name: str) -> None:
        inputs = (self.text, self.theta, quant)
        steps = ran(self.mbuild, *(("-q", quant) if quant else ()), name=name)
        if inputs in self.built:
            assert steps == set(), (inputs, steps)
        self.built.add(inputs)
        self.names.add(name)

    def edit(self, text: str) -> None:
        self.text = text
        (self.project / "Modelfile").write_text(f"FROM ./chat\nSYSTEM {text}\n")

    def retrain(self, theta: str) -> None:
        self.theta = theta
        retrain(self.project / "chat", 1000.0 + float(theta))

    def touch(self, pattern: str) -> None:
        for path in self.project.glob(pattern):
            path.touch()

    def remove(self, name: str) -> None:
        if name in self.names:
            assert self.mbuild("rm", name).returncode == 0
            self.names.remove(name)

    def restart_ollama(self, _: str) -> None:
        named = set()
        for stored in Store(self.project.parent / "store").list():
            assert not isinstance(stored, Exception)
            named |= {layer.digest.filename for layer in stored.manifest.blobs()}
        for blob in (self.project.parent / "store/blobs").glob("*"):
            if blob.name not in named:
                blob.unlink()


ACTIONS = st.one_of(
    st.tuples(st.just("build"), st.sampled_from(["", "q8_0", "q4_0"]), st.sampled_from("ab")),
    st.tuples(st.just("build"), st.sampled_from(["", "q8_0", "q4_0"]), st.sampled_from("ab")),
    st.tuples(st.just("edit"), st.sampled_from(["Mario", "Luigi"])),
    st.tuples(st.just("retrain"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("touch"), st.sampled_from(["chat/*", "chat/*.safetensors", "Modelfile"])),
    st.tuples(st.just("remove"), st.sampled_from("ab")),
    st.tuples(st.just("restart_ollama"), st.just("")),
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(actions=st.lists(ACTIONS, min_size=4, max_size=10))
def test_equal_inputs_never_run_twice(
    actions: list[tuple[str, ...]], mbuild: Run, project: Path
) -> None:
    """Whatever happened to names meanwhile, a build whose inputs equal an earlier one's runs 0."""
    shutil.rmtree(project.parent / "store", ignore_errors=True)
    world = World(mbuild, project)
    world.edit("Mario")
    world.retrain("1")
    time.sleep(0.03)
    for action, *values in actions:
        getattr(world, action)(*values)
    assert mbuild("verify").returncode == 0
