"""An executable that takes llama-server's options and serves as it does: the engine is the wheel's.

PyPI and Debian 12 have no ``llama-server`` that runs on every machine, and building one takes a
quarter of an hour. As the real one it ends when it is given an option that it does not know.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_PROGRAM = """#!{python}
import argparse, os, threading
from pathlib import Path

import xllamacpp

parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=True)
for name in ("model", "host", "chat-template", "pooling", "mmproj", "model-draft", "spec-type"):
    parser.add_argument("--" + name)
for name in ("ctx-size", "parallel", "batch-size", "ubatch-size", "threads", "n-gpu-layers",
             "main-gpu"):
    parser.add_argument("--" + name, type=int)
for name in ("no-warmup", "no-webui", "no-slots", "offline", "embeddings",
             "context-shift", "jinja", "no-jinja"):
    parser.add_argument("--" + name, action="store_true")
parser.add_argument("--lora", action="append", default=[])
asked = parser.parse_args()
Path({told!r}).write_text(repr((vars(asked), dict(os.environ))))
params = xllamacpp.CommonParams()
params.model.path, params.hostnames = asked.model, [asked.host]
params.api_keys = [os.environ["LLAMA_API_KEY"]]
params.n_ctx, params.n_batch, params.n_ubatch = asked.ctx_size, asked.batch_size, asked.ubatch_size
params.n_parallel, params.use_jinja, params.ctx_shift = 1, asked.jinja, asked.context_shift
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
params.embedding, params.warmup, params.verbosity = asked.embeddings, False, 2
if asked.chat_template:
    params.chat_template = asked.chat_template
if asked.pooling:
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def write_llama_server(folder: Path, name: str = "llama-server") -> Path:
    """The program, and beside it ``NAME.told`` once it runs: its options and its environment."""
    program = folder / name
    told = str(folder / f"{name}.told")
    program.write_text(_PROGRAM.format(python=sys.executable, told=told))
    program.chmod(0o755)
    return program


def processes_of(program: Path) -> list[int]:
    """The processes that have a program in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(program).encode() in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found
