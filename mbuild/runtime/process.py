"""Starting an engine's process, talking to it, ending it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.runtime.abandoned import OwnFolder, remove_abandoned
from mbuild.runtime.child import READY
from mbuild.runtime.failure import EngineDiedError, EngineError, NoEngineError
from mbuild.runtime.spec import MEDIA_MARKER, EngineSpec
from mbuild.work.cores import THREADS_VARIABLE, cores

if TYPE_CHECKING:
    from mbuild.runtime.client import Client, EngineAnswer

LOAD_SECONDS = 300.0
"""How long an engine may take to load a model."""
STOP_SECONDS = 2.0
_LOG_SECONDS = 2.0
"""How long an engine's log may take to be written."""
_TURN = {"role": "user", "content": ""}
_KEPT_LINES = 60
_KEPT_BYTES = 1 << 20
LLAMA_SERVER_VARIABLE = "MBUILD_LLAMA_SERVER"
"""The environment variable for the ``llama-server`` that runs models; ``--llama-server`` goes
before it."""

_PASSED_ON = (
    "PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "ONEAPI_DEVICE_SELECTOR", "ZES_ENABLE_SYSMAN", "VK_DRIVER_FILES", "VK_ICD_FILENAMES",
)  # fmt: skip
_FAMILIES = ("OMP_", "GGML_", "HSA_", "LLAMA_ARG_")
"""Of this process's environment the engine gets these and what begins like these, by which
computing threads and devices are chosen: it needs no secrets."""
_NO_SCHEMA = "llg error"
"""What xllamacpp's engine writes of a schema that it then ignores."""
_NO_ERROR = regex(r"[\d.]+ [DIW] ")
"""How lines of llama.cpp's log begin that are no errors: a time, a letter."""
_LLAMAS = regex(
    r"^[\d.]+ [DIWE] |^(?:build|main|srv|system_info)\b.*: |llama_|gguf_|ggml_|lib\w+\.so"
    r"|^error: invalid argument|was ended by SIG"
)
"""What is in lines of llama.cpp's log, of newer versions and of older ones, or is said of a
program that could not begin to write one."""
_HINT_OF_PROGRAM = (
    "--llama-server takes the path of a llama-server, the program of llama.cpp that serves a model"
)
_STATUS = "the llama-server ended with status"
"""How the line begins that counts where the program itself said nothing."""
_SAYS_NOTHING = ("RuntimeError: Failed to init server", "Traceback", "  File ", "    ")


class LlamaEngine:
    """A running engine. Made by :func:`start`; :meth:`stop` ends it."""

    def __init__(self, spec: EngineSpec, folder: OwnFolder, key: str, marker: str) -> None:
        self.spec = spec
        self.marker = marker
        self.program = ""
        """The path of the ``llama-server`` that runs, "" for the package's engine."""
        self._folder = folder
        self._key = key
        self._client: Client | None = None
        self._loaded = False
        self.ignored_schemas = 0
        self._marks: dict[str, asyncio.Future[None]] = {}
        self._tells_of_marks = True
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    async def launch(self, server: str, meanwhile: Callable[[], object]) -> None:
        """Start the process and wait until the model is loaded; raises :class:`EngineError`.

        ``meanwhile`` is called once the process has all that it needs to load the model.
        """
        self.program = server
        environment = {**environment_of_engine(), MEDIA_MARKER: self.marker}
        arguments = (sys.executable, "-m", "mbuild.runtime.child")
        self._process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=_KEPT_BYTES,
            start_new_session=True,  # Ctrl-C on a terminal is for mbuild, which ends the engine
        )
        self._reading = asyncio.ensure_future(self._read_errors())
        job = {
            "socket": str(self._folder.path / "engine.sock"),
            "key": self._key,
            "server": server,
            "spec": self.spec.to_json(),
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            await self._process.stdin.drain()
        meanwhile()
        remove_abandoned()
        from mbuild.runtime.client import Client

        self._client = Client(self._folder.path / "engine.sock", self._key)
        line = b""
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while line.strip() != READY.encode():
                    line = await self._process.stdout.readline()
                    if not line:
                        await self._process.wait()
                        raise EngineError(
                            f"the model cannot be loaded: {await self._reason()}",
                            hint=_HINT_OF_PROGRAM if server and not self._is_llama else "",
                        )
            self._loaded = True
        except TimeoutError:
            raise EngineError(
                f"the model was not loaded in {LOAD_SECONDS:.0f} s",
                hint=_HINT_OF_PROGRAM if server and not self._is_llama else "",
            ) from None

    async def _read_errors(self) -> None:
        """Keep the last lines that the engine writes."""
        assert self._process is not None and self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # a line longer than the limit
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            if _NO_SCHEMA in text:
                self.ignored_schemas += 1
            for mark, future in self._marks.items():
                if mark in text and not future.done():
                    future.set_result(None)

    @property
    def _is_llama(self) -> bool:
        """Whether what the process wrote is a log of llama.cpp's."""
        return any(_LLAMAS.search(line) for line in self._lines)

    async def _reason(self) -> str:
        """What the engine said was wrong: its first line that is an error's."""
        if self._reading is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await asyncio.shield(self._reading)
        lines = [line for line in self._lines if line and not line.startswith(_SAYS_NOTHING)]
        if self.program:  # what clients are told names no place on the server
            lines = [line.replace(self.program, "llama-server") for line in lines]
        for line in lines:
            _, found, text = line.partition(" E ")
            if found:
                return text.strip()
        lines = [line for line in lines if not _NO_ERROR.match(line)]
        told = [line for line in lines if not line.startswith(_STATUS)]
        return (told or lines or [self._ending()])[-1]

    def _ending(self) -> str:
        """How the process ended, of which it said nothing."""
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"the engine was ended by {signal.Signals(-code).name}"
        return "the engine ended without a word"

    async def ask(self, path: str, body: object) -> EngineAnswer:
        """POST JSON to the engine; raises :class:`EngineDiedError` when it ends or has ended."""
        try:
            assert self._client is not None
            return await self._client.post(path, body)
        except (OSError, EOFError) as error:
            raise await self.died() from error

    async def log_read(self) -> None:
        """Wait until all is read that the engine has put into its log so far.

        A thread of the engine's writes the log, one message after the other, perhaps after the
        answer. So it is asked for something that it refuses with a warning, and the warning is
        waited for; with an engine that does not warn of it only once. Raises
        :class:`EngineDiedError`.
        """
        if not self._tells_of_marks:
            return
        mark = f"mark-{secrets.token_hex(8)}"
        heard = self._marks[mark] = asyncio.get_running_loop().create_future()
        wrong = {"messages": [_TURN], "response_format": {"type": mark}}
        try:
            (await self.ask("/apply-template", wrong)).close()
            async with asyncio.timeout(_LOG_SECONDS):
                await heard
        except TimeoutError:
            self._tells_of_marks = False
        finally:
            del self._marks[mark]

    async def died(self) -> EngineError:
        """The error for an engine that broke off."""
        if self._process is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
        if self.alive:
            return EngineError("the engine broke off its answer")
        return EngineDiedError(
            "the engine has unexpectedly stopped, this may be due to resource limitations or an"
            f" internal error: {await self._reason()}"
        )

    async def stop(self) -> None:
        """End the process and remove its socket."""
        process = self._process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            if not self._loaded:  # it reads nothing while it loads, and has nothing to end
                _kill(process)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except (TimeoutError, asyncio.CancelledError):
                _kill(process)
                await process.wait()
        if self._reading is not None:
            self._reading.cancel()
        self._folder.remove()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a process at once, and the program of the user's that it started."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        elif process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)


def environment_of_engine() -> dict[str, str]:
    """What an engine's process gets of this one's environment: it needs no secrets."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_FAMILIES)
    }
    return {
        **environment,
        # Python finds the package where this process has it, installed or not.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        THREADS_VARIABLE: str(cores()),
        "GGML_NO_BACKTRACE": "1",  # a debugger's lines would hide what was wrong
    }


def has_engine() -> bool:
    """Whether the package of the engine is installed; it is not loaded."""
    from importlib.util import find_spec

    return find_spec("xllamacpp") is not None


def nothing() -> None:
    """What there is to do while an engine loads its model, unless somebody says more."""


async def start(
    spec: EngineSpec, server: str = "", meanwhile: Callable[[], object] = nothing
) -> LlamaEngine:
    """A running engine; ``server`` is the path of a ``llama-server``, else xllamacpp is used.

    ``meanwhile`` is called once, when the engine's process loads the model: it takes none of
    the time until the engine answers, and the engine's failure is told afterwards.

    Raises :class:`NoEngineError` where there is neither, :class:`EngineError` with the engine's
    own reason for a model that does not load.
    """
    if not server and not has_engine():
        raise NoEngineError
    folder = OwnFolder()
    key, marker = secrets.token_urlsafe(24), f"<media-{secrets.token_hex(12)}>"
    if spec.shards:
        spec = _linked(spec, folder.path)
    engine = LlamaEngine(spec, folder, key, marker)
    try:
        await engine.launch(server, meanwhile)
    except BaseException:
        await engine.stop()
        raise
    return engine


def _linked(spec: EngineSpec, folder: Path) -> EngineSpec:
    """The shards under the names by which llama.cpp finds the second from the first."""
    return replace(spec, model=linked_shards(spec.shards, folder))


def linked_shards(paths: Sequence[str], folder: Path) -> str:
    """The path of the first of linked shards, whose names lead to the others."""
    count = len(paths)
    for number, path in enumerate(paths, 1):
        (folder / f"model-{number:05}-of-{count:05}.gguf").symlink_to(path)
    return str(folder / f"model-00001-of-{count:05}.gguf")
