"""The engines that are loaded: found by what they were started with, kept for a while, bounded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from mbuild.core.errors import UsageError
from mbuild.core.units import human_size
from mbuild.runtime.failure import EngineError, QueueFullError
from mbuild.runtime.process import LlamaEngine, nothing, start
from mbuild.runtime.spec import EngineSpec, LoadedModel

KEEP_ALIVE_VARIABLE = "OLLAMA_KEEP_ALIVE"
MAX_LOADED_VARIABLE = "OLLAMA_MAX_LOADED_MODELS"
MAX_QUEUE_VARIABLE = "OLLAMA_MAX_QUEUE"
DEFAULT_KEEP_ALIVE = 300.0
FOREVER = (2**63 - 1) / 1e9
"""Go's longest duration in seconds, 292 years: what Ollama takes for ever."""
_MAX_LOADED = 3
_MAX_QUEUE = 512
_RESERVE = 256 << 20  # bytes of memory that an engine takes beside weights and cache


class LoadedEngine:
    """An engine in the pool. ``size``: bytes of its files and cache.

    ``model`` is the one that was asked last: models of the same weights share an engine.
    """

    def __init__(self, spec: EngineSpec, model: LoadedModel, size: int) -> None:
        self.spec = spec
        self.model = model
        self.size = size
        self.users = 0
        self.keep_alive = DEFAULT_KEEP_ALIVE  # seconds, below 0 for ever
        self.used = time.time()
        self.engine: LlamaEngine | None = None
        self.turn = asyncio.Lock()  # an engine answers one request at a time
        self.timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there, with the model loaded."""
        return self.engine is not None and self.engine.alive

    @property
    def expires(self) -> float:
        """Until when it stays, in seconds of ``time.time()``: if it is busy, as if it were not."""
        last = time.time() if self.users else self.used
        return last + (FOREVER if self.keep_alive < 0 else self.keep_alive)


class Pool:
    """Engines by their specs. All of its methods belong to one event loop."""

    def __init__(self, server: str = "", most: int = 0) -> None:
        """``server``: path of a ``llama-server``; ``most``: engines at once, 0 for the default."""
        self._server = server
        self._most = most or _number(MAX_LOADED_VARIABLE, _MAX_LOADED)
        self._queue = _number(MAX_QUEUE_VARIABLE, _MAX_QUEUE)
        self._keep_alive = default_keep_alive()
        self._waiting = 0
        self._loaded: dict[EngineSpec, LoadedEngine] = {}
        self._changed = asyncio.Condition()
        self._ending: set[asyncio.Task[None]] = set()

    def list(self) -> list[LoadedEngine]:
        """The loaded engines, that which stays longest first."""
        ready = [row for row in self._loaded.values() if row.running]
        return sorted(ready, key=lambda row: -row.expires)

    @asynccontextmanager
    async def use(
        self,
        spec: EngineSpec,
        model: LoadedModel,
        cache: int,
        keep_alive: float | None,
        meanwhile: Callable[[], object] = nothing,
    ) -> AsyncIterator[LlamaEngine]:
        """An engine for one request, started if there is none; requests to one take turns.

        ``cache``: bytes of its cache; ``keep_alive``: seconds that it stays afterwards, below 0
        for ever, None as before; ``meanwhile`` is called while a new engine loads its model.
        Raises :class:`QueueFullError`, :class:`EngineError`.
        """
        if self._waiting >= self._queue:
            raise QueueFullError(
                "server busy, please try again.  maximum pending requests exceeded"
            )
        self._waiting += 1
        try:
            row = await self._row(spec, model, cache)
            row.users += 1
        finally:
            self._waiting -= 1
        try:
            if keep_alive is not None:
                row.keep_alive = keep_alive
            self._waiting += 1
            try:
                await row.turn.acquire()
            finally:
                self._waiting -= 1
            try:
                yield await self._engine(row, meanwhile)
            finally:
                row.turn.release()
        finally:
            row.users -= 1
            row.used = time.time()
            if not row.users:
                self._let_go(row)
            async with self._changed:
                self._changed.notify_all()

    async def _row(self, spec: EngineSpec, model: LoadedModel, cache: int) -> LoadedEngine:
        """The engine's row, after room for it was made."""
        async with self._changed:
            while True:
                row = self._loaded.get(spec)
                if row is not None:
                    row.model = model
                    if row.timer is not None:
                        row.timer.cancel()
                    return row
                size = sum(_size(path) for path in spec.files) + cache
                if len(self._loaded) < self._most and (
                    not self._loaded or size + _RESERVE <= available_memory()
                ):
                    _check_memory(model.name, size)
                    row = LoadedEngine(spec, model, size)
                    row.keep_alive = self._keep_alive
                    self._loaded[spec] = row
                    return row
                idle = [row for row in self._loaded.values() if not row.users]
                if idle:
                    await self._end(min(idle, key=lambda row: row.used))
                else:
                    await self._changed.wait()

    async def _engine(self, row: LoadedEngine, meanwhile: Callable[[], object]) -> LlamaEngine:
        """The row's engine; what starts it may fail, and who waits for the row then tries again."""
        if row.engine is not None and not row.engine.alive:
            await row.engine.stop()
            row.engine = None
        if row.engine is None:
            row.engine = await start(row.spec, self._server, meanwhile)
        return row.engine

    def _let_go(self, row: LoadedEngine) -> None:
        """Set the time at which an idle engine ends."""
        if not row.running or row.keep_alive == 0:
            self._end_soon(row)
        elif row.keep_alive > 0:
            loop = asyncio.get_running_loop()
            row.timer = loop.call_later(row.keep_alive, self._expire, row)

    def _expire(self, row: LoadedEngine) -> None:
        if not row.users:
            self._end_soon(row)

    def _end_soon(self, row: LoadedEngine) -> None:
        """End an engine that no request finds any more."""
        if self._loaded.get(row.spec) is row:
            del self._loaded[row.spec]
        task = asyncio.ensure_future(self._end(row))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, row: LoadedEngine) -> None:
        """End one engine."""
        if self._loaded.get(row.spec) is row:
            del self._loaded[row.spec]
        if row.timer is not None:
            row.timer.cancel()
        if row.engine is not None:
            await row.engine.stop()

    async def unload(self, name: str, files: tuple[str, ...] = ()) -> bool:
        """End the idle engines of a model; busy ones end with their answer. Whether it had any.

        They are known by the ``files`` that the model has now, and by its name: it may have been
        removed or built anew since it was loaded.
        """
        found = [
            row
            for row in self._loaded.values()
            if row.spec.files == files or row.model.name == name
        ]
        for row in found:
            row.keep_alive = 0.0
            if not row.users:
                await self._end(row)
        return bool(found)

    async def close(self) -> None:
        """End every engine."""
        for row in list(self._loaded.values()):
            await self._end(row)
        if self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)


def _size(path: str) -> int:
    with suppress(OSError):
        return os.stat(path).st_size
    return 0


def _check_memory(name: str, size: int) -> None:
    """Raise :class:`EngineError` for a model that cannot fit, before minutes go into trying."""
    there = available_memory()
    if size > there:
        raise EngineError(
            f"{name} needs {human_size(size)} of memory and {human_size(there)} is available",
            hint="choose a smaller num_ctx, or a quantization with fewer bits",
        )


def available_memory(table: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that a new process can have; a great many where the system tells nothing."""
    with suppress(OSError, ValueError):
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"{variable}={text!r} is not a number")
    return int(text) or default


def default_keep_alive() -> float:
    """Seconds that an engine stays after its last request: the environment's, else 5 minutes.

    Raises :class:`UsageError` for a variable that names no duration.
    """
    text = os.environ.get(KEEP_ALIVE_VARIABLE, "").strip()
    try:
        return DEFAULT_KEEP_ALIVE if not text else seconds_of(_as_number(text))
    except UsageError:
        raise UsageError(
            f"{KEEP_ALIVE_VARIABLE}={text!r} is not a duration",
            hint="write for example 10m, or -1 for ever",
        ) from None


def _as_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(value: object) -> float:
    """A ``keep_alive``: seconds, or Go's text of a duration (``1h30m``); below 0 is for ever.

    Raises :class:`UsageError` for anything else.
    """
    import json
    import re

    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if 0 <= value < FOREVER else -1.0
    text = value if isinstance(value, str) else ""
    # As a request writes it, in JSON.
    shown = json.dumps(value, ensure_ascii=False, default=str)
    wrong = UsageError(f"keep_alive {shown} is not a duration such as 5m")
    found = re.fullmatch(r"([-+]?)((?:\d*\.?\d*(?:ns|us|µs|ms|s|m|h))+|0)", text)
    if found is None:
        raise wrong
    parts = re.findall(r"(\d*\.?\d*)(ns|us|µs|ms|s|m|h)", found[2])
    try:
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    except ValueError:
        raise wrong from None
    return -1.0 if (found[1] == "-" and total) or total >= FOREVER else total
