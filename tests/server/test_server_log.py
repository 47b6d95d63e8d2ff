"""The log of requests: one line each, in the form asked for, and no secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

from live_server import LiveServer

RIGHT = {"Authorization": "Bearer hidden"}


def _log(store: Path, *arguments: str) -> list[str]:
    """The lines of a server that was asked for three things."""
    server = LiveServer(store, "--port", "0", "--token", "hidden", *arguments)
    server.http.get("/api/version?key=hidden", headers=RIGHT)
    server.http.post("/api/show", json={"model": "no\nne"}, headers=RIGHT)
    server.http.get("/api/tags", headers={"Authorization": "Bearer wrong-hidden"})
    status, errors = server.stop()
    assert status == 0 and "hidden" not in errors
    return errors.splitlines()


def test_text_is_the_default(tmp_path: Path) -> None:
    """Time, method, path, status, bytes, milliseconds, client; the words of an error."""
    lines = _log(tmp_path / "store")
    assert len(lines) == 3
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ %s 200 \d+ \d+ms 127\.0\.0\.1"
    assert re.fullmatch(form % "GET /api/version", lines[0])
    assert "POST /api/show 400 " in lines[1] and lines[1].endswith(": invalid model name")
    assert "GET /api/tags 401 " in lines[2] and ": unauthorized" in lines[2]


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    """One object a line."""
    first, second, _ = map(json.loads, _log(tmp_path / "store", "--log", "json"))
    assert list(first) == ["time", "method", "path", "status", "bytes", "milliseconds", "client"]
    assert (first["path"], first["status"], first["client"]) == ("/api/version", 200, "127.0.0.1")
    assert (second["status"], second["error"]) == (400, "invalid model name")


def test_off_writes_nothing(tmp_path: Path) -> None:
    """No line for any request."""
    assert _log(tmp_path / "store", "--log", "off") == []


def _said_of_no_request(store: Path, form: str) -> list[str]:
    """The lines of a server that was sent what is no request."""
    server = LiveServer(store, "--port", "0", "--log", form)
    assert b"400" in server.raw(b"\0\1\2 no request\r\n\r\n")
    status, errors = server.stop()
    assert status == 0
    return errors.splitlines()


def test_what_is_no_request_is_told_in_the_same_form(tmp_path: Path) -> None:
    """By the library below, whose lines are ours."""
    (line,) = _said_of_no_request(tmp_path / "one", "json")
    value = json.loads(line)
    assert list(value) == ["time", "error"]
    assert value["error"] == "Invalid HTTP request received."
    assert _said_of_no_request(tmp_path / "two", "off") == []
    assert _said_of_no_request(tmp_path / "three", "text") == ["Invalid HTTP request received."]
