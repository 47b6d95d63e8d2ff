"""Importing numba without the settings that lie in the working directory.

numba reads ``.numba_config.yaml`` there when it is imported and whenever it compiles
(``numba/core/config.py``), if it finds a YAML library. That folder may be somebody else's, a
downloaded model's; what is in it has no say in how kernels are compiled. The environment has.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_CONFIG = "numba.core.config"
"""The module of numba that reads its settings."""


class _Finder:
    """Finds numba's module of settings alone, and runs it so that it finds no YAML library."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As :class:`importlib.abc.MetaPathFinder` has it."""
        spec = PathFinder.find_spec(name, path, target) if name == _CONFIG else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_without_yaml(module: ModuleType) -> None:
                module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
                run(module)

            spec.loader.exec_module = run_without_yaml  # type: ignore[method-assign]
        return spec


def _import(name: str, *arguments: Any, **named: Any) -> Any:
    """``__import__`` for that one module; others that run meanwhile keep their own."""
    if name == "yaml":
        raise ImportError("settings are taken from the environment alone", name=name)
    return builtins.__import__(name, *arguments, **named)


def import_numba() -> None:
    """Import numba so that it never reads settings from the working directory.

    Raises ImportError where it is not installed. A numba that is imported already, by a
    program that uses mbuild as a library, takes the environment's settings from now on.
    """
    warnings.filterwarnings("ignore", "A Numba config file is found")
    sys.meta_path.insert(0, _Finder)
    try:
        config: Any = importlib.import_module(_CONFIG)
    finally:
        sys.meta_path.remove(_Finder)
    config._config_fname = ""  # which no file is called: it is looked for again and again
    config.reload_config()
