"""``python -m mbuild`` and the ``mbuild`` command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit with its status."""
    from mbuild.cli.main import STOPPED, run

    status = run(sys.argv[1:])
    if status == STOPPED:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """End the process at once if a thread goes on that nobody can stop (a compilation)."""
    import threading

    from mbuild.graph import UNSTOPPABLE

    if any(thread.name == UNSTOPPABLE for thread in threading.enumerate()):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
