"""Command lines in processes of their own, many of them: forked from one that has loaded mbuild.

They differ from ``python -m mbuild`` in nothing but what starting Python and loading takes, which
is most of what a small build takes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

PRELOADED = (
    *("lark", "sqlite3", "mbuild.__main__", "mbuild.cli.main", "mbuild.cli.build"),
    *("mbuild.cli.disk", "mbuild.cli.rate", "mbuild.build.build", "mbuild.build.explain"),
    *("mbuild.build.provenance.keeping", "mbuild.build.provenance.statement"),
    *("mbuild.build.steps.gguf", "mbuild.build.steps.layers", "mbuild.build.steps.models"),
    *("mbuild.build.steps.manifest", "mbuild.gguf.facts", "mbuild.lint.content"),
    *("mbuild.models.disk", "mbuild.store.writing"),
)
"""What a small build and a pruning load; none of it starts a thread."""


class Forked:
    """A command that runs."""

    def __init__(self, said: Path, *arguments: str | Path) -> None:
        """Start it; what it writes goes into the file ``said``."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self.said = said
        words = [str(argument) for argument in arguments]
        self._process = context.Process(target=_run, args=(str(said), words))
        self._process.start()

    def kill(self) -> None:
        """End it with SIGKILL, if it still runs, and wait for that."""
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = 60) -> int:
        """Its exit status, once it has ended; minus a signal's number."""
        self._process.join(seconds)
        status = self._process.exitcode
        assert status is not None, f"it still runs after {seconds} s"
        return status


def _run(said: str, words: list[str]) -> None:
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.argv = ["mbuild", *words]
    from mbuild.__main__ import main

    main()
