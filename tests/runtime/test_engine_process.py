"""An engine's process: what it says when it fails, and that it never outlives its maker."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_program import processes_of, write_llama_server
from smollm import smollm

from mbuild.runtime.child import READY
from mbuild.runtime.client import Client
from mbuild.runtime.failure import (
    EngineDiedError,
    EngineError,
    NoEngineError,
    QueueFullError,
)
from mbuild.runtime.pool import Pool, available_memory
from mbuild.runtime.process import LlamaEngine, has_engine, start
from mbuild.runtime.spec import EngineSpec, LoadedModel
from mbuild.runtime.tokenizing import text_of, tokens_of

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

SMALL: dict[str, Any] = {"num_ctx": 256, "num_batch": 64, "num_thread": 1}


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture(scope="module")
def engine(loop: asyncio.AbstractEventLoop) -> Iterator[LlamaEngine]:
    found = loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL)))
    yield found
    loop.run_until_complete(found.stop())


def test_a_spec_has_a_written_form() -> None:
    """What a child reads is what its maker meant."""
    spec = EngineSpec("a", shards=("a", "b"), adapters=("c",), draft="d", num_ctx=7)
    assert EngineSpec.from_json(spec.to_json()) == spec
    assert spec.files == ("a", "b", "c", "d")


def test_text_becomes_tokens_and_text_again(
    loop: asyncio.AbstractEventLoop, engine: LlamaEngine
) -> None:
    """By the model's own vocabulary; special tokens by their names."""
    tokens = loop.run_until_complete(tokens_of(engine, "<|im_start|>hi", add_special=False))
    assert tokens[0] == 1 and len(tokens) == 2
    assert loop.run_until_complete(text_of(engine, tokens)) == "<|im_start|>hi"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
@pytest.mark.parametrize("mapped", [True, False])
def test_weights_are_mapped_or_read(loop: asyncio.AbstractEventLoop, mapped: bool) -> None:
    """As the option use_mmap says; what is read is memory of the engine's own."""
    spec = EngineSpec(str(smollm()), **SMALL, use_mmap=mapped)
    engine = loop.run_until_complete(start(spec))
    try:
        table = Path(f"/proc/{engine.pid}/maps").read_text()
        assert (str(smollm().resolve()) in table) == mapped
        tokens = loop.run_until_complete(tokens_of(engine, "hi", add_special=False))
        assert loop.run_until_complete(text_of(engine, tokens)) == "hi"
    finally:
        loop.run_until_complete(engine.stop())


def test_an_engine_opens_no_port_and_wants_its_key(
    loop: asyncio.AbstractEventLoop, engine: LlamaEngine
) -> None:
    """It listens in a folder of its own that nobody else may enter, and knows who asks."""
    (socket,) = engine._folder.path.glob("*.sock")
    assert engine._folder.path.stat().st_mode & 0o777 == 0o700
    stranger = Client(socket, "guessed")
    answer = loop.run_until_complete(stranger.post("/tokenize", {"content": "x"}))
    assert answer.status == 401
    answer.close()
    ports = subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True).stdout
    assert f"pid={engine.pid}," not in ports


def test_what_is_no_model_is_said(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own reason, and no folder left behind."""
    file = tmp_path / "x.gguf"
    file.write_bytes(b"nothing of the kind")
    # Other tests start engines, too; the path of a socket has to be short.
    with tempfile.TemporaryDirectory() as own:
        monkeypatch.setattr(tempfile, "tempdir", own)
        with pytest.raises(EngineError, match=r"cannot be loaded: .*magic"):
            loop.run_until_complete(start(EngineSpec(str(file), **SMALL)))
        assert not _folders()


@pytest.mark.parametrize(
    ("says", "hinted"),
    [
        ("Try 'cat --help' for more information.", True),
        ("0.01.234 E srv    load_model: failed to load", False),
        ("llama_model_load: error loading model", False),
    ],
)
def test_a_program_that_is_no_llama_server_is_told_apart(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, says: str, hinted: bool
) -> None:
    """It ends before it answers; of a real one the reason is enough."""
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "{says}" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL), str(program)))
    assert ("path of a llama-server" in caught.value.hint) is hinted


@pytest.mark.parametrize(
    ("body", "reason", "hinted"),
    [
        ("kill -ILL $$", "the llama-server was ended by SIGILL", False),
        ("exit 3", "the llama-server ended with status 3", True),
        ("echo $0: no such thing >&2; exit 3", "llama-server: no such thing", True),
        ("echo error: invalid argument: --host >&2; exit 1", "invalid argument: --host", False),
    ],
)
def test_how_a_program_ended_is_told(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, body: str, reason: str, hinted: bool
) -> None:
    """By what it said, else by its status; a signal always. Its place on the disk is not told."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL), str(program)))
    assert caught.value.message.endswith(reason) and str(tmp_path) not in caught.value.message
    assert bool(caught.value.hint) is hinted
    for wrong in ("#!/no/such/interpreter\n", "\x7fELF"):
        program.write_text(wrong)
        with pytest.raises(EngineError, match="the llama-server cannot be started: ") as caught:
            loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL), str(program)))
        assert str(tmp_path) not in caught.value.message


def test_a_script_ends_with_the_program_that_it_started(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    """Also one that waits for it, which a signal to the script alone would leave behind."""
    program = write_llama_server(tmp_path)
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\n{program} "$@"\nexit $?\n')
    script.chmod(0o755)

    async def scenario() -> None:
        engine = await start(EngineSpec(str(smollm()), **SMALL), str(script))
        assert await tokens_of(engine, "hi", add_special=False)
        assert processes_of(program)
        await engine.stop()

    loop.run_until_complete(scenario())
    end = time.monotonic() + 10
    while processes_of(program) and time.monotonic() < end:
        time.sleep(0.02)
    assert not processes_of(program)


def test_a_program_gets_every_setting(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    """By an option, or where versions know different ones by the variables of each."""
    program = write_llama_server(tmp_path)
    spec = EngineSpec(
        str(smollm()), **SMALL, draft=str(smollm()), draft_tokens=7, main_gpu=1, num_gpu=3,
        use_mmap=False,
    )  # fmt: skip

    async def scenario() -> None:
        engine = await start(spec, str(program))
        await engine.stop()

    loop.run_until_complete(scenario())
    options, variables = ast.literal_eval((tmp_path / "llama-server.told").read_text())
    assert options["main_gpu"] == 1 and options["n_gpu_layers"] == 3
    assert options["model_draft"] == str(smollm()) and options["spec_type"] == "draft-simple"
    assert variables["LLAMA_ARG_SPEC_DRAFT_N_MAX"] == "7"
    assert variables["LLAMA_ARG_LOAD_MODE"] == "none" and variables["LLAMA_ARG_MMAP"] == "0"


def _folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("mbuild-run-*"))


def test_an_engine_that_is_killed_is_one_clear_error(loop: asyncio.AbstractEventLoop) -> None:
    """In the middle of an answer; the next request starts another."""

    async def scenario() -> None:
        pool = Pool()
        spec = EngineSpec(str(smollm()), **SMALL)
        async with pool.use(spec, LoadedModel("m"), 0, None) as engine:
            asked = {"prompt": "One two three", "n_predict": 200, "stream": True}
            answer = await engine.ask("/completion", asked)
            os.kill(engine.pid, signal.SIGKILL)
            with pytest.raises((EOFError, OSError)):
                async for _ in answer.events():
                    pass
            assert isinstance(await engine.died(), EngineDiedError)
        async with pool.use(spec, LoadedModel("m"), 0, None) as engine:
            assert await tokens_of(engine, "hi", add_special=False)
        await pool.close()

    loop.run_until_complete(scenario())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


MAKER = """
import asyncio, sys
from mbuild.runtime.process import start
from mbuild.runtime.spec import EngineSpec, LoadedModel
async def main():
    engine = await start(EngineSpec(sys.argv[1], num_ctx=256, num_batch=64, num_thread=1))
    print(engine.pid, engine._folder.path, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_no_engine_outlives_its_maker(loop: asyncio.AbstractEventLoop) -> None:
    """SIGKILL of the process that started it ends it within seconds; the next one cleans up."""
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(smollm())], stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    number, folder = maker.stdout.readline().split()
    pid = int(number)
    assert _alive(pid) and Path(folder).is_dir()
    maker.kill()
    maker.wait()
    maker.stdout.close()
    end = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(pid)
    engine = loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL)))
    loop.run_until_complete(engine.stop())
    assert not Path(folder).exists()


def test_the_log_is_read_as_far_as_it_is_written(
    loop: asyncio.AbstractEventLoop, engine: LlamaEngine
) -> None:
    """What the engine says of a request is known, however short the answer was."""
    wrong = {"prompt": "a", "n_predict": 1, "json_schema": {"type": "colour"}}
    for _ in range(20):
        before = engine.ignored_schemas
        loop.run_until_complete(engine.ask("/completion", wrong)).close()
        loop.run_until_complete(engine.log_read())
        assert engine.ignored_schemas == before + 1
    assert engine._tells_of_marks


def test_an_engine_without_warnings_is_waited_for_once(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of the user's may write no log, or another one."""
    monkeypatch.setattr("mbuild.runtime.process._LOG_SECONDS", 0.3)
    engine = loop.run_until_complete(start(EngineSpec(str(smollm()), **SMALL)))

    class Deaf(dict[str, Any]):
        def items(self) -> Any:
            return ()

    engine._marks = Deaf()
    times = []
    for _ in range(2):
        began = time.monotonic()
        loop.run_until_complete(engine.log_read())
        times.append(time.monotonic() - began)
    loop.run_until_complete(engine.stop())
    assert times[0] >= 0.3 > times[1]


def test_engines_are_few(loop: asyncio.AbstractEventLoop) -> None:
    """With room for one, another spec takes the place of the one that was used longest ago."""

    async def scenario() -> None:
        pool = Pool(most=1)
        for num_ctx in (256, 512):
            spec = EngineSpec(str(smollm()), **{**SMALL, "num_ctx": num_ctx})
            async with pool.use(spec, LoadedModel("m"), 0, None) as engine:
                assert engine.alive
            assert [row.spec for row in pool.list()] == [spec]
        async with pool.use(spec, LoadedModel("m"), 0, 0.0) as engine:
            pid = engine.pid
        await pool.close()
        assert not pool.list() and not _alive(pid)

    loop.run_until_complete(scenario())


def test_who_leaves_while_a_model_loads_takes_it_from_nobody(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """The next one in the queue loads it, the pool knows it, and it ends in its time."""

    async def scenario() -> None:
        pool, spec = Pool(), EngineSpec(str(smollm()), **SMALL)
        begun = asyncio.Event()

        async def ask(keep_alive: float) -> int:
            async with pool.use(spec, LoadedModel("m"), 0, keep_alive, begun.set) as engine:
                assert [row.spec for row in pool.list()] == [spec]
                return engine.pid

        first = asyncio.ensure_future(ask(60))
        await begun.wait()
        second = asyncio.ensure_future(ask(0.05))
        await asyncio.sleep(0)
        first.cancel()
        pid = await second
        assert [row.engine.pid for row in pool.list() if row.engine] == [pid]
        for _ in range(200):
            if not _alive(pid):
                break
            await asyncio.sleep(0.05)
        assert not pool.list() and not _alive(pid)
        await pool.close()

    loop.run_until_complete(scenario())


def test_a_killed_engine_is_not_listed(loop: asyncio.AbstractEventLoop) -> None:
    """Though nobody asked it since; until when it stays counts from the last answer."""

    async def scenario() -> None:
        pool = Pool()
        async with pool.use(EngineSpec(str(smollm()), **SMALL), LoadedModel("m"), 0, -1) as engine:
            (row,) = pool.list()
            assert row.expires > time.time() + 9e9
        row.keep_alive = 60
        assert 59 < row.expires - time.time() <= 60
        os.kill(engine.pid, signal.SIGKILL)
        while engine.alive:
            await asyncio.sleep(0.01)
        assert not pool.list()
        await pool.close()

    loop.run_until_complete(scenario())


def test_requests_beyond_the_queue_are_refused_at_once(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait are answered in their turn."""
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "1")
    answered: list[int] = []

    async def scenario() -> None:
        pool = Pool()

        async def ask(number: int) -> None:
            async with pool.use(EngineSpec(str(smollm()), **SMALL), LoadedModel("m"), 0, None):
                answered.append(number)

        async with pool.use(EngineSpec(str(smollm()), **SMALL), LoadedModel("m"), 0, None):
            waiting = asyncio.ensure_future(ask(1))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="server busy"):
                await ask(2)
        await waiting
        await pool.close()

    loop.run_until_complete(scenario())
    assert answered == [1]


def test_a_model_larger_than_the_memory_is_refused_at_once(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Before minutes go into loading it; the error has both sizes and a remedy."""

    async def scenario() -> None:
        pool = Pool()
        async with pool.use(EngineSpec(str(smollm())), LoadedModel("huge"), 1 << 50, None):
            raise AssertionError("it was loaded")

    with pytest.raises(EngineError, match=r"huge needs .* of memory and .* is available") as caught:
        loop.run_until_complete(scenario())
    assert "num_ctx" in caught.value.hint


def test_memory_is_what_the_system_says(tmp_path: Path) -> None:
    """Linux's estimate of what a new process can have; elsewhere there is no telling."""
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert available_memory(table) == 2 << 20
    assert available_memory(tmp_path / "none") > 1 << 60


def test_without_the_package_nothing_runs(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the extra."""
    monkeypatch.setattr("mbuild.runtime.process.has_engine", lambda: False)
    with pytest.raises(NoEngineError) as caught:
        loop.run_until_complete(start(EngineSpec("x")))
    assert "mbuild-models[run]" in caught.value.hint


def _child(path: Path, folder: Path) -> subprocess.Popen[str]:
    """The program that an engine runs in, given a job as its maker gives it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mbuild.runtime.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    spec = EngineSpec(str(path), **SMALL).to_json()
    job = {"socket": str(folder / "x.sock"), "key": "k", "server": "", "spec": spec}
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process


def test_the_child_says_when_it_is_ready_and_ends_with_its_input(tmp_path: Path) -> None:
    """One word on standard output once the model is loaded; without a model another ending."""
    process = _child(smollm(), tmp_path)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline().strip() == READY
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    failing = _child(tmp_path / "none.gguf", tmp_path)
    said, _ = failing.communicate(timeout=60)
    assert said == "" and failing.returncode != 0
