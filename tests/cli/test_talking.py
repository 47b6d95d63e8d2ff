"""What mbuild run asks of a server, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from http_in_thread import answering

from mbuild.cli.answers import Answers
from mbuild.cli.run import run_command
from mbuild.cli.talking import AtServer, ServerSaysError
from mbuild.core.names import ModelName
from mbuild.runtime.asked import Ask, ChatTurn, EndReason, Finished, Piece

ASKED: list[tuple[str, Any, str]] = []
LINES = [
    {"message": {"content": "a", "thinking": "t"}, "done": False},
    {"message": {"content": "b"}, "done": False},
    {"message": {"content": ""}, "done": True, "done_reason": "length", "eval_count": 2},
]


class _Server(BaseHTTPRequestHandler):
    """Answers as mbuild's server does, in pieces that end anywhere."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ASKED.append((self.path, body, self.headers.get("Authorization", "")))
        if body.get("model") == "locked:latest":
            data, status = b'{"error": "unauthorized (send Authorization: Bearer TOKEN)"}', 401
        elif body.get("think"):
            data, status = b'{"error": "cannot think"}', 400
        elif self.path == "/api/show":
            data, status = b'{"capabilities": ["completion", "vision"]}', 200
        elif body.get("prompt") == "broken":
            data, status = b"<html>", 502
        else:
            data, status = b"\n".join(json.dumps(line).encode() for line in LINES), 200
        self.send_response(status)
        self.end_headers()
        for start in range(0, len(data), 7):
            self.wfile.write(data[start : start + 7])

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    ASKED.clear()
    with answering(_Server) as host:
        yield f"http://{host}"


def test_a_server_is_asked_as_ollama_s_clients_ask(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token, images as base64, keep_alive; pieces as they come, then the statistics."""
    monkeypatch.setenv("MBUILD_TOKEN", "secret")
    talker = AtServer(url, ModelName.parse("m"), "5m")
    assert talker.capabilities == ("completion", "vision")
    pieces: list[Piece] = []
    turns = (ChatTurn("user", "see", images=(b"ab",)),)
    ended = talker.ask(Ask(turns, options={"seed": 1}, schema="json"), pieces.append)
    assert [(p.content, p.thinking) for p in pieces] == [("a", "t"), ("b", "")]
    assert ended is not None and ended.reason is EndReason.LENGTH and ended.answer_count == 2
    path, body, token = ASKED[-1]
    assert (path, token) == ("/api/chat", "Bearer secret")
    assert body["messages"] == [{"role": "user", "content": "see", "images": ["YWI="]}]
    assert (body["keep_alive"], body["format"], body["options"]) == ("5m", "json", {"seed": 1})
    talker.load()
    assert ASKED[-1][:2] == (
        "/api/generate",
        {"model": "m:latest", "stream": False, "keep_alive": "5m"},
    )
    talker.close()


def test_what_a_server_says_is_wrong_is_said(url: str) -> None:
    """Its own words; what is no JSON, and a server that is gone, too."""
    talker = AtServer(url, ModelName.parse("m"), None)
    turn = (ChatTurn("user", "x"),)
    with pytest.raises(ServerSaysError, match="cannot think"):
        talker.ask(Ask(turn, think=True), print)
    broken = (ChatTurn("user", "broken"),)
    with pytest.raises(ServerSaysError, match="answered 502"):
        talker.ask(Ask(broken, complete=True), print)
    with pytest.raises(ServerSaysError, match="gives no answer"):
        AtServer("http://127.0.0.1:9", ModelName.parse("m"), None)


def test_a_server_s_token_is_asked_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that the command reads it from, not in the words of HTTP."""
    monkeypatch.delenv("MBUILD_TOKEN", raising=False)
    with pytest.raises(ServerSaysError, match="wants a token") as caught:
        AtServer(url, ModelName.parse("locked"), None)
    assert "MBUILD_TOKEN" in caught.value.hint
    monkeypatch.setenv("MBUILD_TOKEN", "wrong")
    with pytest.raises(ServerSaysError, match="does not accept the token in MBUILD_TOKEN"):
        AtServer(url, ModelName.parse("locked"), None)


class _Silent:
    """Answers with an end alone."""

    capabilities = ("completion",)

    def __init__(self, **end: Any) -> None:
        self._end = Finished(**end)

    def ask(self, ask: Ask, show: Any) -> Finished:
        return self._end


@pytest.mark.parametrize("count", [0, 1])
def test_of_an_answer_of_no_words_there_is_no_rate(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine's time for what it did not write says nothing."""
    options = {"verbose": True, "shape": None, "hide_thinking": False}
    talker = _Silent(reason=EndReason.STOP, answer_count=count, answer_ns=1000)
    Answers(talker, options).show(Ask(()))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "eval duration" in said and "eval rate" not in said


def test_a_talk_is_told_once_that_its_prompts_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """With both numbers, and what makes the context larger."""
    options = {"verbose": False, "shape": None, "hide_thinking": False}
    talker = _Silent(reason=EndReason.STOP, prompt_count=258, given_count=80014)
    answers = Answers(talker, options)  # type: ignore[arg-type]
    for _ in range(2):
        answers.show(Ask(()))
    said = capsys.readouterr().err
    assert said.count("warning:") == 1 and "PARAMETER num_ctx" in said
    assert "258 of the prompt's 80,014 tokens" in said


def test_the_command_has_its_options() -> None:
    """Those of ollama run that make sense here, and the engine."""
    names = {name for parameter in run_command.params for name in parameter.opts}
    assert {"--format", "--think", "--hide-thinking", "--verbose", "--keepalive"} <= names
