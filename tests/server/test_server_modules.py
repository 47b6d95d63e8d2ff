"""The server's modules by themselves, without a listening socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mbuild.core.digest import DigestError
from mbuild.core.errors import MbuildError, ModelfileError, NameNotFoundError, UsageError
from mbuild.core.names import InvalidNameError
from mbuild.language.instructions import Problem
from mbuild.server import errors
from mbuild.server.app import error_response, make_app
from mbuild.server.errors import MAX_PROBLEMS, STATUS, Scrubber, status_of, text_of
from mbuild.server.inference import chat, embed, generate
from mbuild.server.requestlog import RequestLog
from mbuild.server.routes import ROUTES
from mbuild.server.security import AccessPolicy
from mbuild.server.service import Service, ServiceOptions


def _below(kind: type[MbuildError]) -> list[type[MbuildError]]:
    return [kind, *(one for child in kind.__subclasses__() for one in _below(child))]


def test_every_error_has_a_status_and_the_table_has_no_dead_row() -> None:
    """The root is last, so all have one; no row stands behind one that hides it."""
    rows = list(STATUS)
    assert rows[-1] is MbuildError
    for kind in _below(MbuildError):
        assert 400 <= next(s for known, s in STATUS.items() if issubclass(kind, known)) < 600
    hidden = [
        later.__name__
        for number, later in enumerate(rows)
        if any(issubclass(later, earlier) for earlier in rows[:number])
    ]
    assert not hidden


def test_what_a_client_did_wrong_is_its_own_fault() -> None:
    """Errors of the request are 4xx, those of the server and its store 5xx."""
    assert status_of(UsageError("x")) == status_of(ModelfileError([])) == 400
    assert status_of(NameNotFoundError("x")) == 404
    assert status_of(InvalidNameError("x")) == status_of(DigestError("x")) == 400
    assert status_of(MbuildError("x")) == 500
    assert status_of(errors.UnauthorizedError("x")) == 401


def test_the_text_of_an_error_has_its_remedy() -> None:
    """Hints stand in brackets; of many problems the first are named and the rest counted."""
    assert text_of(UsageError("bad", hint="do this")) == "bad (do this)"
    many = ModelfileError([Problem(f"p{n}", None) for n in range(MAX_PROBLEMS + 3)])
    assert text_of(many).endswith(f"p{MAX_PROBLEMS - 1}; and 3 more problems")


def test_no_path_of_the_machine_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's folder and the home directory become words, the longest path first."""
    monkeypatch.setenv("HOME", str(tmp_path))
    scrub = Scrubber(tmp_path / "models")
    text = f"{tmp_path}/models/blobs/x and {tmp_path}/y"
    assert scrub(text) == "<store>/blobs/x and <home>/y"


def test_errors_have_the_form_that_each_kind_of_client_reads() -> None:
    """Ollama's clients find a text, OpenAI's an object with a type."""
    plain = json.loads(bytes(error_response("/api/show", 404, "no").body))
    assert plain == {"error": "no"}
    openai = json.loads(bytes(error_response("/v1/models", 404, "no").body))
    assert openai["error"]["type"] == "not_found_error"
    assert openai["error"]["message"] == "no"


def _ask(root: Path, method: str, path: str, log: str = "off", **options: Any) -> httpx.Response:
    """One request to the application itself, as from this machine."""
    app = make_app(Service(root, AccessPolicy(), options=ServiceOptions(log=log)))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@pytest.mark.parametrize("handler", [embed, generate, chat])
def test_what_runs_models_is_routed_here(handler: object) -> None:
    """Each of these handlers answers some path of the table."""
    assert handler in [row.handler for row in ROUTES]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"model": "m", "prompt": "x"}),
        ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/embed", {"model": "m", "input": "x"}),
    ],
)
def test_without_an_upstream_nothing_runs_and_the_answer_says_how(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """501 and the option that gives the server an upstream."""
    answer = _ask(tmp_path, "POST", path, json=body)
    assert answer.status_code == 501
    assert "--upstream" in answer.json()["error"]


def test_pulling_from_any_registry_is_refused_with_its_name(tmp_path: Path) -> None:
    """The error says which registry, and how its operator allows it."""
    answer = _ask(tmp_path, "POST", "/api/pull", json={"model": "ghcr.io/org/mario"})
    assert answer.status_code == 403
    assert "--registry ghcr.io" in answer.json()["error"]


def test_strangers_stay_before_the_door(tmp_path: Path) -> None:
    """A request for a host name that a page chose is refused before anything of it is read."""
    assert isinstance(make_app(Service(tmp_path, AccessPolicy())), RequestLog)
    assert _ask(tmp_path, "GET", "/", headers={"Host": "evil.example"}).status_code == 403
    assert _ask(tmp_path, "GET", "/").text == "Ollama is running"


def test_a_line_of_the_log_has_the_answer_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON each line is one object with status and path, without query or headers."""
    headers = {"Authorization": "Bearer secret"}
    _ask(tmp_path, "GET", "/api/version?token=secret", log="json", headers=headers)
    line = capsys.readouterr().err
    facts = json.loads(line)
    assert (facts["status"], facts["path"]) == (200, "/api/version")
    assert "secret" not in line


def test_a_bug_is_told_to_the_operator_and_not_to_the_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client reads that there was one; its kind and place go to standard error."""
    service = Service(tmp_path, AccessPolicy())
    assert service.error_text(ZeroDivisionError("secret")) == "internal error"
    assert "ZeroDivisionError: secret" in capsys.readouterr().err
    assert service.error_text(UsageError("bad")) == "bad"
