"""The wheel holds what the checkout holds, and README's ways to install mbuild work."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import installed
import pytest
from example_models import write_chat

from mbuild import __version__

ROOT = Path(__file__).parents[2]

INSTALL = (ROOT / "README.md").read_text().partition("\n## Install it\n")[2].partition("\n## ")[0]
BLOCKS = "".join(re.findall(r"```sh\n(.*?)```", INSTALL, re.DOTALL))
LINES = [line.partition("#")[0].strip() for line in BLOCKS.splitlines()]

MOLECULES = "mbuild==0.10.9"
"""The molecule builder: its last version on PyPI."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made once by the command that README.md gives."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and "Could not find a version" in made.stderr:
        pytest.skip("building a wheel needs hatchling from PyPI")
    assert made.returncode == 0, made.stderr
    (found,) = folder.glob("mbuild_models-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_builds_a_model(wheel: Path, tmp_path: Path) -> None:
    """Grammars and templates are in the wheel, and a build runs from it alone."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mbuild").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= names, source - names
    assert {"mbuild/grammar/modelfile.lark", "mbuild/grammar/gotemplate.lark"} <= names
    (tmp_path / "Modelfile").write_text('FROM x\nTEMPLATE "{{ .Prompt }}"\nPARAMETER nope 1\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    check = [sys.executable, "-P", "-m", "mbuild", "check", str(tmp_path / "Modelfile")]
    done = subprocess.run(check, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "unknown parameter 'nope'" in done.stdout


# --- the commands of README.md --------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a clone would have."""
    place = tmp_path_factory.mktemp("clone") / "mbuild"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "dist")

    def left_out(folder: str, names: list[str]) -> set[str]:
        made = {"models"} if Path(folder) == ROOT / "examples" else set()
        return ignored(folder, names) | made

    shutil.copytree(ROOT, place, ignore=left_out)
    return place


def environment(*paths: Path, home: Path) -> dict[str, str]:
    """Variables of a shell that finds programs in ``paths``, with a home of its own."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **inherited,
        "PATH": os.pathsep.join([*map(str, paths), inherited["PATH"]]),
        "OLLAMA_MODELS": str(home / "store"),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_MAN_DIR": str(home / "man"),
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_COMPILE": "0",  # few of the modules that come are ever loaded
        "UV_PYTHON": sys.executable,
    }


def shell(line: str, folder: Path, variables: dict[str, str]) -> str:
    """What a command prints; skips where the package index cannot be reached."""
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, timeout=900
    )
    said = done.stdout + done.stderr
    if done.returncode and re.search("No matching distribution|Failed to fetch|dns error", said):
        pytest.skip(f"no package index: {line}")
    assert done.returncode == 0, f"$ {line}\n{said}"
    return said


def builds(folder: Path, variables: dict[str, str], command: str = "mbuild") -> None:
    """Assert that a command builds a quantized model from a checkpoint, outside the checkout."""
    write_chat(folder / "tiny-chat")
    (folder / "Modelfile").write_text("FROM ./tiny-chat\n")
    assert "built tiny:latest in" in shell(f"{command} -t tiny -q q8_0", folder, variables)


def line_of(program: str) -> str:
    """The line of README.md that begins so."""
    (line,) = (line for line in LINES if line.startswith(program))
    return line


def tools() -> Path:
    """The folder that has the programs ``uvx`` and ``pipx``."""
    try:
        return installed.from_pypi("installers", ["uv", "pipx"])
    except subprocess.CalledProcessError:
        pytest.skip("uv and pipx cannot be had from PyPI")


def test_every_line_is_tested() -> None:
    """The lines that the tests below run are all that README.md has."""
    assert [line.split()[:2] for line in LINES] == [
        ["pip", "install"],
        ["pipx", "install"],
        ["uvx", "--from"],
        ["pip", "wheel"],
        ["pip", "install"],
        ["python3", "run.py"],
    ]


@pytest.mark.slow
@pytest.mark.clients
def test_after_try_it_there_is_a_command(checkout: Path, tmp_path: Path) -> None:
    """The lines of "Try it", in one shell: the second build is cached, and ``mbuild`` is found."""
    text = (ROOT / "README.md").read_text().partition("\n## Try it\n")[2]
    (block,) = re.findall(r"```sh\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    variables = environment(home=tmp_path)
    said = shell(f"set -e\n{block}command -v mbuild\nmbuild --version", checkout, variables)
    assert "built mario:latest in" in said
    assert ": 0 steps run, " in said
    assert f"\nmbuild {__version__}\n" in said
    assert str(checkout / ".venv" / "bin" / "mbuild") in said


@pytest.mark.slow
@pytest.mark.clients
def test_pip_installs_the_checkout_and_the_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    """In a new environment; the molecule builder in the same one breaks the command."""
    installed.environment(tmp_path / "venv", "pip")
    variables = environment(tmp_path / "venv" / "bin", home=tmp_path)
    shell(LINES[0], checkout, variables)
    builds(tmp_path, variables)
    shell("pip uninstall -q -y mbuild-models", tmp_path, variables)
    (checkout / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, checkout / "dist")
    shell(LINES[4], checkout, variables)
    builds(tmp_path, variables)
    shell(f"pip install -q --no-deps {MOLECULES}", tmp_path, variables)
    broken = subprocess.run(
        ["mbuild", "--version"], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert broken.returncode == 1
    assert "from mbuild.box import Box" in broken.stderr


@pytest.mark.slow
@pytest.mark.clients
def test_uvx_runs_the_checkout(checkout: Path, tmp_path: Path) -> None:
    """Without installing anything, and from another folder too."""
    variables = environment(tools(), home=tmp_path)
    assert f"mbuild {__version__}\n" in shell(line_of("uvx"), checkout, variables)
    builds(tmp_path, variables, f"uvx --from {checkout} mbuild")


@pytest.mark.slow
@pytest.mark.clients
def test_pipx_installs_the_checkout(checkout: Path, tmp_path: Path) -> None:
    """Into an environment of its own, with the command in the user's folder of programs."""
    variables = environment(tmp_path / "bin", tools(), home=tmp_path)
    shell(line_of("pipx"), checkout, variables)
    assert (tmp_path / "bin" / "mbuild").exists()
    builds(tmp_path, variables)


# --- the wheel with kernels -----------------------------------------------------------------


QUANTIZED = ("Q4_K", "Q6_K")
"""The types of a Q4_K_M."""


def own_level() -> str:
    """The level of x86-64 whose kernels run here; skips the test where there is none."""
    pytest.importorskip("numba")
    from mbuild.quant.kernels import target

    if not target.level():
        pytest.skip("the wheel with kernels is for Linux on x86-64-v3")
    return target.level()


def seconds(line: str, folder: Path, variables: dict[str, str]) -> float:
    """The CPU time that a command takes; it must not warn."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = shell(line, folder, variables)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "warning" not in said
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def built(program: str, folder: Path, home: Path, **others: str) -> tuple[str, float]:
    """The digest of the example's weights in Q4_K_M, and the seconds of CPU that they took.

    ``home`` has to be new: unless ``others`` lead elsewhere, the build finds no store, no cache
    and no kernels.
    """
    home.mkdir()
    variables = {
        **environment(home=home),
        "HOME": str(home),
        "MBUILD_HOME": str(home / "mbuild"),
        **others,
    }
    spent = seconds(f"{program} -q q4_K_M -t chat", folder, variables)
    manifest = home / "store/manifests/registry.ollama.ai/library/chat/latest"
    layers = json.loads(manifest.read_text())["layers"]
    digest = next(one["digest"] for one in layers if one["mediaType"].endswith(".model"))
    return str(digest), spent


def requirements(archive: zipfile.ZipFile) -> set[str]:
    """What a wheel requires of numba and of llvmlite."""
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = re.findall("^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    return {line.replace('"', "'") for line in lines if line.startswith(("numba", "llvmlite"))}


def test_a_wheel_of_a_checkout_compiles(wheel: Path) -> None:
    """It is for every platform, has no kernels in it, and asks for numba."""
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "/objects/" in name]
        assert requirements(archive) == {
            "llvmlite>=0.44",
            "numba>=0.61",
            "numba>=0.61; extra == 'compile'",
        }


@pytest.mark.slow
@pytest.mark.clients
def test_the_wheel_with_kernels_needs_no_numba(wheel: Path, tmp_path: Path) -> None:
    """Nor llvmlite: the first Q4_K_M has the same bytes, and takes the time of a later one."""
    level = own_level()
    # The kernels of two types instead of all, which would take minutes.
    few = f"{tmp_path} --pure {wheel} --types {','.join(QUANTIZED)} --levels {level}"
    shell(f"{sys.executable} {ROOT}/release/wheel.py {few}", tmp_path, environment(home=tmp_path))
    made = tmp_path / f"mbuild_models-{__version__}-py3-none-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(made) as archive:
        _check(archive, level)
    installed.environment(tmp_path / "venv", made)
    programs = tmp_path / "venv" / "bin"
    found = {path.name.partition("-")[0] for path in tmp_path.glob("venv/lib/*/*/*.dist-info")}
    assert "numpy" in found and "llvmlite" not in found and "numba" not in found
    write_chat(tmp_path / "tiny-chat")
    (tmp_path / "Modelfile").write_text("FROM ./tiny-chat\n")
    kept = {"HOME": str(Path.home()), "MBUILD_HOME": ""}  # numba's kernels, which all tests share
    usual, _ = built(f"{sys.executable} -m mbuild", tmp_path, tmp_path / "numba", **kept)
    builds, imports = [], []
    for home in (tmp_path / f"home{number}" for number in range(4)):
        digest, spent = built(f"{programs}/mbuild", tmp_path, home)
        assert digest == usual
        assert not (home / "mbuild" / "kernels").exists()
        builds.append(spent)
        numpy = f"{programs}/python -c 'import numpy'"
        imports.append(seconds(numpy, tmp_path, environment(home=home)))
    # Half a second where numpy is imported in 83 ms, as on a machine that does nothing else.
    assert min(builds) < 6 * min(imports), (builds, imports)


@pytest.mark.slow
@pytest.mark.clients
def test_the_same_checkout_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """All of it, made twice: the pure wheel, the kernels of a type, and what is made of both."""
    few = f"--types F16 --levels {own_level()}"
    made = []
    for name in ("one", "two"):
        command = f"{sys.executable} {ROOT}/release/wheel.py {tmp_path / name} {few}"
        shell(command, tmp_path, environment(home=tmp_path))
        (found,) = (tmp_path / name).iterdir()
        made.append((found.name, found.read_bytes()))
    assert made[0] == made[1]
    assert len(made[0][1]) > wheel.stat().st_size


def made_by() -> ModuleType:
    """``release/kernels.py``."""
    spec = importlib.util.spec_from_file_location("release_kernels", ROOT / "release/kernels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        spec.loader.exec_module(module)
    return module


def _check(archive: zipfile.ZipFile, level: str) -> None:
    """The wheel is well-formed: kernels, requirements, tag, and a RECORD of all files."""
    from mbuild.quant.kernels import target

    objects = {name for name in archive.namelist() if "/objects/" in name}
    place = "mbuild/quant/compiled/objects/"
    lanes = target.lanes_of(target.features_of(level))
    kernels = {f"{kind}_{type_}_{lanes}" for kind in ("plain", "weighted") for type_ in QUANTIZED}
    names = kernels | {name for name, _ in made_by().texts()}
    assert objects == {f"{place}index.json", *(f"{place}{level}/{name}.o.z" for name in names)}
    elsewhere = "sys_platform != 'linux' or platform_machine != 'x86_64'"
    assert requirements(archive) == {
        f"llvmlite>=0.44; {elsewhere}",
        f"numba>=0.61; {elsewhere}",
        "numba>=0.61; extra == 'compile'",
    }
    (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
    tags = archive.read(record.replace("RECORD", "WHEEL")).decode()
    assert "Tag: py3-none-manylinux_2_17_x86_64\n" in tags and "Purelib: false\n" in tags
    recorded = {
        name: digest for name, digest, _ in csv.reader(archive.read(record).decode().split())
    }
    assert recorded.pop(record) == ""
    assert recorded.keys() == set(archive.namelist()) - {record}
    for name, digest in recorded.items():
        found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest())
        assert digest == f"sha256={found.decode().rstrip('=')}"
