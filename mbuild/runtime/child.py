"""The process that an engine runs in: ``python -m mbuild.runtime.child``.

It reads one line of JSON from standard input (where to listen, the key that requests must
carry, the engine's settings), starts the engine and writes one line when it answers. It ends
when standard input ends, so that no engine outlives who started it. The engine is llama.cpp's
server: that of the package xllamacpp, or an executable of the user's.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from mbuild.runtime.spec import EngineSpec
from mbuild.store.locks import use

READY = "ready"
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
_LOOK_AGAIN_SECONDS = 0.02
_LOG_SECONDS = 0.1
# What the engine may keep of conversations that others have interrupted; the last one it keeps
# however large. Its own limit is 8 GiB, which nobody looked for when the model was loaded.
_SPARE_MIB = 256


def main() -> None:
    """Run one engine until standard input ends."""
    job = json.loads(sys.stdin.readline())
    spec = EngineSpec.from_json(job["spec"])
    for path in spec.files:
        use(path)
    if job["server"]:
        _run_program(job, spec)
    _engine = _start_library(job, spec)  # it lives as long as it has a name, and ends slowly
    _say_ready()
    _read_to_end()
    os._exit(0)


def _say_ready() -> None:
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()


def _read_to_end() -> None:
    """Return when who asked for the engine wants it no more, or is gone."""
    while sys.stdin.readline():
        pass


def _start_library(job: dict[str, Any], spec: EngineSpec) -> Any:
    """The server of xllamacpp; its constructor returns when the model is loaded."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec.model
    params.hostnames, params.api_keys = [job["socket"]], [job["key"]]
    params.cors_origins, params.ui, params.endpoint_slots = "", False, False
    params.offline, params.warmup, params.fit_params = True, False, False
    params.verbosity = 2  # errors, and warnings: by one it is known how far the log is written
    params.n_parallel, params.cache_ram_mib = 1, _SPARE_MIB
    params.n_ctx, params.n_batch = spec.num_ctx, spec.num_batch
    params.n_ubatch = spec.num_batch
    params.use_jinja, params.ctx_shift = spec.jinja, spec.shift
    if not spec.jinja:
        params.chat_template = "chatml"
    params.embedding = True
    if not spec.pooled and not spec.embeds_only:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    threads = spec.num_thread or _cores()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.main_gpu = spec.main_gpu
    if not spec.use_mmap:
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    adapters = []
    for path in spec.adapters:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        adapters.append(adapter)
    params.lora_adapters = adapters
    if spec.projectors:
        params.mmproj.path = spec.projectors[0]
    if spec.draft:
        kinds = xllamacpp.common_speculative_type
        params.speculative.draft.mparams.path = spec.draft
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.speculative.draft.n_max = spec.draft_tokens
    try:
        return xllamacpp.Server(params)
    except RuntimeError:  # it does not say why: that is in the log, which a thread writes
        time.sleep(_LOG_SECONDS)
        sys.exit(1)


def _run_program(job: dict[str, Any], spec: EngineSpec) -> NoReturn:
    """Run a ``llama-server`` of the user's until it or standard input ends."""
    environment = {**os.environ, **_variables(spec), "LLAMA_API_KEY": job["key"]}
    try:
        program = subprocess.Popen(
            [job["server"], "--host", job["socket"], *_arguments(spec)],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=environment,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        _end(f"the llama-server cannot be started: {error.strerror}")
    # From here on the end of standard input says when who asked is gone: then what the program
    # started, if it is a script, has to end as well.
    die_with_parent(0)
    threading.Thread(target=_end_with_input, args=(program,), daemon=True).start()
    while program.poll() is None and not _answers(job["socket"]):
        time.sleep(_LOOK_AGAIN_SECONDS)
    if program.returncode is None:
        _say_ready()
    code = program.wait()
    _end(
        f"the llama-server was ended by {signal.Signals(-code).name}"
        if code < 0
        else f"the llama-server ended with status {code}"
    )


def _end_with_input(program: subprocess.Popen[bytes]) -> None:
    _read_to_end()
    program.kill()
    program.wait()
    _end_group()


def _end(why: str) -> NoReturn:
    """Say why, and end with all that the program has started."""
    sys.stderr.write(f"{why}\n")
    sys.stderr.flush()
    _end_group()


def _end_group() -> NoReturn:
    """End every process that began from this one, and this one, which was started in a session
    of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _arguments(spec: EngineSpec) -> list[str]:
    """The options of a ``llama-server`` that every version knows."""
    found = ["--model", spec.model, "--ctx-size", str(spec.num_ctx), "--parallel", "1"]
    found += ["--batch-size", str(spec.num_batch), "--ubatch-size", str(spec.num_batch)]
    found += ["--threads", str(spec.num_thread or _cores())]
    found += ["--no-warmup", "--no-webui", "--no-slots", "--offline", "--embeddings"]
    if spec.num_gpu >= 0:
        found += ["--n-gpu-layers", str(spec.num_gpu)]
    if spec.main_gpu:
        found += ["--main-gpu", str(spec.main_gpu)]
    if spec.shift:
        found += ["--context-shift"]
    found += ["--jinja"] if spec.jinja else ["--no-jinja", "--chat-template", "chatml"]
    if not spec.pooled and not spec.embeds_only:
        found += ["--pooling", "last"]
    for path in spec.adapters:
        found += ["--lora", path]
    for path in spec.projectors[:1]:
        found += ["--mmproj", path]
    if spec.draft:
        found += ["--model-draft", spec.draft, "--spec-type", "draft-simple"]
    return found


def _variables(spec: EngineSpec) -> dict[str, str]:
    """Variables in place of options that one version knows and another ends for."""
    found = {"LLAMA_ARG_CACHE_RAM": str(_SPARE_MIB)}
    if not spec.use_mmap:
        found |= {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_MMAP": "0"}
    if spec.draft:
        found |= {"LLAMA_ARG_SPEC_DRAFT_N_MAX": str(spec.draft_tokens)}
    return found


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let the kernel end this process with its parent, where the kernel can; 0: no more."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(number))


def _answers(path: str) -> bool:
    """Whether the engine says that the model is loaded."""
    from http.client import HTTPConnection
    from socket import AF_UNIX, socket

    connection = HTTPConnection("localhost")
    try:
        with suppress(OSError, ValueError):
            connection.sock = socket(AF_UNIX)
            connection.sock.connect(path)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False
    finally:
        connection.close()


def _cores() -> int:
    from mbuild.work.cores import cores

    return cores()


if __name__ == "__main__":
    die_with_parent()
    main()
