"""Kernels on disk: object files that a process without numba runs, or that are made anew."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbuild.build.graph import StepContext
from mbuild.build.steps.quantize import _say_compiling, _warn_of_kernels
from mbuild.gguf.types import GGMLType
from mbuild.quant.quantize import engine, fallback, quantize
from mbuild.store import Store

pytest.importorskip("numba")

from mbuild.quant.compiled import cache, loader
from mbuild.quant.kernels import target
from mbuild.quant.types import modules

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
{before}
import numpy as np
from mbuild.gguf.types import GGMLType as G
from mbuild.quant import quantize as q
import hashlib
x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
made = q.quantize(G.MXFP4, G.F32, x, 256)
print(q.engine().name, "numba" in sys.modules, hashlib.sha256(made.tobytes()).hexdigest())
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
    return ["compiled", str(numba), hashlib.sha256(made.tobytes()).hexdigest()]


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


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
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
    """Kernel, CPU, its features, numba's settings and versions, sources: each is in the key.

    A file of settings in the working directory is not: nobody reads it.
    """
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
    (tmp_path / ".numba_config.yaml").write_text("opt: 0\n")
    assert cache.key("plain_Q4_K_32") == keys[-1]
    monkeypatch.setattr(target, "_host", lambda: ("x86_64", "another", "+sse2"))
    keys.append(cache.key("plain_Q4_K_32"))
    monkeypatch.setattr(target, "compilers", lambda: "others")
    keys.append(cache.key("plain_Q4_K_32"))
    monkeypatch.setattr(cache, "sources_digest", lambda: b"edited")
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
    """Modules of mbuild that a module imports, as in ``cache.sources()``."""
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
    # Errors are raised outside of kernels, and how a value is declared changes no arithmetic.
    outside = {"core/errors", "core/values"}
    # The types' files are found by their folder's listing.
    rows = [module.__name__.removeprefix("mbuild.").replace(".", "/") for module in modules()]
    seen, waiting = set(outside), ["quant/compiled/compiler", *rows]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imported(cache.PACKAGE / f"{name}.py")
    assert sorted(seen - outside) == cache.sources()


def test_a_function_that_is_not_there() -> None:
    """An object file that holds another kernel is an error and no crash."""
    engine().prepare(GGMLType.F16, False)
    code = cache.read("plain_F16_32")
    assert code is not None
    with pytest.raises(RuntimeError, match="no function plain_F32_32"):
        loader.load(code, "plain_F32_32")  # asked of LLVM at last


def test_where_kernels_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is there or can be made; not below a file, as HOME=/dev/null has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert cache.is_writable()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not cache.is_writable()
    said: list[str] = []
    context = StepContext(
        Store(tmp_path),
        lambda done, total: None,
        lambda code, values: said.append(f"{code} {values}"),
        said.append,
    )
    _say_compiling(("Q4_K",), context)
    assert said == ["compiling-quantizers {'types': ('Q4_K',), 'kept': False}"]
    _warn_of_kernels(None, context)
    _warn_of_kernels(None, context)
    assert len(said) == 2  # the warning came once
    assert f"cannot be kept in {tmp_path}/file/mbuild/kernels: each build" in said[1]


OTHERS: dict[str, Callable[[Path], None]] = {
    "a file that the group may write": lambda file: file.chmod(0o620),
    "a file that all may write": lambda file: file.chmod(0o666),
    "a folder that the group may write": lambda file: file.parent.chmod(0o770),
    "a folder that all may write": lambda file: file.parent.chmod(0o777),
    "a link to an own file": lambda file: _linked(file),
    "a folder that is a link": lambda file: _linked(file.parent),
    "a pipe": lambda file: _piped(file),
}


def _piped(path: Path) -> None:
    """Put a pipe in the place of what lies at a path."""
    path.unlink()
    os.mkfifo(path, 0o600)


def _linked(path: Path) -> None:
    """Put a link to what lies at a path in its place."""
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def _kept_in(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry that is written below a folder, and read again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    cache.write(name, b"code")
    assert cache.read(name) == b"code"
    assert cache.problem() == ""
    (entry,) = _entries(folder)
    return entry


@pytest.mark.parametrize("kind", OTHERS)
def test_what_others_can_have_put_there_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries are run: they count only where nobody else can write, and no link leads on."""
    OTHERS[kind](_kept_in(tmp_path, "plain_Q5_0_32", monkeypatch))
    assert cache.read("plain_Q5_0_32") is None
    if "folder" in kind:
        assert "are not used, because" in cache.problem()
        assert "chmod 700" in cache.problem() and "XDG_CACHE_HOME" in cache.problem()
        cache.write("plain_Q5_0_16", b"code")
        assert len(_entries(tmp_path)) == 1  # nothing is put where it would not be read
    else:
        cache.write("plain_Q5_0_32", b"code")
        assert cache.read("plain_Q5_0_32") == b"code"


def test_a_way_over_anothers_link_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own link to another disk is; whoever made a link decides where it leads."""
    _kept_in(tmp_path, "plain_Q5_0_32", monkeypatch)
    _linked(tmp_path / "mbuild")
    assert cache.read("plain_Q5_0_32") == b"code"
    if os.getuid() != 0:
        pytest.skip("giving a link to another user needs root")
    os.lchown(tmp_path / "mbuild", 54321, 54321)
    assert cache.read("plain_Q5_0_32") is None
    assert "is a link of another user" in cache.problem()


def test_mbuild_home_has_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder for caches is set, and the remedy names that variable."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path / "home"))
    cache.write("plain_Q5_0_32", b"code")
    assert cache.read("plain_Q5_0_32") == b"code"
    assert cache.directory() == tmp_path / "home" / "kernels"
    cache.directory().chmod(0o777)
    assert "set MBUILD_HOME to" in cache.problem()


LOADS = """
import sys, warnings
warnings.simplefilter("error")
{first}
from mbuild.quant.compiled.isolation import import_numba
opened = []
sys.addaudithook(lambda event, a: event == "open" and opened.append(str(a[0])))
import_numba()
import numba
from numba.core import config
config.reload_config()
import yaml
print(int(config.OPT), config.CPU_NAME, any(".numba_config" in name for name in opened))
"""


@pytest.mark.parametrize("first", ["", "import numba"], ids=["anew", "imported before"])
def test_settings_in_the_working_directory_are_not_taken(first: str, tmp_path: Path) -> None:
    """A downloaded folder's file decides nothing, is not even opened; the environment decides."""
    (tmp_path / ".numba_config.yaml").write_text("opt: 0\ncpu_name: generic\n")
    done = subprocess.run(
        [sys.executable, "-c", LOADS.format(first=first)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_OPT": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 None False\n", "")


def test_no_kernel_is_compiled_by_a_folders_settings(tmp_path: Path) -> None:
    """Beside such a file the same bytes come out, and later runs elsewhere find them kept."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0\n")
    before = f"import os; os.chdir({str(tmp_path / 'model')!r})"
    assert _ended(_start(tmp_path, before)) == _expected(numba=True)
    assert _ended(_start(tmp_path)) == _expected(numba=False)
