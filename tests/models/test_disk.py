"""Looking after the disk: du, prune and verify."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asked import asked
from conftest import Run
from documents import documented
from forked import Forked
from gguf_files import tiny_gguf
from inprocess import in_process
from stores import check_promise, copy_tiny_store

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, StoreError
from mbuild.core.names import ModelName
from mbuild.models.disk import PrunePolicy, prune, usage, verify
from mbuild.models.disk.prune import StoreInUseError
from mbuild.models.disk.verify import Damage
from mbuild.store import Store

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")

MODELFILE = """FROM ./model.gguf
TEMPLATE "{{ .System }} {{ .Prompt }}"
SYSTEM You are Mario.
PARAMETER temperature 0.5
LICENSE MIT
MESSAGE user hi
"""


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the model ``mario``, built from the Modelfile beside it."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text(MODELFILE)
    store = Store(tmp_path / "store")
    make(store, tmp_path, "mario")
    return store


def make(store: Store, folder: Path, name: str, text: str = "") -> Digest:
    """Build in this process; the model's id."""
    data = text.encode() or (folder / "Modelfile").read_bytes()
    recipe, _ = read_recipe(data, "Modelfile", store)
    names = (ModelName.parse(name),)
    *_, last = build(asked(recipe, LocalContext(folder, store), *names), store)
    return last.id  # type: ignore[union-attr]


def files_of(store: Store) -> dict[str, bytes]:
    """Blobs and manifests by their paths."""
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for part in ("blobs", "manifests")
        for path in (store.root / part).rglob("*")
        if path.is_file()
    }


# du


def test_own_and_shared_bytes_add_up(store: Store, tmp_path: Path) -> None:
    """Own is what only this name uses, shared what others use too; each blob counts once."""
    make(store, tmp_path, "luigi", MODELFILE.replace("Mario", "Luigi B"))
    store.blobs.put(b"nobody's")
    used = usage(store)
    sizes = {path.name: path.stat().st_size for path in store.blobs.folder.iterdir()}
    by_name = {model.name: model for model in used.models}
    assert by_name["mario:latest"].own == len("You are Mario.")
    assert by_name["luigi:latest"].own == len("You are Luigi B.")
    assert by_name["mario:latest"].shared == by_name["luigi:latest"].shared
    assert used.unused == used.prunable == len("nobody's")
    assert used.used + used.unused == sum(sizes.values())
    before = used.models[0].total
    store.begin()
    store.remove(ModelName.parse("luigi"))
    store.end()
    after = usage(store)
    assert after.models[0].own == before - len("You are Luigi B.") + len("You are Mario.")
    assert after.models[0].shared == 0


def test_du_counts_links_partials_and_missing_blobs(mbuild: Run, tmp_path: Path) -> None:
    """A linked blob frees nothing; Ollama's partial files and missing blobs are shown."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM s\n")
    assert mbuild("--link", "-t", "m").returncode == 0
    blobs = tmp_path / "store" / "blobs"
    (blobs / f"sha256-{'0' * 64}-partial").write_bytes(bytes(100))
    (blobs / Digest.of(b"s").filename).unlink()
    value = json.loads(mbuild("du", "--format", "json").stdout)
    assert value["linked"] == (tmp_path / "model.gguf").stat().st_size
    assert value["leftovers"]["partial"] == 100
    assert value["models"][0]["missing_blobs"] == 1
    assert "(1 blob missing)" in mbuild("du").stdout


def test_du_of_an_empty_place_makes_nothing(mbuild: Run, tmp_path: Path) -> None:
    """A store that is not there is empty, and stays not there."""
    done = mbuild("du", "--store", tmp_path / "nowhere")
    assert done.returncode == 0, done.stderr
    assert "would free 0 B" in done.stdout
    assert not (tmp_path / "nowhere").exists()


# prune


def test_prune_removes_what_nobody_names_and_nothing_else(store: Store) -> None:
    """Unused blobs and files of dead makers go; what a manifest names stays, byte for byte."""
    before = files_of(store)
    junk = store.blobs.put(b"junk").digest
    stale = store.private / "tmp" / "tmp-1-0123456789ab"
    stale.write_bytes(b"half")
    with store.blobs.writer() as writer:
        writer.write(b"under construction")
        planned = prune(store, dry_run=True)
        assert files_of(store).keys() - before.keys() == {f"blobs/{junk.filename}"}
        done = prune(store)
        assert [d for d, _ in done.blobs] == [d for d, _ in planned.blobs] == [junk]
        assert done.freed == planned.freed == len(b"junk") + len(b"half")
        assert not stale.exists()
        made = writer.commit()
    assert store.blobs.has(made.digest, made.size)
    prune(store)
    assert files_of(store) == before
    assert prune(store).freed == 0


def test_keep_and_older_choose_the_oldest(store: Store) -> None:
    """--keep leaves the last changed bytes, --older takes only what is old enough."""
    digests = []
    for number in range(4):
        digests.append(store.blobs.put(bytes([number]) * 1000).digest)
        time.sleep(0.02)
    middle = (store.blobs.path(digests[1]).stat().st_ctime_ns + 1_000_000) / 1e9
    older = prune(store, PrunePolicy(older=100.0), dry_run=True, now=middle + 100.0)
    assert [d for d, _ in older.blobs] == digests[:2]
    kept = prune(store, PrunePolicy(keep=2500))
    assert [d for d, _ in kept.blobs] == digests[:2]
    assert sum(file.size for _, file in kept.kept) == 2000
    assert prune(store, PrunePolicy(keep=2000)).blobs == ()
    assert [d for d, _ in prune(store).blobs] == digests[2:]


def test_prune_refuses_while_a_build_runs(store: Store, mbuild: Run) -> None:
    """What a builder made and has not named yet stays: prune says so and fails, or waits."""
    running = Store(store.root)
    running.begin()
    made = running.blobs.put(b"made but not named yet").digest
    with pytest.raises(StoreInUseError):
        prune(store)
    done = mbuild("prune")
    assert done.returncode == 1
    assert "a build is running" in done.stderr
    assert "--wait" in done.stderr
    environment = {**os.environ, "OLLAMA_MODELS": str(store.root)}
    waiting = subprocess.Popen(
        [sys.executable, "-m", "mbuild", "prune", "--wait"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "waiting for running builds\n"
    assert running.blobs.has(made, len("made but not named yet"))
    running.end()
    out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert "1 file removed" in out
    assert not store.blobs.has(made, len("made but not named yet"))


def torn(path: Path) -> None:
    path.write_text('{"schemaVersion":2,"conf')


def hanging(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("damage", [torn, hanging])
def test_nothing_is_pruned_while_a_manifest_is_unreadable(
    store: Store, mbuild: Run, damage: object
) -> None:
    """A torn manifest, or one on a disk that is not mounted, may name any blob."""
    store.blobs.put(b"maybe used")
    bad = store.root / "manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir(parents=True)
    damage(bad)  # type: ignore[operator]
    before = files_of(store)
    for arguments in (["prune"], ["prune", "--dry-run"], ["prune", "--older", "0s"]):
        done = mbuild(*arguments)
        assert done.returncode == 1
        assert "nothing was removed" in done.stderr
        assert "bad" in done.stderr
    assert files_of(store) == before
    assert usage(store).prunable == 0


def test_prune_refuses_a_store_whose_manifests_are_not_there(store: Store, tmp_path: Path) -> None:
    """A missing or dangling ``manifests`` is an unmounted disk, not a store without models."""
    manifests = store.root / "manifests"
    manifests.rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match=r"is not there|does not exist"):
        prune(Store(store.root), dry_run=True)
    manifests.symlink_to(tmp_path / "gone")
    with pytest.raises(StoreError, match=r"cannot be listed|does not exist"):
        prune(Store(store.root), dry_run=True)
    manifests.unlink()
    manifests.symlink_to(tmp_path / "elsewhere")
    assert prune(Store(store.root)).blobs == ()


def test_manifests_in_odd_places_hold_their_blobs(store: Store) -> None:
    """A readable manifest counts, even under a name or in a folder that list passes over."""
    held = store.blobs.put(b"held by a newer Ollama")
    config = store.blobs.put(b"{}")
    layers = [{"mediaType": "x", "digest": str(held.digest), "size": held.size}]
    value = {
        "schemaVersion": 2,
        "config": {"mediaType": "x", "digest": str(config.digest), "size": config.size},
        "layers": layers,
    }
    for place in ("manifests/registry.ollama.ai/library/x/.hidden tag", "manifests-v2/blob/abc"):
        path = store.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        (path.parent / ".DS_Store").write_bytes(b"\0")
        assert prune(store, PrunePolicy(older=0.0)).blobs == ()
        path.unlink()
    assert len(prune(store).blobs) == 2


def test_prune_waits_for_ollama_which_takes_no_lock(store: Store, mbuild: Run) -> None:
    """While a download grows nothing unused is removed; an abandoned one goes after an hour."""
    blobs = set(store.blobs)
    part = store.blobs.put(b"a finished part of a pull").digest
    partial = store.blobs.folder / f"sha256-{'1' * 64}-partial-0"
    partial.write_bytes(b"x")
    done = mbuild("prune")
    assert done.returncode == 0
    assert "Ollama seems to be at work" in done.stdout
    assert set(store.blobs) == {*blobs, part}
    later = prune(store, dry_run=True, now=time.time() + 3601)
    assert len(later.blobs) == 1
    assert [left.file.path for left in later.leftovers] == [partial]
    prune(store, PrunePolicy(older=0.0))
    assert not partial.exists()
    assert set(store.blobs) == blobs


def test_uploads_that_wait_to_be_named_stay(store: Store, mbuild: Run) -> None:
    """A blob that a client sent is kept for a day, with or without --older."""
    store.begin()
    sent = store.blobs.put(b"sent").digest
    store.uploads.add(sent, is_new=True)
    store.end()
    assert prune(store, PrunePolicy(older=0.0)).waiting == 1
    done = mbuild("prune")
    assert "1 recent upload kept for a day" in done.stdout
    assert usage(store).prunable == 0
    store.uploads.settle([sent])
    assert [digest for digest, _ in prune(store).blobs] == [sent]


def test_unfinished_builds_are_leftovers(store: Store) -> None:
    """What a killed build could go on from is removed, unless it is younger than --older."""
    with store.blobs.writer("variant-") as writer:
        writer.write(b"half of it")
        assert prune(store).leftovers == ()  # its maker lives
        saved: list[str] = []
        writer.save(lambda place, written: saved.append(place))
        writer.wait()
        place = store.root / saved[0]
        copy = place.with_name("variant-1-dead")
        copy.write_bytes(b"half of it")
    assert usage(store).prunable == len(b"half of it")
    assert prune(store, PrunePolicy(older=3600.0)).leftovers == ()
    (leftover,) = prune(store).leftovers
    assert leftover.file.path == copy
    assert not copy.exists()


def finish(process: Forked, excuse: str = "") -> None:
    """Wait for a process; it must succeed, or fail with that excuse."""
    fine = process.wait() == 0 or (excuse and excuse in process.said.read_text())
    assert fine, process.said.read_text()


@POSIX
@pytest.mark.slow
def test_fifty_rounds_of_prune_against_running_builds(tmp_path: Path) -> None:
    """Three builders, a remover and two prunes at once: no build fails, no model loses a blob."""
    root, chance, numbers = tmp_path / "store", random.Random(2), itertools.count()

    def start(root: Path, *arguments: str | Path) -> Forked:
        return Forked(tmp_path / f"said-{next(numbers)}", "--store", root, *arguments)

    tiny_gguf(tmp_path / "base.gguf", seed=1000)
    (tmp_path / "Base").write_text("FROM ./base.gguf\nSYSTEM base\n")
    finish(start(root, "-f", tmp_path / "Base", "-t", "base"))
    for number in range(50):
        Store(root).blobs.put(b"junk %d" % number)
        builders = []
        for which in range(3):
            folder = tmp_path / f"{which}"
            folder.mkdir(exist_ok=True)
            tiny_gguf(folder / "model.gguf", seed=number * 2 + which % 2)
            source = "base" if which == 2 else "./model.gguf"
            text = f"FROM {source}\nSYSTEM {number} {which % 2}\nLICENSE {number}\n"
            (folder / "Modelfile").write_text(text)
            builders.append(start(root, "-f", folder / "Modelfile", "-t", f"m{which}"))
            time.sleep(chance.uniform(0, 0.04))
        prunes = [start(root, "prune"), start(root, "prune", "--wait")]
        if number % 2:
            builders.append(start(root, "rm", "m0"))
        for process in builders:
            finish(process, "not found")  # what the removal may find
        for process in prunes:
            finish(process, "a build is running")
        assert check_promise(root) >= 3
    finish(start(root, "prune"))
    store = Store(root)
    assert set(store.blobs) == {
        layer.digest
        for stored in store.list()
        if not isinstance(stored, DamagedError)
        for layer in stored.manifest.blobs()
    }


@POSIX
def test_a_stopped_builder_is_not_robbed(tmp_path: Path) -> None:
    """Stopped between publishing a blob and naming it, a builder finds it when it goes on."""
    root = tmp_path / "store"
    code = (
        "import os, signal, sys; from pathlib import Path; from mbuild.store import Store;"
        "store = Store(Path(sys.argv[1])); store.begin(); made = store.blobs.put(b'made');"
        "os.kill(os.getpid(), signal.SIGSTOP);"
        "ok = store.blobs.has(made.digest, 4); store.end(); sys.exit(0 if ok else 1)"
    )
    builder = subprocess.Popen([sys.executable, "-c", code, str(root)])
    os.waitpid(builder.pid, os.WUNTRACED)
    with pytest.raises(StoreInUseError):
        prune(Store(root))
    builder.send_signal(signal.SIGCONT)
    assert builder.wait(30) == 0
    assert len(prune(Store(root)).blobs) == 1


# verify


def test_every_flipped_byte_is_found_and_the_next_build_heals_it(
    store: Store, tmp_path: Path
) -> None:
    """100 random single-byte corruptions: each named with its models, each made again."""
    chance = random.Random(3)
    good = files_of(store)
    blobs = sorted(store.blobs)
    for number in range(100):
        digest = chance.choice(blobs)
        path = store.blobs.path(digest)
        data, times = bytearray(path.read_bytes()), path.stat()
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        found = verify(store)
        (finding,) = found.findings
        assert (finding.problem, finding.what) == (Damage.CONTENT, str(digest)), number
        assert finding.models[0].startswith("mario:latest (")
        assert (store.root / finding.set_aside).read_bytes() == data
        make(store, tmp_path, "mario")
        assert files_of(store) == good, number
    assert verify(store).findings == ()
    damaged = store.private / "damaged"
    assert len(list(damaged.iterdir())) == 100
    assert prune(store).only_copies == ()
    assert list(damaged.iterdir()) == []


def test_flipped_bytes_of_a_manifest_are_found(store: Store) -> None:
    """Keys, types, digests and sizes are all checked: a flipped byte in a manifest is a finding."""
    path = store.root / "manifests/registry.ollama.ai/library/mario/latest"
    data = path.read_bytes()
    missed = []
    for at in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        if not verify(store, set_aside=False).findings:
            missed.append(data[at : at + 1])
    path.write_bytes(data)
    assert missed == []


def test_verify_of_one_model_reads_only_its_blobs(mbuild: Run, store: Store) -> None:
    """NAME limits what is read; damage elsewhere is not reported; --dry-run moves nothing."""
    other = store.blobs.put(b"nobody's").digest
    store.blobs.path(other).write_bytes(b"somebody")
    done = mbuild("verify", "mario")
    assert (done.returncode, "all good" in done.stdout) == (0, True), done.stdout
    done = mbuild("verify", "--dry-run", "--format", "json")
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["what"] == str(other)
    assert finding["models"] == []
    assert "prune" in finding["heal"]
    assert store.blobs.path(other).exists()
    assert mbuild("verify", "nope").returncode == 1


def test_verify_names_missing_short_and_mislabelled_blobs(store: Store, tmp_path: Path) -> None:
    """A blob that is gone or cut, a torn manifest, a manifest with a wrong size."""
    system = Digest.of(b"You are Mario.")
    store.blobs.path(system).unlink()
    license_ = Digest.of(b"MIT")
    store.blobs.path(license_).write_bytes(b"M")
    manifest = store.root / "manifests/registry.ollama.ai/library/mario/latest"
    text = manifest.read_text()
    liar = manifest.parent.parent / "liar" / "latest"
    liar.parent.mkdir()
    liar.write_text(text.replace('"size":14,', '"size":15,').replace('"size":14}', '"size":15}'))
    broken = manifest.parent.parent / "broken" / "latest"
    broken.parent.mkdir()
    broken.write_text("{")
    found = {f.problem: f for f in verify(store, set_aside=False).findings}
    assert found[Damage.MISSING].what == str(system)
    assert found[Damage.MISSING].models == ("liar:latest (system)", "mario:latest (system)")
    assert found[Damage.CONTENT].what == str(license_)
    assert "broken:latest" in found[Damage.MANIFEST].detail
    make(store, tmp_path, "mario")
    found = {f.problem: f for f in verify(store).findings}
    assert found[Damage.SIZE].models == ("liar:latest",)


def test_a_damaged_base_is_refused_and_healed_at_its_source(mbuild: Run, tmp_path: Path) -> None:
    """FROM a damaged model fails with its name instead of inheriting the damage."""
    copy_tiny_store(tmp_path / "store")
    (tmp_path / "Modelfile").write_text("FROM tiny\nSYSTEM hi\n")
    assert mbuild("-t", "child").returncode == 0
    blob = max((tmp_path / "store" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    done = mbuild("verify", "child")
    assert done.returncode == 1
    assert "it came from tiny:latest: repair that first" in done.stdout
    done = mbuild("-t", "child")
    assert done.returncode == 1
    assert "missing or damaged" in done.stderr
    done = mbuild("prune", "--damaged", "--dry-run")
    assert "1 of them had no good copy in this store" in done.stdout


def test_a_linked_file_that_was_edited_is_told_and_not_lost(mbuild: Run, tmp_path: Path) -> None:
    """A user's own file keeps its name and bytes; the blob's name leaves it."""
    source = tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    assert mbuild("--link", "-t", "m").returncode == 0
    with source.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    edited = source.read_bytes()
    done = mbuild("verify")
    assert "it was linked, and then edited" in done.stdout
    assert source.read_bytes() == edited
    assert mbuild("-t", "m").returncode == 0
    assert mbuild("verify", "m").returncode == 0


def test_verify_leaves_blobs_in_place_while_a_build_runs(store: Store) -> None:
    """A running build may count on a blob, so it is reported and moved later."""
    path = store.blobs.path(Digest.of(b"MIT"))
    path.write_bytes(b"BSD")
    running = Store(store.root)
    running.begin()
    found = verify(store, wait_seconds=0.0)
    assert [finding.set_aside for finding in found.findings] == [""]
    assert "a build is running" in found.reason
    assert path.read_bytes() == b"BSD"
    running.end()
    assert verify(store).findings[0].set_aside
    assert not path.exists()


# What the documentation shows.


def test_the_documented_session(tmp_path: Path) -> None:
    """Each command of docs/disk.md prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented("disk.md", tmp_path)
