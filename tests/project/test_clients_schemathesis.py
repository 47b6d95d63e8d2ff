"""schemathesis makes requests out of the OpenAPI document: none may be a server error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from installed import from_pypi
from live_server import serving
from stores import copy_tiny_store

pytestmark = pytest.mark.clients

CONFIG = """\
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501"]

[[operations]]
include-path = ["/api/pull", "/api/push"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "500"]
"""
"""501 is the answer to what would run a model, 500 Ollama's for a registry out of reach."""


@pytest.fixture(scope="session")
def schemathesis() -> Path:
    """The command, in an environment of its own."""
    return from_pypi("schemathesis", ("schemathesis>=4",)) / "st"


def test_no_request_is_a_server_error(schemathesis: Path, tmp_path: Path) -> None:
    """Hundreds of requests, valid and not, on a store that may be emptied by them."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with serving(copy_tiny_store(tmp_path / "store")) as server:
        # A model that never stops by itself would answer each prompt until its context is full.
        brief = {"num_predict": 4, "num_ctx": 64}
        server.create(model="tiny", **{"from": "tiny"}, parameters=brief).raise_for_status()
        document = f"{server.url}/openapi.json"
        command = [schemathesis, "--config-file", config, "run", document, "--no-color"]
        rules = ["--checks", "not_a_server_error", "--generation-deterministic", "-n", "10"]
        rules += ["--request-timeout", "60"]  # by default 10 s, which a busy machine may take
        phases = ["--phases", "examples,coverage,fuzzing"]
        done = subprocess.run(
            [str(word) for word in [*command, *rules, *phases]],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=tmp_path,
            env={**os.environ, "no_proxy": "*"},
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " generated, " in done.stdout and "failed" not in done.stdout.lower()
