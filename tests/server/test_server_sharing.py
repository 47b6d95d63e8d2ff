"""Builds of servers share: what one has made another takes, and so does the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_models import settle, write_chat
from inprocess import in_process
from live_server import Server, lines_of, serving_here, upload_folder
from page_client import seen, wait_for

from mbuild.core.errors import UsageError
from mbuild.shared.attach import check
from mbuild.shared.locations import CacheOptions, Location


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint."""
    found = write_chat(tmp_path / "chat")
    settle()
    return found


def built(server: Server, chat: Path, **fields: Any) -> dict[str, Any]:
    """Upload the checkpoint, build it as the page does, and see how it was built."""
    files = {f"chat/{name}": digest for name, digest in upload_folder(server, chat).items()}
    body = {"model": "mario", "files": files, "quantize": "q8_0", **fields}
    answer = server.http.post("/api/mbuild/builds", json=body)
    assert answer.status_code == 202, answer.text
    wait_for(server, answer.json()["id"], "built", "failed")
    found = seen(server, answer.json()["id"])
    assert found["state"] == "built", found["error"]
    return found


def step_of(build: dict[str, Any]) -> dict[str, Any]:
    return next(step for step in build["of"] if step["kind"] == "quantize")


def test_what_one_server_makes_another_takes(chat: Path, tmp_path: Path) -> None:
    """The log says so, the step has its bytes, and the models are one."""
    place = Location.parse(str(tmp_path / "shared"))
    options = CacheOptions((), place)
    with serving_here(tmp_path / "one", caching=options) as one:
        first = built(one, chat)
        assert step_of(first)["look"] == "ran" and step_of(first)["fetched"] == 0
        assert any("sent " in text and "shared cache" in text for _, text in first["log"])
    with serving_here(tmp_path / "two", caching=CacheOptions((place,))) as two:
        second = built(two, chat)
        taken = step_of(second)
        assert taken["look"] == "cached" and taken["fetched"] > 1_000_000
        assert any(text.startswith("took ") for _, text in second["log"])
        report = two.http.get(second["report"]).text
        assert "from the shared cache" in report
        record = two.http.get(f"/api/mbuild/builds/{second['id']}").json()["build"]
        assert record["models"] == first["models"]


def test_a_server_s_own_cache_is_one_for_it_and_for_others(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folder of --cache as --cache-to, a client over HTTP finds what the server built."""
    folder = tmp_path / "cache"
    options = CacheOptions((), Location.parse(str(folder)))
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    with serving_here(tmp_path / "store", cache=folder, caching=options) as server:
        made = built(server, chat, modelfile="FROM ./chat\n")
        run = in_process(tmp_path, monkeypatch)
        done = run("-q", "q8_0", "-t", "mario", "--progress", "plain", "--store", "mine",
                   "--cache-from", f"{server.url}/cache")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "from the shared cache: quantize" in done.stderr
        shown = run("history", "--store", "mine", "mario").stdout
        assert "from the shared cache" in shown
        assert made["models"][0]["id"][:12] in run("list", "--store", "mine").stdout
        assert "records" in run("cache", "du", f"{server.url}/cache").stdout


def test_a_cache_that_is_gone_is_a_warning(chat: Path, tmp_path: Path) -> None:
    """The build goes on; the last line has the warning, without this machine's folders."""
    gone = Location.parse(str(tmp_path / "store" / "unmounted" / "shared"))
    with serving_here(tmp_path / "store", caching=CacheOptions((), gone)) as server:
        files = upload_folder(server, chat)
        answer = server.create(model="mario", files=files, quantize="q8_0")
        last = lines_of(answer)[-1]
        assert last["status"] == "success"
        (warning,) = last["warnings"]
        assert "continuing without the cache <store>/unmounted/shared" in warning


def test_wrong_caches_are_refused_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a build: nothing is opened, and nobody waits for the first build to hear of it."""
    with pytest.raises(UsageError, match="storage that mbuild knows"):
        check(CacheOptions((Location.parse("s3x://bucket/x"),)))
    check(CacheOptions((Location.parse("http://127.0.0.1:1/cache"),)))
    done = in_process(tmp_path, monkeypatch)("serve", "--cache-from", "https://a:b@host/x")
    assert done.returncode == 2 and "no place in a URL" in done.stderr
