"""Statistics as whoever wants them asks for them: a job for a child process, and its result."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import IO, Any

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.runtime.failure import EngineDiedError, NoEngineError
from mbuild.runtime.process import environment_of_engine, has_engine

CHUNK_TOKENS = 512
"""Tokens of a chunk, as llama-imatrix and llama-perplexity have it."""


_PATIENCE = 0.2  # seconds
_LAST_WORDS = 2000  # bytes of standard error that are looked at


class Progress(NamedTuple):
    """Bytes that are done, of how many: of the part of a text that is run, or of a model."""

    done: int
    total: int


def imatrix_job(
    model: str, text: str, output: str, name: str, chunks: int, threads: int, *, special: bool
) -> dict[str, Any]:
    """The job that makes an importance matrix; ``name`` is the text's, for the file."""
    return {
        "kind": "imatrix",
        "model": model,
        "text": text,
        "output": output,
        "name": name,
        "n_ctx": CHUNK_TOKENS,
        "chunks": chunks,
        "threads": threads,
        "special": special,
    }


def measure_job(
    model: str, against: str | None, text: str, chunks: int, threads: int
) -> dict[str, Any]:
    """The job that measures a model on a text, perhaps against another one."""
    return {
        "kind": "measure",
        "model": model,
        "against": against,
        "text": text,
        "n_ctx": CHUNK_TOKENS,
        "chunks": chunks,
        "threads": threads,
    }


def run_job(
    job: dict[str, Any], waiting: Callable[[], object] = lambda: None
) -> Generator[Progress, None, dict[str, Any]]:
    """Do a job; a caller that closes the generator ends it, and so does what ``waiting`` raises.

    That is called a few times a second while nothing comes.

    Raises :class:`NoEngineError`, :class:`UsageError` for what the job says is wrong, and
    :class:`EngineError` with the last words of a process that ended early.
    """
    if not has_engine():
        raise NoEngineError
    with tempfile.TemporaryFile() as said:
        return (yield from _exchange(job, said, waiting))


def _exchange(
    job: dict[str, Any], said: IO[bytes], waiting: Callable[[], object]
) -> Generator[Progress, None, dict[str, Any]]:
    """A job's lines; ``said`` gets what the engine writes to standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mbuild.runtime.statistics.program"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment_of_engine(),
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        for line in _lines(process.stdout, waiting):
            found = json.loads(line)
            if "result" in found:
                result: dict[str, Any] = found["result"]
                return result
            if "error" in found:
                raise UsageError(found["error"], hint=found["hint"])
            yield Progress(found["done"], found["total"])
        process.wait()
        said.seek(0)
        last = said.read()[-_LAST_WORDS:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise EngineDiedError(
            f"the engine has unexpectedly stopped while it computed statistics: {last}",
            hint="is there enough memory for the model?",
        )
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _lines(stream: IO[bytes], waiting: Callable[[], object]) -> Iterator[bytes]:
    """The lines of a pipe; ``waiting`` is called again and again until the next one comes."""
    if sys.platform == "win32":  # nobody can wait for a pipe there
        yield from stream
        return
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(_PATIENCE):
                waiting()
                continue
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (line for line in whole if line)


def engine_features() -> str:
    """The engine's version and what of the processor it uses: both change the last digits."""
    from importlib.metadata import version

    try:
        import xllamacpp
    except ImportError:
        raise NoEngineError from None
    return f"xllamacpp {version('xllamacpp')} {xllamacpp.get_system_info()} {os.uname().machine}"
