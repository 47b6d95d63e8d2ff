"""What the whole-program benchmarks share: runs in turn, medians, peak memory, a Markdown table.

Programs that are compared run in turn, so that a slow minute of the machine hits all of
them. This process stays small: on Linux a child's peak memory never reads lower than that
of the process it was started from.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from llama_library import PACKAGE

# What is compared are installed programs, and pip compiles what it installs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
MBUILD = (sys.executable, "-m", "mbuild")

QUANTIZER = (sys.executable, str(ROOT / "tests" / "llama_quantize.py"))
"""llama.cpp's quantizer in a process of its own; see there."""


@dataclass(frozen=True)
class Program:
    """Commands that run one after the other and count as one; ``before`` is not measured."""

    name: str
    commands: Sequence[Sequence[str]]
    before: Callable[[], object] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run: wall and CPU time in seconds, the largest process's peak memory in bytes.

    ``parts`` are the wall times of its commands. ``read`` are the bytes that it asked
    files for, ``fetched`` those that came from a disk (``/proc/PID/io``, Linux; else 0).
    """

    parts: tuple[float, ...]
    cpu: float
    peak: int
    read: int = 0
    fetched: int = 0

    @property
    def wall(self) -> float:
        """All commands together."""
        return sum(self.parts)


class Runs(list[Run]):
    """The runs of one program."""

    @property
    def wall(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(run.wall for run in self)

    @property
    def spread(self) -> str:
        """Fastest to slowest."""
        return f"{seconds(min(r.wall for r in self))} to {seconds(max(r.wall for r in self))}"

    @property
    def cpu(self) -> float:
        """Median CPU time in seconds."""
        return statistics.median(run.cpu for run in self)

    @property
    def peak(self) -> int:
        """Largest peak memory in bytes."""
        return max(run.peak for run in self)


def run_once(program: Program) -> Run:
    """Run a program; exits with its output when it fails."""
    program.before()
    adopt()
    own = children()
    environment = {**os.environ, **program.environment}
    parts: list[float] = []
    cpu, peak, read, fetched = 0.0, 0, 0, 0
    for command in program.commands:
        with tempfile.TemporaryFile() as log:
            started = time.perf_counter()
            child = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=program.folder
            )
            if hasattr(os, "waitid"):  # not on macOS before Python 3.13, which counts no reads
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                counts = read_by(child.pid)
                read, fetched = read + counts[0], fetched + counts[1]
            _, status, usage = os.wait4(child.pid, 0)
            parts.append(time.perf_counter() - started)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                log.seek(0)
                text = log.read().decode(errors="replace")[-4000:]
                raise SystemExit(f"{program.name} failed: {' '.join(command)}\n{text}")
        for each in (usage, *left_behind(own)):
            cpu += each.ru_utime + each.ru_stime
            peak = max(peak, each.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return Run(tuple(parts), cpu, peak, read, fetched)


def adopt() -> None:
    """Become the parent of what a program leaves behind (Linux), such as a server of forks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def children() -> set[int]:
    """The processes whose parent this one is (Linux)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= set(map(int, path.read_text(encoding="ascii").split()))
    return found


def left_behind(own: set[int]) -> Iterator[resource.struct_rusage]:
    """What processes have used that outlived their program; they end as soon as they see that.

    ``own`` are other children of this process.
    """
    end = time.monotonic() + 5
    while (left := children() - own) and time.monotonic() < end:
        for process in left:
            done, _, usage = os.wait4(process, os.WNOHANG)
            if done:
                yield usage
        time.sleep(0.01)


def read_by(process: int) -> tuple[int, int]:
    """Bytes that a process read, by its calls and from a disk; of one that has just ended, too."""
    try:
        lines = Path(f"/proc/{process}/io").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["read_bytes"])


def in_turn(programs: Sequence[Program], repeats: int, *, warm: bool = True) -> dict[str, Runs]:
    """Run the programs in turn; a first round that is not counted warms all caches."""
    found = {program.name: Runs() for program in programs}
    for number in range(repeats + warm):
        for program in programs:
            run = run_once(program)
            if number >= warm:
                found[program.name].append(run)
            print(f"{program.name}: {run.wall:.2f} s", file=sys.stderr)
    return found


def seconds(value: float) -> str:
    """A time in a readable unit."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def mib(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / MIB:.0f} MiB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> str:
    """CPU, cores, memory, system, Python, date, and how busy the machine is."""
    cpu, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f", {total / (1 << 30):.0f} GiB"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {os.cpu_count()} cores{memory}, {platform.system()}, "
        f"Python {platform.python_version()}; load before the run {load}"
    )


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder for inputs and stores: the given one, which is kept, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="mbuild-benchmark-") as name:
        yield Path(name)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder to work in, kept for the next run")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs  [default: 5]")
    return parser


def generate(name: str, *args: object) -> None:
    """Run ``inputs.py`` in a process of its own: it needs numpy and much memory."""
    script = Path(__file__).with_name("inputs.py")
    subprocess.run([sys.executable, str(script), name, *map(str, args)], check=True)


def environment_with(folder: Path, *packages: str) -> Path | None:
    """A virtual environment's Python with packages from PyPI; None, with a message, if not.

    pip's own settings (``PIP_EXTRA_INDEX_URL``) choose torch's CPU wheels where PyPI has
    others.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    if done.exists() and set(packages) <= set(done.read_text(encoding="utf-8").split()):
        return python
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *packages],
    ]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(f"skipped, {' '.join(packages)} cannot be installed: {result.stderr[-500:]}")
            return None
    done.write_text(" ".join(packages), encoding="utf-8")
    return python


def install_into(folder: Path, package: str) -> bool:
    """Install a package and what it needs below ``folder``; False, with a message, if not."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), package]
    result = subprocess.run(pip, capture_output=True, text=True)
    if result.returncode:
        print(f"skipped, {package} cannot be installed: {result.stderr[-500:]}")
        shutil.rmtree(folder, ignore_errors=True)
    return result.returncode == 0


def llama_cpp(work: Path) -> Path | None:
    """The folder with llama.cpp's libraries; None, with a message, where they cannot be had."""
    folder = work / "llama.cpp-libraries"
    if not folder.exists() and not install_into(folder, PACKAGE):
        return None
    command = [*QUANTIZER, str(folder)]
    loads = subprocess.run(command, input="[]", capture_output=True, text=True)
    if loads.returncode:
        print(f"llama.cpp does not load: {loads.stderr.strip().splitlines()[-1]}\n")
        return None
    return folder


def has_module(name: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None


def remover(*paths: Path) -> Callable[[], None]:
    """A function that removes files and folders."""

    def remove() -> None:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return remove
