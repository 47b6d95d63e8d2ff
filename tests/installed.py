"""Programs that tests install once, into ``.venv/clients`` (or ``MBUILD_CLIENTS``)."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from llama_library import PACKAGE, load
from programs import need

FOLDER = Path(
    os.environ.get("MBUILD_CLIENTS", Path(__file__).parent.parent / ".venv" / "clients")
).absolute()

DEBIAN = "http://deb.debian.org/debian"


def once(name: str, packages: Sequence[str], install: Callable[[Path], None]) -> Path:
    """The folder of that name, installed unless it holds these packages already.

    Test processes that run side by side wait for the one that installs.
    """
    place = FOLDER / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place / "installed"
        if not done.exists() or done.read_text() != " ".join(packages):
            shutil.rmtree(place, ignore_errors=True)
            install(place)
            done.write_text(" ".join(packages))
    return place


def from_pypi(name: str, packages: Sequence[str]) -> Path:
    """The ``bin`` folder of an environment with packages of PyPI."""

    return once(name, packages, lambda place: environment(place, *packages)) / "bin"


def environment(place: Path, *packages: str | Path) -> None:
    """A new virtual environment with packages, and with pip only where that is one of them."""
    venv.create(place, with_pip=False)
    subprocess.run([*_pip(place / "bin" / "python"), *packages], check=True, timeout=550)


def _pip(python: Path) -> list[str]:
    """What installs packages into an environment: uv, which takes a tenth of pip's time, or pip."""
    if importlib.util.find_spec("uv") is not None:
        command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", str(python)]
        if subprocess.run([*command, "--dry-run", "pip"], capture_output=True).returncode == 0:
            return command
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    return [*pip, "--disable-pip-version-check"]


def from_npm(name: str, packages: Sequence[str]) -> Path:
    """A folder whose ``node_modules`` has packages of npm."""

    def install(place: Path) -> None:
        place.mkdir(parents=True)
        (place / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", *packages]
        subprocess.run(command, cwd=place, check=True, timeout=600, capture_output=True)

    return once(name, packages, install)


def packed(name: str, package: str) -> Path:
    """The folder of one package of npm as it was published, without what it depends on."""

    def install(place: Path) -> None:
        place.mkdir(parents=True)
        command = ["npm", "pack", "--silent", package]
        subprocess.run(command, cwd=place, check=True, timeout=300, capture_output=True)
        (archive,) = place.glob("*.tgz")
        with tarfile.open(archive) as tar:
            # Python 3.11.4 and newer have this filter.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            tar.extractall(place)
        archive.unlink()

    return once(name, [package], install) / "package"


def wheels(name: str, packages: Sequence[str]) -> Path:
    """A folder for ``PYTHONPATH`` with wheels of PyPI; skips the test where there are none."""

    def install(place: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary", ":all:", "--target", str(place)]
        done = subprocess.run(
            [*pip, *options, *packages], capture_output=True, text=True, timeout=300
        )
        if "No matching distribution" in done.stderr:
            pytest.skip(f"there is no wheel of {' '.join(packages)} for this machine")
        assert done.returncode == 0, done.stderr

    return once(name, packages, install)


def llama_cpp() -> Path:
    """The folder with llama.cpp's libraries; skips the test where this system loads none."""
    folder = wheels("llama.cpp", [PACKAGE])
    try:
        load(folder, "ggml-base")
    except OSError as error:
        pytest.skip(f"llama.cpp's libraries do not load here: {error}")
    return folder


def from_debian(name: str, suite: str, packages: Sequence[str]) -> Path:
    """The root of packages of a Debian release that need not be this system's, unpacked.

    Programs in it run under that release's own loader and libc, which are among the packages.
    Skips the test where there is no apt, or the release is not to be had.
    """
    need("apt-get", "dpkg-deb", "dpkg")
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

    def install(place: Path) -> None:
        for part in ("lists/partial", "cache/archives/partial", "root"):
            (place / part).mkdir(parents=True)
        (place / "list").write_text(f"deb [signed-by={keys}] {DEBIAN} {suite} main\n")
        own = {
            "Dir::Etc::sourcelist": place / "list", "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": place / "lists", "Dir::Cache": place / "cache",
            "APT::Sandbox::User": "root", "Acquire::Languages": "none",
        }  # fmt: skip
        options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
        for command in (["update"], ["download", *packages]):
            done = subprocess.run(
                ["apt-get", *options, *command], cwd=place, capture_output=True, text=True,
                timeout=300,
            )  # fmt: skip
            if done.returncode:
                pytest.skip(f"Debian {suite} is not to be had: {done.stderr[-200:]}")
        for package in place.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, place / "root"], check=True, timeout=60)
            package.unlink()
        shutil.rmtree(place / "lists")

    return once(name, [suite, *packages], install) / "root"
