"""FROM a repository of the Hub: what is fetched, when, and what stands in for it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import files_of
from conftest import Run
from example_models import write_chat
from gguf_files import gguf_bytes, tiny_model
from hub_stand_in import TOKEN, HubStandIn, hub_stand_in
from inprocess import in_process
from stores import check_promise

from mbuild.core.names import ModelName
from mbuild.store import Store

REPO = "org/chat"
CARD = b"---\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, on an empty store, without a login or a Hub's cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return in_process(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small checkpoint's files, with what no build needs beside them."""
    folder = write_chat(tmp_path_factory.mktemp("checkpoint") / "chat")
    files = {name: path.read_bytes() for name, path in files_of(folder).items()}
    return {**files, "README.md": CARD, "pytorch_model.bin": b"x" * 5000, "run.py": b"pass"}


@pytest.fixture
def hub(checkpoint: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The Hub with ``org/chat``; a Modelfile names it."""
    with hub_stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        found.put(REPO, checkpoint)
        found.forget()
        yield found


def modelfile(folder: Path, *lines: str) -> None:
    (folder / "Modelfile").write_text("\n".join(lines) + "\n")


def identity(folder: Path, name: str) -> str:
    return str(Store(folder / "store").manifests.read(ModelName.parse(name)).id)


def good(mbuild: Run, *arguments: str) -> str:
    """Build ``m``; standard error."""
    done = mbuild("-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def forget_weights(store: Path, hub: HubStandIn) -> int:
    """Remove what the store has of the Hub's large files; how many names that were."""
    paths = [folder / f"sha256-{digits}" for digits in hub.lfs for folder in places(store)]
    there = [path for path in paths if path.exists()]
    for path in there:
        path.unlink()
    return len(there)


def places(store: Path) -> tuple[Path, Path]:
    return store / "blobs", store / ".mbuild/kept"


def test_a_checkpoint_is_fetched_and_comes_out_as_from_a_folder(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, checkpoint: dict[str, bytes]
) -> None:
    """With a cold cache each file that a build needs comes once, and no other."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    done = mbuild("-t", "m", "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (pull,) = [e for e in events if e["event"] == "StepFinished" and e["kind"] == "pull"]
    assert pull["subject"].startswith("hf.co/org/chat@") and not pull["cached"]
    assert "pytorch_model.bin" not in hub.sent and "run.py" not in hub.sent
    assert hub.sent == {name: len(data) for name, data in checkpoint.items() if name in hub.sent}
    assert {"config.json", "model.safetensors", "README.md"} <= hub.sent.keys()
    remote = identity(tmp_path, "m")
    assert check_promise(tmp_path / "store") == 1
    folder = tmp_path / "chat"
    for name, data in checkpoint.items():
        if name in hub.sent:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    modelfile(tmp_path, "FROM ./chat")
    assert "0 steps run" in good(mbuild)  # the very same keys
    good(mbuild, "--no-cache")
    assert identity(tmp_path, "m") == remote


def test_a_second_build_asks_nobody(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Not even where nobody could be reached."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild)
    hub.forget()
    assert "0 steps run" in good(mbuild)
    assert hub.requests == []


def test_a_warm_cache_loads_no_weights(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """The Hub tells the digests beforehand: of a built result the source need never come back."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild, "-q", "q8_0")
    before = identity(tmp_path, "m")
    removed = forget_weights(tmp_path / "store", hub)
    assert removed > 0
    hub.forget()
    assert "0 steps run" in good(mbuild, "-q", "q8_0", "--pull", "always")
    assert hub.weight_bytes() == 0 and hub.requests
    assert identity(tmp_path, "m") == before


def test_always_missing_never(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """A branch is asked for anew, or is what it was; a changed text costs no weights."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    never = mbuild("-t", "m", "--pull", "never")
    assert never.returncode == 1 and "--pull never forbids fetching it" in never.stderr
    assert hub.requests == []
    good(mbuild, "--pull", "missing")
    before = identity(tmp_path, "m")
    files = dict(hub.repositories[REPO].commits[hub.repositories[REPO].refs["main"]])
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps({**config, "rope_theta": 7.0}).encode()
    hub.put(REPO, files)
    hub.forget()
    good(mbuild, "--pull", "missing")
    good(mbuild, "--pull", "never")
    assert identity(tmp_path, "m") == before and hub.requests == []
    assert "rope_theta 10000.0 -> 7.0" in good(mbuild, "--pull", "always")
    assert hub.sent.keys() == {"config.json"}
    assert identity(tmp_path, "m") != before


def test_a_revision_is_a_branch_a_tag_or_a_commit(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, checkpoint: dict[str, bytes]
) -> None:
    """Each builds what it names; one that is not there is told of with its line."""
    first = hub.repositories[REPO].refs["main"]
    config = json.loads(checkpoint["config.json"])
    other = json.dumps({**config, "rope_theta": 9.0}).encode()
    hub.put(REPO, {**checkpoint, "config.json": other}, "refs/pr/1")
    ids = []
    for revision in ("", "@refs/pr/1", f"@{first}"):
        modelfile(tmp_path, f"FROM hf.co/{REPO}{revision}")
        good(mbuild)
        ids.append(identity(tmp_path, "m"))
    assert ids[0] == ids[2] != ids[1]
    modelfile(tmp_path, "# one", f"FROM hf.co/{REPO}@v9")
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "Modelfile:2" in done.stderr and "has no revision 'v9'" in done.stderr


def test_the_addresses_of_pages(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Mean the repository that they show; others are refused with what to write."""
    first = hub.repositories[REPO].refs["main"]
    page = f"https://huggingface.co/{REPO}"
    for shown in (f"{page}/", f"{page}/tree/main", f"{page}/commit/{first}"):
        modelfile(tmp_path, f"FROM {shown}")
        good(mbuild)
    modelfile(tmp_path, f"FROM {page}/discussions")
    assert f"did you mean hf.co/{REPO}?" in mbuild("-t", "m").stderr
    hub.put("org/gguf", {"a-q8_0.gguf": b"GGUF", "b-q4_0.gguf": b"GGUF"})
    modelfile(tmp_path, "FROM hf.co/org/gguf@main")
    assert "write hf.co/org/gguf, or hf.co/org/gguf:Q4_K_M" in mbuild("-t", "m").stderr
    hub.forget()
    modelfile(tmp_path, "FROM hf.co/org/gguf:a-q8_0.gguf")
    mbuild("-t", "m")
    assert [path for _, path, _ in hub.requests][:1] == ["/v2/org/gguf/manifests/a-q8_0.gguf"]


def test_gated_private_renamed_and_absent(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Each is told apart as far as the Hub tells, with what to do; a token opens what it may."""
    repository = hub.repositories[REPO]
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    repository.gated = True
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "is gated: its owners decide who may download it" in done.stderr
    assert "https://huggingface.co/org/chat, then set HF_TOKEN" in done.stderr
    repository.gated, repository.private = False, True
    done = mbuild("-t", "m")
    assert "the Hub has no such repository, or it is private" in done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        repository.gated = True
        good(mbuild)
    shown = [h.get("Authorization") for _, path, h in hub.requests if path.startswith("/get/")]
    assert shown and not any(shown)  # the storage sees no token
    assert TOKEN not in (tmp_path / "store/.mbuild").joinpath("cache.db").read_bytes().decode(
        "latin-1"
    )
    hub.put("new/name", dict(repository.commits[repository.refs["main"]]))
    repository.renamed = "new/name"
    assert "hf.co/org/chat is called hf.co/new/name now" in good(mbuild, "--pull", "always")
    modelfile(tmp_path, "FROM hf.co/org/nothing")
    done = mbuild("-t", "m")
    assert done.returncode == 1 and "the Hub has no such repository" in done.stderr


def test_offline(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """``HF_HUB_OFFLINE`` forbids requests; what was built before is built again, what not, not."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        done = mbuild("-t", "m")
        assert done.returncode == 1 and "HF_HUB_OFFLINE forbids fetching it" in done.stderr
        patch.delenv("HF_HUB_OFFLINE")
        good(mbuild)
        hub.forget()
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert "0 steps run" in good(mbuild)
        good(mbuild, "--no-cache", "--outtype", "f16")
    assert hub.requests == []


def test_the_hubs_own_cache_is_read_in_place(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What huggingface_hub fetched is not fetched again, nor copied; offline it is enough."""
    from huggingface_hub import snapshot_download

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "hub")
    hub.forget()
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild)
    assert not hub.sent
    blobs = {path.name for path in (tmp_path / "store/blobs").iterdir()}
    assert blobs.isdisjoint(f"sha256-{digits}" for digits in hub.lfs)
    before = identity(tmp_path, "m")
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(tmp_path / "store")
    good(mbuild)
    assert identity(tmp_path, "m") == before and hub.requests == []


def test_a_cut_download_goes_on(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, checkpoint: dict[str, bytes]
) -> None:
    """Where it was cut, in the same build; and a Hub that is busy is asked again."""
    hub.cut_after, hub.cuts, hub.busy = 100_000, 3, 1
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild)
    weights = sum(len(data) for name, data in checkpoint.items() if name.endswith("safetensors"))
    assert weights <= hub.weight_bytes() <= weights * 1.05
    assert hub.cuts == 0


def test_what_lies_is_refused(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Of weights whose digest is another nothing stays; of a small file neither."""
    hub.lie = True
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    done = mbuild("-t", "m")
    assert done.returncode == 1 and "the wrong bytes" in done.stderr
    weights = {f"sha256-{digits}" for digits, data in hub.lfs.items() if len(data) > 1 << 20}
    assert weights and weights.isdisjoint(p.name for p in (tmp_path / "store/blobs").iterdir())
    hub.lie = False
    good(mbuild)


def test_a_lock_pins_the_commit(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """``--locked`` fetches exactly that, with the digests that the Hub names, wherever main is."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    done = mbuild("lock", "-t", "m")
    assert done.returncode == 0, done.stderr
    first, before = hub.repositories[REPO].refs["main"], identity(tmp_path, "m")
    (source,) = json.loads((tmp_path / "Modelfile.lock").read_text())["sources"]["from"]
    assert source["revision"] == f"{REPO}@{first}"
    shard = next(name for name in source["files"] if name.endswith(".safetensors"))
    assert source["files"][shard].removeprefix("sha256:") in hub.lfs
    files = dict(hub.repositories[REPO].commits[first])
    config = json.loads(files["config.json"])
    hub.put(REPO, {**files, "config.json": json.dumps({**config, "rope_theta": 5.0}).encode()})
    shutil.rmtree(tmp_path / "store")
    done = mbuild("--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    assert identity(tmp_path, "m") == before
    done = mbuild("--locked", "-t", "m", "--pull", "always")
    assert done.returncode == 1 and "the Hub's commit changed" in done.stderr


def test_a_lock_says_which_of_a_repository_s_models_it_means(
    mbuild: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """Its checkpoint, or a GGUF file of it that was pulled before under the same name."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    assert mbuild("lock", "-t", "m").returncode == 0
    before = identity(tmp_path, "m")
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(tiny_model()))
    (tmp_path / "Other").write_text("FROM ./tiny.gguf\n")
    assert mbuild("-f", "Other", "-t", f"hf.co/{REPO}").returncode == 0
    done = mbuild("--locked", "-t", "m")
    assert done.returncode == 0, done.stderr
    assert identity(tmp_path, "m") == before
    assert mbuild("lock", "-t", "m").returncode == 0
    (source,) = json.loads((tmp_path / "Modelfile.lock").read_text())["sources"]["from"]
    assert source["model"] == f"hf.co/{REPO}:latest"
    shutil.rmtree(tmp_path / "store")
    hub.forget()
    done = mbuild("--locked", "-t", "m")  # this Hub has no registry
    assert done.returncode == 1 and "cannot be pulled" in done.stderr, done.stderr
    assert hub.sent == {}


def test_a_lock_does_not_tell_where_the_files_were(
    mbuild: Run,
    tmp_path: Path,
    hub: HubStandIn,
    checkpoint: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fetched, in the store or in the Hub's own cache: one lock, and each holds to it."""
    data = gguf_bytes(tiny_model())
    digest = hashlib.sha256(data).hexdigest()
    hub.lfs[digest] = data
    url = f"{hub.storage}/get/{digest}/tiny.gguf?name=tiny.gguf"
    modelfile(tmp_path, f"FROM hf.co/{REPO}", f"DRAFT {url}@sha256:{digest}")
    texts = set()
    for _ in range(2):
        assert mbuild("lock").returncode == 0
        texts.add((tmp_path / "Modelfile.lock").read_text())
    commit = hub.repositories[REPO].refs["main"]
    cache = tmp_path / "cache/models--org--chat"
    for name, data in checkpoint.items():
        path = cache / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert mbuild("lock").returncode == 0
    texts.add((tmp_path / "Modelfile.lock").read_text())
    assert len(texts) == 1
    monkeypatch.delenv("HF_HUB_CACHE")
    shutil.rmtree(tmp_path / "store")
    done = mbuild("--locked", "-t", "m")
    assert done.returncode == 0, done.stderr


def test_plan_and_explain_tell_of_the_download(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, checkpoint: dict[str, bytes]
) -> None:
    """Bytes to fetch, without fetching a weight; after the build there are none."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    done = mbuild("plan", "-t", "m", "--format", "json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (pull,) = [step for step in plan["steps"] if step["kind"] == "pull"]
    weights = sum(len(data) for name, data in checkpoint.items() if name.endswith("safetensors"))
    assert weights <= plan["fetches"] == pull["fetches"] < weights * 2
    assert hub.weight_bytes() == 0
    assert "to fetch" in mbuild("plan", "-t", "m").stdout
    assert "run      pull hf.co/org/chat" in mbuild("explain", "-t", "m").stdout
    good(mbuild)
    assert json.loads(mbuild("plan", "-t", "m", "--format", "json").stdout)["fetches"] == 0
    steps = json.loads(mbuild("history", "m", "--format", "json").stdout)
    assert "pull hf.co/org/chat" in json.dumps(steps)


def test_disk_space_is_checked_before(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte of weights travels that could not be kept."""
    from mbuild.store import blobs

    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    real = blobs.check_room
    monkeypatch.setattr(
        blobs, "check_room", lambda place, size, work: real(place, size + (1 << 60), work)
    )
    done = mbuild("-t", "m")
    assert done.returncode == 1 and "the build will not fit on this disk" in done.stderr
    assert hub.weight_bytes() == 0


def test_a_draft_of_the_hub_and_a_file_of_a_site(
    mbuild: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """DRAFT takes a repository; FROM an address with a digest, which is checked."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild)
    done = mbuild("export", "m", "-o", str(tmp_path / "out.gguf"))
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "out.gguf").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    hub.lfs[digest] = data
    url = f"{hub.storage}/get/{digest}/chat.gguf?name=chat.gguf"
    shutil.rmtree(tmp_path / "store")
    modelfile(tmp_path, f"FROM {url}@sha256:{digest}", f"DRAFT hf.co/{REPO}")
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    layers = Store(tmp_path / "store").manifests.read(ModelName.parse("m")).manifest.layers
    assert layers[0].digest.hex == digest
    assert [layer.kind for layer in layers].count("draft") == 1
    modelfile(tmp_path, f"FROM {url}@sha256:{'0' * 64}")
    assert mbuild("-t", "m").returncode == 1
    modelfile(tmp_path, f"FROM {url}")
    done = mbuild("-t", "m")
    assert done.returncode == 1 and "URL@sha256:..." in done.stderr


def timeline(mbuild: Run, *arguments: str) -> list[dict[str, object]]:
    """The events of a build of ``m``."""
    done = mbuild("-t", "m", "--progress", "json", *arguments)
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="takes Linux's names of open files")
@pytest.mark.parametrize("options", [(), ("-q", "q8_0")])
def test_weights_are_converted_while_they_arrive(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, options: tuple[str, ...]
) -> None:
    """The conversion, or the quantization, is at work before the download ends; same bytes."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    hub.pause = 0.04
    events = timeline(mbuild, *options)
    work = "quantize" if options else "convert"
    ended = next(
        n for n, e in enumerate(events) if (e["event"], e.get("kind")) == ("StepFinished", "pull")
    )
    begun = [e for e in events[:ended] if e.get("kind") == work]
    assert begun[0]["event"] == "StepStarted", events
    if not options:
        assert any(e.get("completed") for e in begun), events
    first = identity(tmp_path, "m")
    hub.pause = 0.0
    good(mbuild, *options, "--no-cache")  # the files are here
    assert identity(tmp_path, "m") == first
    assert check_promise(tmp_path / "store") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="takes Linux's names of open files")
def test_what_was_wrong_at_first_is_in_no_model(
    mbuild: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """Of bytes that were used and turn out wrong nothing is recorded; the next build is right."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild)
    right = identity(tmp_path, "m")
    shutil.rmtree(tmp_path / "store")
    hub.lie, hub.lies = True, 1
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "the wrong bytes" in done.stderr
    assert not list(Store(tmp_path / "store").manifests.names())
    good(mbuild)
    assert identity(tmp_path, "m") == right


def test_a_download_that_fails_is_told_of_as_such(
    mbuild: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """Not the steps that waited for it."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    hub.lfs.clear()
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "cannot be pulled" in done.stderr and "stopped" not in done.stderr


def test_sources_that_are_not_kept(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """Are gone after the build, and not needed by the next one."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    good(mbuild, "--no-keep-source")
    weights = [
        data for name, data in hub.repositories[REPO].commits[hub.repositories[REPO].refs["main"]]
        .items() if name.endswith(".safetensors")
    ]  # fmt: skip
    names = {f"sha256-{hashlib.sha256(data).hexdigest()}" for data in weights}
    for place in places(tmp_path / "store"):
        assert names.isdisjoint(path.name for path in place.iterdir())
    hub.forget()
    assert "0 steps run" in good(mbuild, "--no-keep-source") and hub.requests == []
    good(mbuild, "--no-cache")
    assert hub.weight_bytes() == sum(map(len, weights))
    assert check_promise(tmp_path / "store") == 1


def test_what_a_colleague_has_built_loads_no_weights(
    mbuild: Run, tmp_path: Path, hub: HubStandIn
) -> None:
    """The Hub tells the digests, the shared cache has the result: nothing else is asked for."""
    modelfile(tmp_path, f"FROM hf.co/{REPO}")
    shared = str(tmp_path / "shared")
    good(mbuild, "-q", "q8_0", "--cache-to", shared)
    first = identity(tmp_path, "m")
    shutil.rmtree(tmp_path / "store")
    hub.forget()
    said = good(mbuild, "-q", "q8_0", "--cache-from", shared)
    assert "from the shared cache: quantize chat to Q8_0" in said
    assert identity(tmp_path, "m") == first
    assert hub.weight_bytes() == 0
    assert check_promise(tmp_path / "store") == 1
