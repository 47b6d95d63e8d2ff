"""What running models leaves behind: nothing, after ``keep_alive`` and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import LiveServer, serving
from smollm import build_models

from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

LEFT = 48 << 20
"""Bytes that the server may have kept: modules that it has loaded, and headers."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models of other contexts, which need an engine each."""
    models = {"a": "PARAMETER num_ctx 256", "b": "PARAMETER num_ctx 512"}
    return build_models(tmp_path_factory.mktemp("memory"), models).root


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(each) for each in found.stdout.split()]


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within some seconds."""
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def ask(server: LiveServer, number: int, keep_alive: str) -> bool:
    body = {"model": "ab"[number % 2], "prompt": f"{number}", "stream": False, "raw": True}
    options = {"num_predict": 1, "temperature": 0}
    body |= {"options": options, "keep_alive": keep_alive}
    answer = server.http.post("/api/generate", json=body)
    return answer.status_code == 200 and bool(answer.json()["done"])


def test_memory_comes_back(store: Path) -> None:
    """8 clients ask 2 models; after keep_alive no engine is left, and the server is as it was."""
    with serving(store) as server:
        assert ask(server, 0, "0s") and soon(lambda: not children(server.process.pid))
        before = server.memory()
        good: list[bool] = []
        threads = [
            threading.Thread(target=lambda n=n: good.extend(ask(server, n, "1s") for _ in range(3)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert good == [True] * 24
        assert soon(lambda: not children(server.process.pid))
        assert server.http.get("/api/ps").json() == {"models": []}
        assert server.memory() < before + LEFT


def test_no_engine_outlives_a_killed_server(store: Path) -> None:
    """SIGKILL leaves it no time to end them: they end by themselves."""
    server = LiveServer(store)
    assert ask(server, 0, "5m") and ask(server, 1, "5m")
    engines = children(server.process.pid)
    assert len(engines) == 2
    server.stop(signal.SIGKILL)
    assert soon(lambda: not any(_runs(pid) for pid in engines))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_prune_passes_over_what_runs(store: Path, tmp_path: Path) -> None:
    """Though its model is gone: it stays as long as the engine, and then goes."""
    from mbuild.core.names import ModelName
    from mbuild.models.disk.prune import prune
    from mbuild.store import Store

    opened = Store(store)
    with serving(store) as server:
        assert ask(server, 0, "5m")
        layer = opened.manifests.read(ModelName.parse("a")).manifest.layers[0]
        for name in ("a", "b"):
            os.unlink(store / "manifests/registry.ollama.ai/library" / name / "latest")
        done = prune(opened)
        assert done.running == 1 and opened.blobs.has(layer.digest, layer.size)
        assert [digest for digest, _ in done.kept] == [layer.digest]
    assert layer.digest in [digest for digest, _ in prune(opened).blobs]
    assert not opened.blobs.has(layer.digest, layer.size)
