"""Builds of processes of their own that want the same repository of the Hub at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import files_of
from example_models import write_chat
from hub_stand_in import hub_stand_in
from stores import check_promise

from mbuild.core.names import ModelName
from mbuild.store import Store

REPO = "org/chat"


@pytest.mark.parametrize("second", ["q8_0", "q4_0"])
def test_a_checkpoint_is_fetched_once(tmp_path: Path, second: str) -> None:
    """Two builds of the same model, and of two models: each byte of the weights is sent once."""
    files = {
        name: path.read_bytes()
        for name, path in files_of(write_chat(tmp_path / "checkpoint")).items()
    }
    (tmp_path / "Modelfile").write_text(f"FROM hf.co/{REPO}\n", encoding="utf-8")
    store = Store(tmp_path / "store")
    with hub_stand_in() as hub:
        hub.put(REPO, files)
        hub.forget()
        hub.pause = 0.05
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HOME": str(tmp_path)}
        for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "mbuild", "--store", str(store.root)]
        builds = [
            subprocess.Popen(
                [*command, "-t", name, "-q", kind],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name, kind in (("one", "q8_0"), ("two", second))
        ]
        for build in builds:
            _, errors = build.communicate(timeout=120)
            assert build.returncode == 0, errors
        weights = sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))
        assert hub.weight_bytes() == weights > 0
    one, two = (store.manifests.read(ModelName.parse(name)).id for name in ("one", "two"))
    assert (one == two) == (second == "q8_0")
    assert check_promise(store.root) == 2
