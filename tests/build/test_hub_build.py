"""FROM a repository of the Hub: what is fetched, when, and what stands in for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import files_of
from conftest import Run
from example_models import write_chat
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
