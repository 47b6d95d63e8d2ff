"""Other people's clients, unmodified, running a real model of ``mbuild serve``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import from_npm, from_pypi
from live_server import Server, serving_here
from smollm import CHATML, build_models
from test_clients import NPM, PYPI, SCRIPTS

from mbuild.runtime.process import has_engine

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    text = f'TEMPLATE """{CHATML}"""\nSYSTEM Be brief.\nPARAMETER stop <|im_end|>'
    store = build_models(tmp_path_factory.mktemp("clients"), {"chat": text})
    with serving_here(store.root, engine="") as running:
        yield running


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "no_proxy": "*", "PYTHONPATH": ""}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_clients_run_models(server: Server) -> None:
    """Ollama's, OpenAI's and Anthropic's own, langchain, llama-index, LiteLLM and llm-ollama."""
    python = from_pypi("py", PYPI) / "python"
    assert _run(python, SCRIPTS / "running_python.py", server.url).count(" ok") == 7


def test_the_javascript_client_runs_models(server: Server) -> None:
    """Whole, streamed, aborted in the middle; embeddings; what is loaded."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    script = from_npm("node", NPM) / "running_javascript.mjs"
    shutil.copyfile(SCRIPTS / "running_javascript.mjs", script)
    assert _run("node", script, server.url).strip() == "ok"
