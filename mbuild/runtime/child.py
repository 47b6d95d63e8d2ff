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
from typing import Any

from mbuild.runtime.spec import EngineSpec
from mbuild.store.locks import use

READY = "ready"
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
_LOOK_AGAIN_SECONDS = 0.02
# What the engine may keep of conversations that others have interrupted; the last one it keeps
# however large. Its own limit is 8 GiB, which nobody looked for when the model was loaded.
_SPARE_MIB = 256


def main() -> None:
    """Run one engine until standard input ends."""
    job = json.loads(sys.stdin.readline())
    spec = EngineSpec.from_json(job["spec"])
    for path in spec.files:
        use(path)
    engine: Any
    if job["server"]:
        engine = _start_executable(job, spec)
    else:
        engine = _start_library(job, spec)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    if isinstance(engine, subprocess.Popen):
        threading.Thread(target=_end_with, args=(engine,), daemon=True).start()
    while sys.stdin.readline():
        pass
    if isinstance(engine, subprocess.Popen):
        engine.kill()
    os._exit(0)


def _end_with(program: subprocess.Popen[bytes]) -> None:
    """End when the program does, so that who asked for it starts another."""
    code = program.wait()
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with status {code}"
    sys.stderr.write(f"the llama-server {how}\n")
    sys.stderr.flush()
    os._exit(1)


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
        if spec.draft_tokens:
            params.speculative.draft.n_max = spec.draft_tokens
    return xllamacpp.Server(params)


def _start_executable(job: dict[str, Any], spec: EngineSpec) -> subprocess.Popen[bytes]:
    """A ``llama-server`` of the user's, which ends with this process."""
    arguments = [job["server"], "--model", spec.model, "--host", job["socket"]]
    arguments += ["--ctx-size", str(spec.num_ctx), "--parallel", "1"]
    arguments += ["--batch-size", str(spec.num_batch), "--ubatch-size", str(spec.num_batch)]
    arguments += ["--threads", str(spec.num_thread or _cores())]
    arguments += ["--no-warmup", "--no-webui", "--no-slots", "--offline", "--embeddings"]
    if spec.num_gpu >= 0:
        arguments += ["--n-gpu-layers", str(spec.num_gpu)]
    if not spec.use_mmap:
        arguments += ["--no-mmap"]
    if spec.shift:
        arguments += ["--context-shift"]
    if spec.jinja:
        arguments += ["--jinja"]
    else:
        arguments += ["--no-jinja", "--chat-template", "chatml"]
    if not spec.pooled and not spec.embeds_only:
        arguments += ["--pooling", "last"]
    for path in spec.adapters:
        arguments += ["--lora", path]
    for path in spec.projectors[:1]:
        arguments += ["--mmproj", path]
    if spec.draft:
        arguments += ["--model-draft", spec.draft]
        arguments += ["--spec-type", "draft-simple"]
    environment = {
        **os.environ,
        "LLAMA_API_KEY": job["key"],
        "LLAMA_ARG_CACHE_RAM": str(_SPARE_MIB),  # older versions know no option for it
    }
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        env=environment,
        preexec_fn=die_with_parent,
    )
    while not _answers(job["socket"]):
        if process.poll() is not None:
            sys.exit(1)
        time.sleep(_LOOK_AGAIN_SECONDS)
    return process


def die_with_parent() -> None:
    """Let the kernel end this process with its parent, where the kernel can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


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
