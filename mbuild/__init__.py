"""mbuild: a declarative build system for models, what ``docker build`` is for images."""

import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own would have to be loaded, by every program that asks for us

if TYPE_CHECKING:
    from typing import Any

    from mbuild.api import (
        BuildOptions,
        Built,
        Error,
        Events,
        InspectedTensor,
        Inspection,
        Verb,
        build,
        convert,
        inspect,
        merge,
        quantize,
    )

__all__ = [
    "BuildOptions",
    "Built",
    "Error",
    "Events",
    "InspectedTensor",
    "Inspection",
    "Verb",
    "__version__",
    "build",
    "convert",
    "inspect",
    "merge",
    "quantize",
]

_PACKAGES = ("build", "convert")
"""Functions whose names are those of packages, which therefore can be called."""


class _Callable(type(sys)):  # type: ignore[misc]
    """A package that is called like a function of the API, and is that function, too."""

    @property
    def _function(self) -> "Any":
        from mbuild import api

        return getattr(api, self.__name__.rpartition(".")[2])

    def __call__(self, *args: "Any", **kwargs: "Any") -> "Any":
        return self._function(*args, **kwargs)

    @property
    def events(self) -> "Any":
        """As :meth:`mbuild.api.verbs.Verb.events`."""
        return self._function.events

    @property
    def __signature__(self) -> "Any":
        """The function's, for ``help`` and editors."""
        from inspect import signature

        return signature(self._function)


class _Package(type(sys)):  # type: ignore[misc]
    """This package: a name of the API is loaded when somebody asks for it."""

    def __setattr__(self, name: str, value: object) -> None:
        # The import system sets a package's modules as its attributes.
        if name in _PACKAGES and type(value) is type(sys):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
