"""The curl examples in README.md, each run exactly as it is written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Server, example_models, serving_here
from stores import copy_tiny_store
from test_server_recordings import F16_MODEL

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(
    r"^### (.+?)\n(?:(?!^#).)*?```sh\n(.*?)```",
    DOCUMENT.partition("## Over HTTP")[2].partition("\n## ")[0],
    re.S | re.M,
)

LEVELS = {"my-gguf": "F16", "my-checkpoint": "BF16", "my-gguf:q8_0": "Q8_0"}

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("sha256sum")), reason="needs curl and sha256sum"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server, and a folder with what the examples expect in it.

    A ``.curlrc`` there leads curl from Ollama's port to the server's.
    """
    folder = tmp_path_factory.mktemp("examples")
    (folder / "model.gguf").write_bytes(F16_MODEL)
    example_models(folder / "models")
    (folder / "models" / "tiny-chat").rename(folder / "checkpoint")
    with serving_here(copy_tiny_store(folder / "store")) as server:
        (folder / ".curlrc").write_text(
            f'connect-to = "localhost:11434:127.0.0.1:{server.port}"\nfail-with-body\nsilent\n'
        )
        yield server, folder


@pytest.mark.parametrize(("title", "script"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples_work_as_written(place: tuple[Server, Path], title: str, script: str) -> None:
    """Each ends well, and every create among them with success."""
    server, folder = place
    environment = {**os.environ, "CURL_HOME": str(folder), "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('{"status":"success"}') == script.count("/api/create")
    name = re.search(r'"model": "(my[^"]*)"', script)
    if name:
        shown = server.http.post("/api/show", json={"model": name[1]}).json()
        assert shown["details"]["quantization_level"] == LEVELS[name[1]]


def test_every_kind_of_create_has_an_example() -> None:
    """From a model, from GGUF, from safetensors, quantized."""
    text = "".join(script for _, script in EXAMPLES)
    assert len(EXAMPLES) == 5
    for word in ('"from"', "model.gguf", "checkpoint/*", '"quantize"'):
        assert word in text
