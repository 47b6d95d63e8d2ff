"""What the page asks a server, for tests: start a build, look at it, wait for it."""

from __future__ import annotations

import time
from typing import Any

from live_server import Server


def start(server: Server, name: str, **fields: Any) -> str:
    """Start a build as the page does; its id."""
    text = f"FROM tiny\nSYSTEM I am {name}.\n"
    body = {"model": name, "modelfile": text, **fields}
    answer = server.http.post("/api/mbuild/builds", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def seen(server: Server, identity: str) -> dict[str, Any]:
    """A build as the page sees it now."""
    answer = server.http.get(f"/api/mbuild/builds/{identity}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["build"])


def wait_for(server: Server, identity: str, *states: str) -> dict[str, Any]:
    """The build once it is in one of these states."""
    end = time.monotonic() + 20
    while (build := seen(server, identity))["state"] not in states:
        assert time.monotonic() < end, build
        time.sleep(0.05)
    return build
