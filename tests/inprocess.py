"""The command line in this very process: as the ``mbuild`` fixture, but many times faster."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run

from mbuild.cli.main import run as run_command_line
from mbuild.work.cores import use_threads


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in ``folder``, on the store ``store`` in it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OLLAMA_MODELS", str(folder / "store"))
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str | Path, input: str = "") -> subprocess.CompletedProcess[str]:
        out, errors = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        with (
            monkeypatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            io.TextIOWrapper(io.BytesIO(input.encode(errors="surrogateescape"))) as standard_input,
        ):
            patch.setattr(sys, "stdin", standard_input)
            status = run_command_line([str(argument) for argument in arguments])
        use_threads(None)  # a process of its own would have ended
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())

    return run
