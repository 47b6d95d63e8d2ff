"""Signals that come at a bad moment: too early, or again while the first one is obeyed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf_files import tiny_gguf

from mbuild.cli import signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_impatience_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The same signal five times: one message, the status of one, and nothing is left."""
    root, tmp = tmp_path / "store", tmp_path / "store" / ".mbuild" / "tmp"
    with tiny_gguf(tmp_path / "model.gguf").open("r+b") as file:
        file.truncate(8 << 30)  # sparse
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    command = [sys.executable, "-m", "mbuild", "--store", root, "-t", "mario", tmp_path]
    builder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp.is_dir() and list(tmp.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(5):
        builder.send_signal(number)
        time.sleep(0.01)
    _, said = builder.communicate(timeout=30)
    assert builder.returncode == 128 + number, said
    assert said.decode().splitlines()[-1].startswith("interrupted: no model was changed")
    assert b"Traceback" not in said and list(tmp.iterdir()) == []


def test_a_signal_before_the_command_listens(tmp_path: Path) -> None:
    """It ends the process without a word of Python's: modules are still being loaded."""
    (tmp_path / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mbuild", "list"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_a_signal_after_the_end_counts_no_more() -> None:
    """Nor does one that was put off until then."""
    code = (
        "import os, signal, time\n"
        f"import {signals.__name__} as signals\n"
        "signals.stop_on_signals()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt:\n"
        "    status = signals.stopped()\n"
        "    for number in (signal.SIGINT, signal.SIGTERM):\n"
        "        os.kill(os.getpid(), number)\n"
        "    time.sleep(0.05)\n"
        "    print(status, signal.getitimer(signal.ITIMER_REAL), flush=True)\n"
        "    os._exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "143 (0.0, 0.0)\n"), done.stderr
