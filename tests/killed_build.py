"""A build that ends itself by a signal in the middle of quantizing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHILD = """
import itertools, os, signal, sys, threading, time
from mbuild.build.steps import making, outputs, ranges

end, at, kept = getattr(signal, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
outputs._SAVE_BYTES = 256 << 10 if kept else 1 << 40  # small, as the model is
quantize, record, flush = making.quantize, ranges.RangeCache.record, ranges.RangeCache.flush
calls, turn, recorded, durable = itertools.count(1), threading.Lock(), set(), set()

def recording(self, key, place):
    record(self, key, place)
    recorded.add(key)

def flushing(self):
    there = set(recorded)
    flush(self)
    durable.update(there)

def quantizing(*arguments, **options):
    time.sleep(0.02)  # a small model, quantized as slowly as a large one
    if (number := next(calls)) >= at:
        with turn:
            if number == at:
                limit = time.monotonic() + 120
                while len(durable) < kept and time.monotonic() < limit:
                    time.sleep(0.01)
                os.kill(os.getpid(), end)
    return quantize(*arguments, **options)

making.quantize = quantizing
ranges.RangeCache.record, ranges.RangeCache.flush = recording, flushing
from mbuild.cli.main import run
sys.exit(run(sys.argv[4:]))
"""


def end_build(
    folder: Path, how: str, at: int, kept: int, *arguments: str, threads: int = 2
) -> subprocess.CompletedProcess[str]:
    """Build in ``folder`` on the store ``store`` there, until the signal ``how``.

    It comes when tensor number ``at`` is about to be quantized, and so many are ``kept``: that
    is the disk's work, which a busy machine does later. With 0 none is kept before the signal.
    """
    return subprocess.run(
        [sys.executable, "-c", CHILD, how, str(at), str(kept), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "OLLAMA_MODELS": str(folder / "store"),
            "MBUILD_THREADS": str(threads),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
