"""Kernels on disk: object files that a process without numba runs, or that are made anew."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mbuild.gguf.types import GGMLType
from mbuild.graph import StepContext
from mbuild.quant.quantize import engine, fallback, quantize
from mbuild.steps.quantize import _say_compiling
from mbuild.store import Store

pytest.importorskip("numba")

from mbuild.quant import cache, loader, target

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
{before}
import numpy as np
from mbuild.gguf.types import GGMLType as G
from mbuild.quant import quantize as q
import hashlib
x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
made = q.quantize(G.MXFP4, G.F32, x, 256)
print(q.engine_name(), "numba" in sys.modules, hashlib.sha256(made.tobytes()).hexdigest())
"""


def _start(folder: Path, before: str = "", **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), **env},
        stdout=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> list[str]:
    """What the program printed: the engine, whether numba was loaded, the result's digest."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return out.split()


def _expected(numba: bool) -> list[str]:
    x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
    made = quantize(GGMLType.MXFP4, GGMLType.F32, x, 256, using=fallback())
    return ["numba", str(numba), hashlib.sha256(made.tobytes()).hexdigest()]


def _entries(folder: Path) -> list[Path]:
    return sorted((folder / "mbuild" / "kernels").iterdir())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache's folder that two processes filled at once, both with the right bytes."""
    folder = tmp_path_factory.mktemp("kept")
    both = [_start(folder), _start(folder)]
    assert [_ended(process) for process in both] == [_expected(numba=True)] * 2
    return folder


def test_two_processes_compile_at_once(kept: Path) -> None:
    """Both have the right bytes, and leave one entry that nobody else may read or write."""
    (entry,) = _entries(kept)
    assert entry.name.startswith("plain_MXFP4_32-")
    assert entry.stat().st_mode & 0o077 == 0


def test_a_kept_kernel_runs_without_numba(kept: Path) -> None:
    """A later process makes the same bytes, has not imported numba, and writes nothing."""
    (entry,) = _entries(kept)
    before = entry.stat().st_mtime_ns
    assert _ended(_start(kept)) == _expected(numba=False)
    assert entry.stat().st_mtime_ns == before
    assert _entries(kept) == [entry]


DAMAGES = {
    "a changed byte": lambda good: good[:100] + bytes([good[100] ^ 1]) + good[101:],
    "cut off": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "something else": lambda good: b"cos\nsystem\n(S'echo foreign'\ntR.",
    "another kernel's": lambda good: hashlib.sha256(good[32:]).digest() + good[32:],
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_not_sound_is_not_read(
    kind: str, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, truncated and foreign entries count as none, and are written anew."""
    (entry,) = _entries(kept)
    good = entry.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = cache.directory() / entry.name
    place.parent.mkdir(parents=True)
    place.write_bytes(good)
    assert cache.read("plain_MXFP4_32") == good[32:]
    place.write_bytes(DAMAGES[kind](good))
    assert cache.read("plain_MXFP4_32") is None
    cache.write("plain_MXFP4_32", good[32:])
    assert place.read_bytes() == good


def test_a_damaged_entry_is_compiled_again(kept: Path, tmp_path: Path) -> None:
    """A process that finds a truncated entry compiles, and leaves a sound one."""
    (entry,) = _entries(kept)
    place = tmp_path / "mbuild" / "kernels" / entry.name
    place.parent.mkdir(parents=True)
    place.write_bytes(entry.read_bytes()[:-100])
    assert _ended(_start(tmp_path)) == _expected(numba=True)
    assert _ended(_start(tmp_path)) == _expected(numba=False)


def test_others_files_and_unreadable_ones_are_not_read(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of another user, or one that cannot be opened, counts as none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    assert cache.read("plain_MXFP4_32") is not None
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert cache.read("plain_MXFP4_32") is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mbuild" / "kernels" / _entries(kept)[0].name).mkdir(parents=True)
    assert cache.read("plain_MXFP4_32") is None


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """Where the cache's place is a file, kernels are compiled and work goes on."""
    (tmp_path / "mbuild").write_text("in the way")
    assert _ended(_start(tmp_path)) == _expected(numba=True)


def test_the_key_follows_all_that_decides_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel, CPU, its features, numba's settings and versions, sources: each is in the key."""
    monkeypatch.chdir(tmp_path)
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT"):
        monkeypatch.delenv(name, raising=False)
    keys = [cache.key("plain_Q4_K_32")]
    assert cache.key("plain_Q4_K_32") == keys[0]
    keys.append(cache.key("plain_Q4_K_16"))
    for name, value in (
        ("NUMBA_CPU_NAME", "znver3"),
        ("NUMBA_CPU_FEATURES", "+avx2,-avx512f"),
        ("NUMBA_CPU_FEATURES", "+avx512f"),
        ("NUMBA_OPT", "1"),
    ):
        monkeypatch.setenv(name, value)
        keys.append(cache.key("plain_Q4_K_32"))
    (tmp_path / target.SETTINGS).write_text("opt: 0\n")
    keys.append(cache.key("plain_Q4_K_32"))
    monkeypatch.setattr(target, "_host", lambda: ("x86_64", "another", "+sse2"))
    keys.append(cache.key("plain_Q4_K_32"))
    monkeypatch.setattr(target, "compilers", lambda: "others")
    keys.append(cache.key("plain_Q4_K_32"))
    monkeypatch.setattr(cache, "_sources", lambda: b"edited")
    keys.append(cache.key("plain_Q4_K_32"))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"NUMBA_CPU_NAME": "znver3", "NUMBA_CPU_FEATURES": "+avx2,-avx512f"},
        {"NUMBA_CPU_FEATURES": "+avx512f"},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_ENABLE_AVX": "0"},
    ],
    ids=str,
)
def test_the_width_follows_numbas_rule(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of lanes is chosen by the features that numba itself compiles for."""
    names = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    program = (
        "from numba.core.registry import cpu_target;"
        "print('+avx512f' in cpu_target.target_context.codegen().magic_tuple()[2].split(','))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (target.native_lanes() == 32) == (done.stdout.strip() == "True")


def _imported(path: Path) -> set[str]:
    """Modules of mbuild that a module imports, as in ``cache.SOURCES``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mbuild"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("mbuild")]
        else:
            continue
        found.update(name.removeprefix("mbuild.").replace(".", "/") for name in names)
    return {name for name in found if (cache.PACKAGE / f"{name}.py").is_file()}


def test_no_source_of_kernels_is_forgotten() -> None:
    """What the compiler imports, directly or not, is in the key, and nothing more is."""
    # Errors are raised outside of kernels; their texts change often.
    seen, waiting = {"errors"}, ["quant/compiler"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imported(cache.PACKAGE / f"{name}.py")
    assert sorted(seen - {"errors"}) == list(cache.SOURCES)


def test_a_function_that_is_not_there() -> None:
    """An object file that holds another kernel is an error and no crash."""
    engine().prepare(GGMLType.F16, False)
    code = cache.read("plain_F16_32")
    assert code is not None
    with pytest.raises(RuntimeError, match="no function plain_F32_32"):
        loader.load(code, "plain_F32_32")


def test_where_kernels_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is there or can be made; not below a file, as HOME=/dev/null has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert cache.is_writable()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not cache.is_writable()
    said: list[str] = []
    context = StepContext(
        Store(tmp_path), lambda done, total: None, said.append, lambda text: said.append(text)
    )
    _say_compiling("Q4_K", context)
    assert said[0] == "compiling quantizers for Q4_K"
    assert f"cannot be kept in {tmp_path}/file/mbuild/kernels: each build" in said[1]
