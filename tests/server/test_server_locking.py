"""While somebody removes blobs, only requests that need the store's lock wait, and not for ever."""

from __future__ import annotations

import fcntl
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live_server import serving_here
from stores import copy_tiny_store

from mbuild.server import blobs, locking, models


def test_others_are_answered_while_uploads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 uploads wait for a held lock: tags and HEAD answer at once, the uploads get 503."""
    for module in (blobs, locking, models):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 2.0)
    root = copy_tiny_store(tmp_path / "store")
    (root / ".mbuild").mkdir(exist_ok=True)
    with serving_here(root) as server, (root / ".mbuild" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def upload(number: int) -> httpx.Response:
            data = str(number).encode()
            digest = hashlib.sha256(data).hexdigest()
            url = f"{server.url}/api/blobs/sha256:{digest}"
            return httpx.post(url, content=data, timeout=30, trust_env=False, verify=False)

        with ThreadPoolExecutor(60) as pool:
            waiting = [pool.submit(upload, number) for number in range(60)]
            time.sleep(0.7)
            began = time.monotonic()
            assert server.http.get("/api/tags").json()["models"][0]["name"] == "tiny:latest"
            assert server.http.head("/api/blobs/sha256:" + "0" * 64).status_code == 404
            assert server.http.post("/api/show", json={"model": "tiny"}).status_code == 200
            assert time.monotonic() - began < 1.5
            assert not all(each.done() for each in waiting)
            answers = [each.result() for each in waiting]
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["retry-after"] == "10" for answer in answers)
        assert "try again later" in answers[0].json()["error"]
        removed = server.http.request("DELETE", "/api/delete", json={"model": "tiny"})
        assert removed.status_code == 503
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert upload(0).status_code == 201
    assert not list((root / ".mbuild" / "tmp").iterdir())
