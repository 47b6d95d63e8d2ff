"""A build with workers against the plain one: CPU of all processes, wall time, memory.

    python benchmarks/workers.py [--layers 16] [--repeats 3] [--once] [--work FOLDER]

The checkpoint is that of ``convert.py`` with so many layers, which is built to Q4_K_M with an
empty store: plainly, with ``--on local:2``, and with two parts that fill a shared cache and a
build that takes all from there (``--part 1/2``, ``--part 2/2``, ``--cache-from``). All have one
id, or the program stops. CPU is that of all processes together, the cluster's start among them;
its own row has the start alone. ``--layers 98 --once`` is the run with three billion weights:
6.2 GB of source and at most 4 GB of results at a time.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from common import (
    MBUILD,
    Program,
    Runs,
    arguments,
    generate,
    in_turn,
    machine,
    mib,
    seconds,
    table,
    work_folder,
)

START = (
    "from mbuild.work.pools import open_pool\nwith open_pool('local:2') as pool:\n    print(pool)"
)


def built(work: Path, name: str, *options: str) -> list[str]:
    """A command that builds with an empty store of its own."""
    store = work / f"store-{name}"
    return [*MBUILD, "build", "--store", str(store), "-q", "q4_K_M", "-t", "m", *options]


STORES = ("plain", "on", "one", "two", "parts")


def programs(work: Path, found: set[str]) -> list[Program]:
    """What is compared; ``found`` fills with the manifests that come out."""
    folder = work / "from-checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text("FROM ../checkpoint\n", encoding="utf-8")
    cache = work / "cache"

    def fresh() -> None:
        found.update(ids(work))
        for name in STORES:
            shutil.rmtree(work / f"store-{name}", ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)

    starting = work / "start.py"
    starting.write_text(
        START.replace("\nwith", "\nif __name__ == '__main__':\n  with").replace(
            "\n    p", "\n      p"
        ),
        encoding="utf-8",
    )
    parts = [
        built(work, "one", "--part", "1/2", "--cache-to", str(cache)),
        built(work, "two", "--part", "2/2", "--cache-to", str(cache)),
        built(work, "parts", "--cache-from", str(cache)),
    ]
    return [
        Program("plain", [built(work, "plain")], fresh, folder=folder),
        Program("--on local:2", [built(work, "on", "--on", "local:2")], fresh, folder=folder),
        Program("its start alone", [[sys.executable, str(starting)]], folder=folder),
        Program("two parts and a build", parts, fresh, folder=folder),
    ]


def ids(work: Path) -> set[str]:
    """The manifests that came out."""
    place = Path("manifests/registry.ollama.ai/library/m/latest")
    paths = [work / f"store-{name}" / place for name in STORES]
    return {json.dumps(json.loads(path.read_text())) for path in paths if path.exists()}


def rows(found: dict[str, Runs]) -> list[Sequence[str]]:
    """The table."""
    plain = found["plain"].cpu
    return [
        [
            name,
            seconds(runs.cpu),
            f"{runs.cpu / plain:.2f}",
            f"{seconds(runs.wall)} ({runs.spread})",
            mib(runs.peak),
        ]
        for name, runs in found.items()
    ]


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layers", type=int, default=16, help="16 are 1.2 GB  [default: 16]")
    parser.add_argument("--once", action="store_true", help="No round that only warms caches")
    asked = parser.parse_args()
    made: set[str] = set()
    with work_folder(asked.work) as work:
        if not (work / "checkpoint").exists():
            generate("checkpoint", work / "checkpoint", asked.layers)
        repeats = 1 if asked.once else asked.repeats
        found = in_turn(programs(work, made), repeats, warm=not asked.once)
        if len(made | ids(work)) != 1:
            raise SystemExit("the models differ")
    print(machine())
    print(table(["program", "CPU", "to plain", "wall", "largest process"], rows(found)))


if __name__ == "__main__":
    main()
