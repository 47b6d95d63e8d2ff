"""``python -m mbuild`` and the ``mbuild`` command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
_SWITCH_SECONDS = 0.0005


def main() -> None:
    """Run the command line and end the process with its status."""
    # Until the command listens, Ctrl-C ends the process without a word of Python's.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Loading the larger libraries makes many objects and no garbage: with Python's own
    # threshold of 700 a third of that time goes into looking for some.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    # A thread that hashes needs the interpreter for a moment every millisecond. By default it
    # waits 5 ms for one that is busy in it, such as that which loads modules.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # numpy's threads for matrix products, of which there are none here, spin when they start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from mbuild.cli.main import run

    _leave(run(sys.argv[1:]))


def _leave(status: int) -> None:
    """End the process without taking the interpreter apart, which takes up to 0.1 s.

    Whatever has to be written or removed was by now. A thread that nobody can stop
    (a compilation) is not waited for.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
