"""What changes, as the page is told of it: builds here and elsewhere, models, slow readers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import Server, lines_of, serving_here
from page_client import seen, start, wait_for
from running_builds import Gate, gated, told
from stores import copy_tiny_store

from mbuild.build.history import History
from mbuild.server.page import watch
from mbuild.store import Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose store has the model ``tiny``."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        yield server


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that build nothing."""
    with serving_here(copy_tiny_store(tmp_path_factory.mktemp("asked") / "store")) as server:
        yield server


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Builds wait at their first running step until the test lets them go on."""
    with gated(monkeypatch) as gate:
        yield gate


def follow(server: Server, path: str, seconds: float = 10) -> Iterator[dict[str, Any]]:
    """The lines of a stream as they come."""
    with server.http.stream("GET", path, timeout=seconds) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            yield json.loads(line)


def test_a_build_is_watched_from_its_start_to_its_end(server: Server, gate: Gate) -> None:
    """Lists, the build with its looks, and a graph for each change of them; last the report."""
    identity = start(server, "mario")
    states, graphs, opened = [], 0, False
    for line in follow(server, f"/api/mbuild/watch?seconds=60&build={identity}"):
        graphs += bool(line.get("graph"))
        if build := line.get("build"):
            states.append(build["state"])
            if not opened and "running" in [step["look"] for step in build["of"]]:
                opened = True
                gate.open()
            if build["report"]:
                break
    assert "running" in states and states[-1] == "built" and graphs >= 1


def test_who_does_not_say_how_long_gets_what_is_true_now(asked: Server) -> None:
    """The lists once, and the end; what is no number of seconds is refused."""
    lines = asked.http.get("/api/mbuild/watch").text.splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [["builds", "now"], ["models", "now"]]
    for text in ("", "x", "-1", "1.5", "9" * 12):
        answer = asked.http.get("/api/mbuild/watch", params={"seconds": text})
        assert answer.status_code == 400 and "whole number" in answer.json()["error"]


def test_a_change_of_the_models_is_told(server: Server) -> None:
    """Another stamp follows when a model is copied by anybody."""
    stamps = (
        line["models"]
        for line in follow(server, "/api/mbuild/watch?seconds=60")
        if "models" in line
    )
    first = next(stamps)
    copied = server.http.post("/api/copy", json={"source": "tiny", "destination": "other"})
    assert copied.status_code == 200
    assert next(stamps) != first


def test_who_reads_slowly_holds_no_build(server: Server) -> None:
    """A watcher that reads nothing for the whole build: it ends, and others are answered."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    sock.sendall(b"GET /api/mbuild/watch?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for number in range(5):
        assert wait_for(server, start(server, f"m{number}"), "built")
    sock.close()


def test_there_is_a_limit_of_watchers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than that is answered 503, and when one has left there is room again."""
    monkeypatch.setattr(watch, "WATCHERS", 1)
    stream = follow(server, "/api/mbuild/watch?seconds=60")
    next(stream)
    assert server.http.get("/api/mbuild/watch").status_code == 503
    stream.close()
    end = time.monotonic() + 10
    while True:
        with server.http.stream("GET", "/api/mbuild/watch") as answer:
            if answer.status_code == 200:
                break
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_build_of_another_process_is_seen(server: Server, tmp_path: Path) -> None:
    """It is among those that run, with its steps, and this server cannot stop it."""
    build = wait_for(server, start(server, "mario"), "built")
    record = next(History(server.store).newest_first())
    telling = told(Store(server.root), record, "00000000dddd")
    (running,) = server.http.get("/api/mbuild/builds").json()["running"]
    assert (running["id"], running["here"]) == ("00000000dddd", False)
    assert running["steps"] == len(build["of"])
    other = seen(server, "00000000dddd")
    assert other["state"] == "running" and not other["here"] and other["report"] == ""
    refused = server.http.delete("/api/mbuild/builds/00000000dddd")
    assert refused.status_code == 404 and "Ctrl-C" in refused.json()["error"]
    telling.end()


def test_the_page_and_old_clients_share_one_build(server: Server, gate: Gate) -> None:
    """The same asked by the page and by /api/create is one build with one id."""
    fields = {"model": "mario", "from": "tiny", "system": "Same"}
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(server.create(**fields)))
    thread.start()
    assert gate.reached.wait(10)
    identity = server.http.post("/api/mbuild/builds", json=fields).json()["id"]
    (running,) = server.http.get("/api/mbuild/builds").json()["running"]
    assert running["id"] == identity
    gate.open()
    thread.join(20)
    assert lines_of(answers[0])[-1]["status"] == "success"
    assert len(list(History(server.store).newest_first())) == 1
