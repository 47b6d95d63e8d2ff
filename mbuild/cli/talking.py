"""Asking a model from the command line: by an engine of this process's, or by mbuild's server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Protocol

from mbuild.core.errors import MbuildError, Terminated
from mbuild.runtime.asked import Ask, EndReason, Finished, Piece
from mbuild.runtime.failure import NoEngineError

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.store import Store

TOKEN_VARIABLE = "MBUILD_TOKEN"

Show = Callable[[Piece], None]
"""Is given each piece of an answer as it comes."""


class ServerSaysError(MbuildError):
    """What the server answered instead of what was asked."""


class Talker(Protocol):
    """Something that answers."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do."""

    def ask(self, ask: Ask, show: Show) -> Finished | None:
        """Ask, and show the answer as it comes; None when Ctrl-C ended it."""

    def load(self) -> None:
        """Wait until the model is loaded, so that the first answer comes at once."""

    def close(self) -> None:
        """End what was started for this."""


class OwnEngine:
    """An engine that ends with this command."""

    def __init__(self, store: Store, name: ModelName, engine: str | None) -> None:
        """Raises :class:`NoEngineError` where nothing can run models."""
        from mbuild.runtime.pool import Pool
        from mbuild.runtime.runner import Runner
        from mbuild.store import Store as Opened

        if engine is None:
            raise NoEngineError
        self._loop = asyncio.new_event_loop()
        self._runner = Runner(lambda: Opened(store.root), Pool(engine))
        self._model = self._runner.model(name)
        self._loading: asyncio.Task[Finished] | None = None
        self._loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        """Let the engine begin to load the model; what else there is to do goes on beside it."""
        began = self._loop.create_future()

        def begin() -> None:
            if not began.done():
                began.set_result(None)

        self._loading = self._loop.create_task(self._runner.load(self._model, Ask(()), begin))
        await asyncio.wait((self._loading, began), return_when=asyncio.FIRST_COMPLETED)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do."""
        return self._model.capabilities

    def load(self) -> None:
        """Wait until the model is loaded."""
        self._until_interrupted(self._loaded())

    async def _loaded(self) -> int:
        """How long the model took to load, in nanoseconds; 0 for one that was loaded before.

        Raises what kept the engine from loading it.
        """
        loading, self._loading = self._loading, None
        return 0 if loading is None else (await loading).load_ns

    def ask(self, ask: Ask, show: Show) -> Finished | None:
        """Ask the engine."""
        found = self._until_interrupted(self._asked(ask, show))
        return found if isinstance(found, Finished) else None

    async def _asked(self, ask: Ask, show: Show) -> Finished:
        loaded = await self._loaded()
        ended = await _shown(self._runner.answer(self._model, ask), show)
        return ended._replace(total_ns=ended.total_ns + loaded, load_ns=ended.load_ns + loaded)

    def _until_interrupted(self, work: Any) -> Any:
        """The work's result; None when Ctrl-C ended it."""
        task = self._loop.create_task(work)
        before = signal.getsignal(signal.SIGINT)
        with suppress(NotImplementedError, ValueError, RuntimeError):
            self._loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            return None
        except KeyboardInterrupt:  # of another signal, which ends the program
            task.cancel()
            self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
        finally:
            with suppress(NotImplementedError, ValueError, RuntimeError):
                self._loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, before)

    def close(self) -> None:
        """End the engine."""
        self._loop.run_until_complete(self._ended())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _ended(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._runner.pool.close()


async def _shown(pieces: AsyncGenerator[Piece | Finished], show: Show) -> Finished:
    finished = Finished(EndReason.STOP)
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Finished):
                finished = piece
            else:
                show(piece)
    return finished


class AtServer:
    """A model of the server that serves this store; it stays loaded there."""

    def __init__(self, url: str, name: ModelName, keep_alive: str | None) -> None:
        """Raises :class:`ServerSaysError` for what the server says is wrong."""
        import urllib3

        self._url = url
        self._http = urllib3.PoolManager(retries=False)
        self._name = str(name)
        self._keep_alive = {} if keep_alive is None else {"keep_alive": keep_alive}
        shown = self._lines("/api/show", {"model": self._name})[-1]
        self.capabilities: tuple[str, ...] = tuple(shown.get("capabilities") or ())

    def load(self) -> None:
        """Load the model there."""
        self._lines("/api/generate", {"model": self._name, "stream": False, **self._keep_alive})

    def ask(self, ask: Ask, show: Show) -> Finished | None:
        """Ask the server."""
        body = {"model": self._name, **self._keep_alive, **_body(ask)}
        path = "/api/generate" if ask.complete else "/api/chat"
        finished: list[Finished] = []

        def take(line: Mapping[str, Any]) -> None:
            message = line.get("message") or line
            text = message.get("content") or line.get("response") or ""
            if text or message.get("thinking"):
                show(Piece(text, message.get("thinking") or ""))
            if line.get("done"):
                finished.append(_finished(line))

        try:
            self._lines(path, body, take)
        except Terminated:
            raise
        except KeyboardInterrupt:
            return None
        return finished[-1] if finished else None

    def _lines(
        self, path: str, body: Mapping[str, Any], take: Callable[[Mapping[str, Any]], object] = id
    ) -> list[Mapping[str, Any]]:
        """The lines of an answer, each handed over when it comes."""
        return ask_server(self._http, self._url, path, body, take)

    def close(self) -> None:
        """Let the connections go; the model stays loaded as long as the server keeps it."""
        self._http.clear()


def ask_server(
    http: Any,
    url: str,
    path: str,
    body: Mapping[str, Any] | None,
    take: Callable[[Mapping[str, Any]], object] = id,
) -> list[Mapping[str, Any]]:
    """POST to mbuild's server (GET without a body); its lines. Raises :class:`ServerSaysError`."""
    import urllib3

    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(TOKEN_VARIABLE, ""):
        headers["Authorization"] = f"Bearer {token}"
    found: list[Mapping[str, Any]] = []
    try:
        answer = http.request(
            "GET" if body is None else "POST",
            url + path,
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=10, read=None),
        )
        try:
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    _take(line, answer.status, found, take)
            _take(rest, answer.status, found, take)
        finally:
            answer.release_conn() if answer.closed else answer.close()
    except urllib3.exceptions.HTTPError as error:
        raise ServerSaysError(f"the server at {url} gives no answer: {error}") from None
    return found


def _take(
    line: bytes,
    status: int,
    found: list[Mapping[str, Any]],
    take: Callable[[Mapping[str, Any]], object],
) -> None:
    if not line.strip():
        return
    try:
        value = json.loads(line)
    except ValueError:
        raise ServerSaysError(f"the server answered {status}, and not with JSON") from None
    if status == _UNAUTHORIZED:
        raise _unauthorized()
    if "error" in value:
        raise ServerSaysError(str(value["error"]))
    found.append(value)
    take(value)


_UNAUTHORIZED = 401  # HTTP's status for a login that is missing or wrong


def _unauthorized() -> ServerSaysError:
    """The server wants a token, and got none or another one."""
    if os.environ.get(TOKEN_VARIABLE):
        return ServerSaysError(
            f"the server that serves this store does not accept the token in {TOKEN_VARIABLE}",
            hint=f"set {TOKEN_VARIABLE} to the token that mbuild serve was started with",
        )
    return ServerSaysError(
        "the server that serves this store wants a token",
        hint=f"set the environment variable {TOKEN_VARIABLE} to the token that mbuild serve was"
        " started with",
    )


def _body(ask: Ask) -> dict[str, Any]:
    """A request as the API takes it."""
    body: dict[str, Any] = {"options": dict(ask.options)}
    if ask.schema is not None:
        body["format"] = ask.schema
    if ask.think is not None:
        body["think"] = ask.think
    if ask.complete:
        return {**body, "prompt": ask.turns[-1].content, "images": _written(ask.images)}
    body["messages"] = [
        {"role": turn.role, "content": turn.content, "images": _written(turn.images)}
        for turn in ask.turns
    ]
    return body


def _written(images: Sequence[bytes]) -> list[str]:
    """Images as the API takes them."""
    import base64

    return [base64.b64encode(image).decode() for image in images]


def _finished(line: Mapping[str, Any]) -> Finished:
    def number(key: str) -> int:
        return int(line.get(key) or 0)

    return Finished(
        EndReason(line.get("done_reason") or EndReason.STOP),
        number("total_duration"),
        number("load_duration"),
        number("prompt_eval_count"),
        number("prompt_eval_duration"),
        number("eval_count"),
        number("eval_duration"),
        given_count=number("prompt_given_count"),
    )
