"""Models that run by a ``llama-server``: what it is given, what it answers, how it ends."""

from __future__ import annotations

import ast
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import Server, lines_of, serving_here
from llama_program import processes_of, write_llama_server
from smollm import CHATML, build_models

from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

HI = [{"role": "user", "content": "Hi"}]
FEW = {"num_predict": 4, "temperature": 0, "num_ctx": 256}
COLOUR = {"enum": ["red", "green"]}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_server(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("served")
    store = build_models(root, {"chat": f'TEMPLATE """{CHATML}"""\nPARAMETER num_ctx 256'})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGML_VK_VISIBLE_DEVICES", "1")
        patch.setenv("NVIDIA_API_KEY", "secret")
        with serving_here(store.root, engine=str(program)) as running:
            yield running


def _chat(server: Server, **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "chat", "messages": HI, "options": FEW, "stream": False, **more}
    answer = server.http.post("/api/chat", json=body)
    return answer.status_code, answer.json()


def test_it_answers_and_knows_what_it_needs(server: Server, program: Path) -> None:
    """The model's file, its context and threads, the devices of the environment, no secrets."""
    status, answer = _chat(server)
    assert status == 200 and answer["eval_count"] == 4 and answer["message"]["content"]
    options, environment = ast.literal_eval(program.with_name("llama-server.told").read_text())
    assert options["ctx_size"] == 256 and options["threads"] == 1 and options["no_jinja"]
    assert Path(options["model"]).parent == server.root / "blobs"
    assert environment["GGML_VK_VISIBLE_DEVICES"] == "1" and "NVIDIA_API_KEY" not in environment
    body = {"model": "chat", "input": ["one", "two"], "options": FEW}
    found = server.http.post("/api/embed", json=body).json()["embeddings"]
    assert len(found) == 2 and found[0] != found[1]


def test_an_answer_is_held_against_its_schema(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the program passes over is an error at the end: here it was told another schema."""
    options = {**FEW, "num_predict": 32}
    assert json.loads(_chat(server, format=COLOUR, options=options)[1]["message"]["content"])
    monkeypatch.setattr("mbuild.runtime.asking._schema_in", lambda body: {"type": "integer"})
    status, answer = _chat(server, format=COLOUR, options=options)
    assert status == 500
    assert 'does not follow the schema in format: "' in answer["error"]
    assert "passes over a part of it; without --llama-server" in answer["error"]
    body = {"model": "chat", "messages": HI, "options": options, "format": COLOUR}
    *lines, last = lines_of(server.http.post("/api/chat", json=body))
    assert lines and "does not follow" in last["error"]
    form = {"type": "json_schema", "json_schema": {"schema": COLOUR}}
    body = {"model": "chat", "messages": HI, "max_tokens": 32, "response_format": form}
    assert "does not follow" in server.http.post("/v1/chat/completions", json=body).text
    status, answer = _chat(server, format=COLOUR, options={**FEW, "num_predict": 1})
    assert status == 200 and answer["done_reason"] == "length"  # half an answer follows nothing


def test_it_ends_with_its_model(server: Server, program: Path) -> None:
    """Killed in an answer it is one error line, and the next request starts another; unloaded
    it is gone."""
    _chat(server)
    (pid,) = processes_of(program)
    long = {"model": "chat", "messages": HI, "options": {**FEW, "num_predict": 200, "seed": 1}}
    with server.http.stream("POST", "/api/chat", json=long) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        *_, last = lines
    assert "unexpectedly stopped" in json.loads(last)["error"]
    assert "llama-server was ended by SIGKILL" in json.loads(last)["error"]
    assert _chat(server)[0] == 200
    assert pid not in processes_of(program)
    server.http.post("/api/chat", json={"model": "chat", "messages": [], "keep_alive": 0})
    for _ in range(200):
        if not processes_of(program):
            break
        time.sleep(0.05)
    assert processes_of(program) == []
