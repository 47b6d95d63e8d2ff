"""The page at ``/``, and what it asks: who gets it, and what it says of the store."""

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
from live_server import Server, serving_here
from page_client import seen, start, wait_for
from running_builds import Gate, gated
from stores import copy_tiny_store

from mbuild.build.history import History
from mbuild.build.steps.layers import PutLayer
from mbuild.models.disk import usage
from mbuild.models.disk.inventory import LeftoverKind
from mbuild.server.page import assets
from mbuild.server.page.assets import POLICY, wants_page
from mbuild.server.security import AccessPolicy

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OLLAMA = b"Ollama is running"


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
def closed(tmp_path: Path) -> Iterator[Server]:
    """The same behind a token."""
    policy = AccessPolicy(token="secret")
    with serving_here(copy_tiny_store(tmp_path / "store"), policy=policy) as server:
        yield server


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Builds wait at their first running step until the test lets them go on."""
    with gated(monkeypatch) as gate:
        yield gate


# Who gets the page.


@pytest.mark.parametrize(
    "accept",
    [
        HTML["Accept"],
        "text/html",
        "TEXT/HTML; q=0.5, */*",
        "text/html, application/xhtml+xml, image/jxr, */*",
    ],
)
def test_a_browser_gets_the_page(asked: Server, accept: str) -> None:
    """Who names text/html gets HTML that shows nothing of the store; HEAD has its headers."""
    answer = asked.http.get("/", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<main" in answer.content and b"tiny" not in answer.content
    assert answer.headers["vary"] == "Accept"
    head = asked.http.head("/", headers={"Accept": accept})
    assert head.content == b"" and head.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/json",
        "application/json, text/plain, */*",
        "text/*",
        "text/htmlx",
        "text/html;q=0, */*",
        "text/html; q=0.000",
        "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
    ],
)
def test_everybody_else_gets_ollamas_words(asked: Server, accept: str | None) -> None:
    """Byte for byte the answer without the page, with no header more."""
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    request += f"Accept: {accept}\r\n".encode() if accept is not None else b""
    head, _, body = asked.raw(request + b"\r\n").partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert body == OLLAMA
    assert names == {b"date", b"content-length", b"content-type", b"connection"}
    head = asked.raw(b"HEAD" + request[3:] + b"\r\n")
    assert head.endswith(b"\r\n\r\n") and b"content-length: 17" in head.lower()


def test_what_wants_the_page_is_a_name_and_no_wildcard() -> None:
    """Only text/html itself counts, unless it is refused with q=0."""
    assert wants_page("application/json, text/html ;q=1")
    assert not wants_page("text/html;q=0.0") and not wants_page("*/*") and not wants_page("")


def test_files_are_guarded_and_kept_by_their_digest(asked: Server) -> None:
    """Each has a strict policy and its type, and is not sent again to who has it."""
    for name, asset in assets.assets().items():
        answer = asked.http.get(f"/page/{name}")
        assert (answer.status_code, answer.content) == (200, asset.data), name
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
        tag = {"If-None-Match": f'"other", W/{answer.headers["etag"]}'}
        again = asked.http.get(f"/page/{name}", headers=tag)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
    assert asked.http.get("/page/main.py").status_code == 404
    for path in ("/page/..%2fassets.py", "/page/%2e%2e/assets.py", "/page/../assets.py"):
        assert b"hashlib" not in asked.raw(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )


def test_the_page_has_no_inline_script_and_loads_only_its_own_files() -> None:
    """Neither the page nor a file of it names another host, and no text is run as code."""
    forbidden = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "onclick",
    )
    for name, asset in assets.assets().items():
        text = asset.data.decode().replace("http://www.w3.org/", "")
        assert "http:" not in text and "https:" not in text, name
        assert not [word for word in forbidden if word in text], name
    page = assets.assets()["index.html"].data.decode()
    assert "<style" not in page and "style=" not in page and page.count("<script") == 1


def test_a_stranger_gets_no_page(asked: Server) -> None:
    """Host and Origin are looked at before the page and its files, as before everything."""
    for path in ("/", "/page/main.js", "/api/mbuild/about"):
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            answer = asked.http.get(path, headers={**HTML, **headers})
            assert (answer.status_code, answer.content) == (403, b"")
    body = {"model": "x", "from": "tiny"}
    evil = {"Origin": "http://evil.example"}
    assert asked.http.post("/api/mbuild/builds", json=body, headers=evil).status_code == 403


def test_behind_a_token_only_the_empty_page_is_open(closed: Server) -> None:
    """The page's files need none; everything about the store does, and Ollama's words too."""
    assert closed.http.get("/", headers=HTML).status_code == 200
    assert closed.http.get("/page/main.js").status_code == 200
    assert closed.http.get("/").status_code == 401
    paths = (
        "about",
        "builds",
        "builds/x",
        "builds/x/report",
        "layers",
        "disk",
        "models/tiny",
        "watch",
    )
    for path in paths:
        assert closed.http.get(f"/api/mbuild/{path}").status_code == 401, path
    for method, path in (("POST", "builds"), ("DELETE", "builds/x"), ("POST", "check")):
        answer = closed.http.request(method, f"/api/mbuild/{path}", json={})
        assert answer.status_code == 401, path
    right = {"Authorization": "Bearer secret"}
    assert closed.http.get("/api/mbuild/about", headers=right).json()["token"] is True


def test_the_address_of_a_report_is_a_permission_for_it_alone(closed: Server) -> None:
    """A new tab reads it without the token, which is not in it; another build's needs another."""
    closed.http.headers["Authorization"] = "Bearer secret"
    first, second = start(closed, "one"), start(closed, "two")
    addresses = [wait_for(closed, each, "built")["report"] for each in (first, second)]
    with httpx.Client(base_url=closed.url, trust_env=False, verify=False) as tab:
        report = tab.get(addresses[0])
        assert report.status_code == 200 and "one:latest" in report.text
        assert "secret" not in addresses[0]
        policy = report.headers["content-security-policy"]
        assert policy.startswith("sandbox; default-src 'none'")
        query = addresses[0].partition("?")[2]
        assert tab.get(f"/api/mbuild/builds/{second}/report?{query}").status_code == 401
        assert tab.get(f"/api/mbuild/builds/{first}?{query}").status_code == 401
        late = addresses[0].replace("expires=1", "expires=2")
        assert tab.get(late).status_code == 401


# What it says.


def test_a_model_with_its_layers_and_who_shares_them(server: Server) -> None:
    """Each layer has the other models that use it; own and shared add up as in du."""
    wait_for(server, start(server, "mario"), "built")
    model = server.http.get("/api/mbuild/models/mario").json()
    layers = {layer["kind"]: layer for layer in model["layers"]}
    assert layers["model"]["users"] == ["tiny:latest"] and layers["model"]["present"]
    assert layers["system"]["users"] == []
    disk = server.http.get("/api/mbuild/disk").json()
    (row,) = [row for row in disk["models"] if row["name"] == "mario:latest"]
    assert (row["own"], row["shared"]) == (model["own"], model["shared"])
    assert "SYSTEM I am mario." in model["modelfile"] and "FROM @sha256:" in model["modelfile"]
    shared = server.http.get("/api/mbuild/layers").json()["layers"]
    assert layers["model"]["digest"] in [layer["digest"] for layer in shared]
    assert all(len(layer["users"]) > 1 for layer in shared)
    assert seen(server, model["build"])["names"] == ["mario:latest"]
    assert server.http.get("/api/mbuild/models/nobody").status_code == 404


def test_the_disk_is_what_du_says(server: Server) -> None:
    """The same sums, key by key."""
    wait_for(server, start(server, "mario"), "built")
    end = time.monotonic() + 10
    while usage(server.store).leftovers.get(LeftoverKind.TEMPORARY):  # it is in the log, and ends
        assert time.monotonic() < end
        time.sleep(0.05)
    found = server.http.get("/api/mbuild/disk").json()
    now = usage(server.store).to_json()
    room = found.pop("keep_budget") / now.pop("keep_budget")  # a part of what is free on the disk
    assert found == now and 0.5 < room < 2


def test_a_build_goes_on_when_its_client_is_gone(server: Server, gate: Gate) -> None:
    """It runs without anybody who waits, is seen while it runs, and is in the log at its end."""
    identity = start(server, "mario")
    build = wait_for(server, identity, "running")
    assert gate.reached.wait(10)
    build = seen(server, identity)
    assert build["here"] is True and "running" in [step["look"] for step in build["of"]]
    (running,) = server.http.get("/api/mbuild/builds").json()["running"]
    assert (running["id"], running["names"]) == (identity, ["mario:latest"])
    gate.open()
    build = wait_for(server, identity, "built")
    assert build["report"] and not build["here"]
    assert [line for _, line in build["log"] if line.startswith("built mario:latest")]
    assert next(History(server.store).newest_first()).id == identity
    assert server.http.get(build["report"]).text.startswith("<!doctype html>")


def test_stop_stops_a_build_and_loses_nothing(server: Server, gate: Gate) -> None:
    """It ends as stopped, names no model, and the next one goes on."""
    identity = start(server, "mario")
    assert gate.reached.wait(10)
    answer = server.http.delete(f"/api/mbuild/builds/{identity}")
    assert (answer.status_code, answer.json()["state"]) == (202, "stopping")
    gate.open()
    assert wait_for(server, identity, "stopped")["here"] is False
    assert next(History(server.store).newest_first()).result == "stopped"
    names = [model["name"] for model in server.http.get("/api/tags").json()["models"]]
    assert names == ["tiny:latest"]
    assert server.http.delete(f"/api/mbuild/builds/{identity}").status_code == 404
    wait_for(server, start(server, "mario"), "built")


def test_a_client_of_the_api_that_leaves_stops_its_own_build_only(
    server: Server, gate: Gate
) -> None:
    """A build that the page started, too, goes on; one that only the client wanted ends."""
    fields = {"from": "tiny", "system": "Shared"}
    kept = server.http.post("/api/mbuild/builds", json={"model": "kept", **fields}).json()["id"]
    for name in ("kept", "mine"):
        body = json.dumps({"model": name, **fields}).encode()
        head = f"POST /api/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + b"\r\n" + body)
            end = time.monotonic() + 10
            while name not in server.http.get("/api/mbuild/builds").text:
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(0.2)  # until the client waits for the build
    time.sleep(0.2)  # until the server knows that it has left
    gate.open()
    assert wait_for(server, kept, "built")
    end = time.monotonic() + 10
    while server.http.get("/api/mbuild/builds").json()["running"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    listed = server.http.get("/api/mbuild/builds").json()
    ended = {row["names"][0]: row["state"] for row in listed["past"]}
    assert ended == {"kept:latest": "built", "mine:latest": "stopped"}


def test_what_is_wrong_with_a_request_is_said_at_once(server: Server) -> None:
    """As from /api/create: 400 with the words, and no build is shown."""
    for fields, words in (
        ({"modelfile": "FROM tiny\nPARAMETER temprature 1\n"}, "did you mean"),
        ({"from": "/etc/passwd"}, "upload the file"),
        ({"from": "tiny", "quantize": "q9"}, "q9"),
    ):
        answer = server.http.post("/api/mbuild/builds", json={"model": "x", **fields})
        assert answer.status_code == 400 and words in answer.json()["error"].lower()
    assert server.http.get("/api/mbuild/builds").json() == {"running": [], "past": []}


@pytest.mark.parametrize("word", ["FROM", "FROM tiny\nADAPTER", "FROM tiny\nDRAFT"])
def test_no_file_of_the_server_is_read_for_a_build(
    server: Server, tmp_path: Path, word: str
) -> None:
    """A path in a posted Modelfile fails the build without telling whether the file is there."""
    (tmp_path / "there.gguf").write_bytes(b"GGUF")
    errors = []
    for name in ("there.gguf", "absent.gguf"):
        path = tmp_path / name
        body = {"model": "x", "modelfile": f"{word} {path}\n"}
        answer = server.http.post("/api/mbuild/builds", json=body)
        if answer.status_code == 202:
            errors.append(wait_for(server, answer.json()["id"], "failed")["error"])
        else:
            errors.append(answer.json()["error"])
        errors[-1] = errors[-1].replace(name, "NAME")
    assert errors[0] == errors[1] and errors[0]


def test_a_failed_build_says_why_without_folders(tmp_path: Path) -> None:
    """What the command line built from a folder is shown with the files' names alone."""
    from inprocess import in_process

    with pytest.MonkeyPatch.context() as patch:
        run = in_process(tmp_path, patch)
        (tmp_path / "my models").mkdir()
        (tmp_path / "my models" / "x.gguf").write_bytes(b"GGUF\3\0\0\0 no")
        (tmp_path / "Modelfile").write_text(f"FROM {tmp_path / 'my models' / 'x.gguf'}\n")
        assert run("-t", "mario").returncode == 1
    with serving_here(tmp_path / "store") as server:
        (row,) = server.http.get("/api/mbuild/builds").json()["past"]
        assert (row["state"], row["from"], row["here"]) == ("failed", "command line", False)
        answer = server.http.get(f"/api/mbuild/builds/{row['id']}")
        report = server.http.get(answer.json()["build"]["report"]).text
        for text in (json.dumps(row), answer.text, report):
            assert str(tmp_path) not in text
        assert "x.gguf" in row["error"] and "x.gguf" in report


def test_a_file_is_sent_without_its_digest(server: Server) -> None:
    """The page cannot compute it of any file: the server tells, and a Modelfile names the file."""
    data = (server.root / "blobs").iterdir()
    model = next(path.read_bytes() for path in data if path.read_bytes()[:4] == b"GGUF")
    answer = server.http.post("/api/mbuild/uploads", content=model + b"\0" * 32)
    assert (answer.status_code, answer.json()["size"]) == (201, len(model) + 32)
    again = server.http.post("/api/mbuild/uploads", content=model + b"\0" * 32)
    assert (again.status_code, again.json()) == (200, answer.json())
    files = {"sub/own.gguf": answer.json()["digest"]}
    for number, text in enumerate(("./sub/own.gguf", "sub/own.gguf", "./sub", ".")):
        body = {"modelfile": f"FROM {text}\n", "files": files}
        checked = server.http.post("/api/mbuild/check", json=body)
        assert checked.json()["problems"] == [], checked.text
        wait_for(server, start(server, f"m{number}", **body), "built")
    body = {"modelfile": "FROM ./other.gguf\n", "files": files}
    (problem,) = server.http.post("/api/mbuild/check", json=body).json()["problems"]
    assert problem["code"] == "no-files-here"
    identity = start(server, "other", **body)
    assert "no file is opened" in wait_for(server, identity, "failed")["error"]


def test_for_ollama_s_clients_files_count_and_no_modelfile(server: Server) -> None:
    """``/api/create`` with both is what it was: the text is left unread."""
    model = next(p.read_bytes() for p in (server.root / "blobs").iterdir() if p.stat().st_size > 99)
    files = {"own.gguf": server.upload(model)}
    done = server.create(model="x", files=files, modelfile="FROM nobody\n", stream=False)
    assert done.json()["status"] in ("success",), done.text


def test_a_build_stops_while_a_step_works(tmp_path: Path) -> None:
    """At once, and not when the step has something to say."""
    began, ended = threading.Event(), threading.Event()

    def work(self: Any, context: Any, inputs: Any) -> Any:
        began.set()
        try:
            for _ in range(600):
                context.report(0, 0)  # says nothing, and looks whether to go on
                time.sleep(0.05)
        finally:
            ended.set()

    with (
        pytest.MonkeyPatch.context() as patch,
        serving_here(copy_tiny_store(tmp_path / "store")) as server,
    ):
        patch.setattr(PutLayer, "run", work)
        identity = start(server, "mario")
        assert began.wait(10)
        asked = time.monotonic()
        assert server.http.delete(f"/api/mbuild/builds/{identity}").status_code == 202
        wait_for(server, identity, "stopped")
        assert ended.is_set() and time.monotonic() - asked < 3.0
