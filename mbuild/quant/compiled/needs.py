"""What compiled kernels need of this machine: numba, llvmlite, memory that can be run.

Packages that are missing or broken fail in many ways when they are imported, and a system may
refuse to run what a process wrote. All that becomes :class:`Unavailable`, whose reader goes on
without. Errors of mbuild's own modules do not: they are faults.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from mbuild.quant.compiled.isolation import import_numba
from mbuild.quant.engine import Unavailable
from mbuild.quant.kernels import target


def need_llvmlite() -> None:
    """Import llvmlite; raises :class:`Unavailable`."""
    with _imported("llvmlite"):
        importlib.import_module("llvmlite")
        importlib.import_module("llvmlite.binding")


def find_numba(lack: str) -> None:
    """Find numba and llvmlite without importing them; raises :class:`Unavailable`.

    ``lack`` is why the kernels that came with mbuild are not enough, in words.
    """
    for package in ("llvmlite", "numba"):
        try:
            target.version_of(package)
        except (ImportError, OSError) as error:
            reason = unusable(package, error)
            if lack:
                reason = Unavailable(f"{lack}, and {reason.reason}", reason.remedy)
            raise reason from error


def need_numba() -> None:
    """Import numba, and the compiler that is made of its parts; raises :class:`Unavailable`."""
    need_llvmlite()
    with _imported("numba"):
        import_numba()
    try:
        importlib.import_module("mbuild.quant.compiled.compiler")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("numba", "llvmlite"):
            raise
        raise unusable("numba", error) from error


@contextmanager
def _imported(package: str) -> Iterator[None]:
    """Whatever goes wrong while a package is imported is the package's fault."""
    try:
        yield
    except Exception as error:
        raise unusable(package, error) from error


def unusable(package: str, error: Exception) -> Unavailable:
    """That a package cannot be used, because of this error, and what to do about it."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return Unavailable(f"{package} is not installed", f"pip install {package}")
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return Unavailable(
        f"{package} cannot be imported ({words[:200]})",
        "pip install --force-reinstall numba llvmlite",
    )


@contextmanager
def machine_code() -> Iterator[None]:
    """What LLVM or the system refuses, as :class:`Unavailable`."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        words = " ".join(str(error).split())
        raise Unavailable(
            f"machine code cannot be made or loaded ({words[:200]})",
            "let programs run memory that they wrote (SELinux: execmem),"
            " or pip install --force-reinstall llvmlite",
        ) from error
