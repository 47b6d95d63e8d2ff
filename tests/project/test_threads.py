"""Who starts threads, and how work is told to end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mbuild"

OTHERS = {
    "build/engine.py": "steps side by side, of which one waits for the disk while another computes",
    "build/steps/quantize.py": "a compilation, which nothing can stop and nobody waits for",
    "cli/live.py": "the clock of the rows on a terminal",
    "cli/meter.py": "the clock of a line that says what is waited for",
    "server/jobs.py": "a build of the server, which outlives the request that began it",
}
"""The modules outside of ``work/`` that start threads, and what for."""

STARTS = ("Thread", "Timer", "ThreadPoolExecutor")


def _calls(names: tuple[str, ...]) -> Iterator[str]:
    """The modules that call something of these names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                function = node.func
                called = getattr(function, "attr", getattr(function, "id", ""))
                if called in names:
                    yield path.relative_to(PACKAGE).as_posix()


def test_threads_are_started_in_work_and_where_it_is_said_what_for() -> None:
    """Whoever has work for several cores asks ``work/``, which knows how many there are."""
    found = {name for name in _calls(STARTS) if not name.startswith("work/")}
    assert found == OTHERS.keys()


def test_the_number_of_cores_is_known_in_one_place() -> None:
    """What the system gives this process, what a container may use, what ``--threads`` says."""
    asked = set(_calls(("cpu_count", "sched_getaffinity", "process_cpu_count")))
    assert asked == {"work/cores.py"}


def test_work_is_ended_by_one_token() -> None:
    """No module has a flag of its own: neither an event nor a cell with a truth value."""
    events = set(_calls(("Event",))) - {"cli/live.py", "server/jobs.py"}
    cells = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign):
                value = node.value
                items = value.elts if isinstance(value, ast.Tuple) else [value]
                cells += [path.name for item in items if ast.unparse(item) in ("[False]", "[True]")]
    assert not events and not cells
