"""Who starts threads, and how work is told to end."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mbuild"

OTHERS = {
    "build/running.py": "steps side by side: one waits for the disk while another computes",
    "build/steps/quantize.py": "a compilation, which nothing can stop and nobody waits for",
    "cli/live.py": "the clock of the rows on a terminal",
    "cli/meter.py": "the clock of a line that says what is waited for",
    "runtime/child.py": "the wait for a llama-server to end, beside that for who asked",
    "server/jobs.py": "a build of the server, which outlives the request that began it",
}
"""The modules outside of ``work/`` that start threads, and what for."""

STARTS = ("Thread", "Timer", "ThreadPoolExecutor")


@cache
def _read() -> tuple[frozenset[tuple[str, str]], tuple[str, ...]]:
    """Each module with the names that it calls; the modules with a cell for a truth value."""
    called, cells = set(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called.add((module, getattr(node.func, "attr", getattr(node.func, "id", ""))))
            elif isinstance(node, ast.Assign):
                value = node.value
                items = value.elts if isinstance(value, ast.Tuple) else [value]
                cells += [module for item in items if _is_cell(item)]
    return frozenset(called), tuple(cells)


def _is_cell(node: ast.expr) -> bool:
    """Whether an expression is ``[False]`` or ``[True]``."""
    one = isinstance(node, ast.List) and len(node.elts) == 1
    return one and ast.unparse(node) in ("[False]", "[True]")


def _calls(names: tuple[str, ...]) -> set[str]:
    """The modules that call something of these names."""
    return {module for module, name in _read()[0] if name in names}


def test_threads_are_started_in_work_and_where_it_is_said_what_for() -> None:
    """Whoever has work for several cores asks ``work/``, which knows how many there are."""
    found = {name for name in _calls(STARTS) if not name.startswith("work/")}
    assert found == OTHERS.keys()


def test_the_number_of_cores_is_known_in_one_place() -> None:
    """What the system gives this process, what a container may use, what ``--threads`` says."""
    asked = _calls(("cpu_count", "sched_getaffinity", "process_cpu_count"))
    assert asked == {"work/cores.py"}


def test_work_is_ended_by_one_token() -> None:
    """No module has a flag of its own: neither an event nor a cell with a truth value."""
    events = _calls(("Event",)) - {"cli/live.py", "server/jobs.py"}
    assert not events and not _read()[1]
