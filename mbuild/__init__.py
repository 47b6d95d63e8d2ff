"""mbuild: a declarative build system for models, what ``docker build`` is for images."""

__version__ = "0.1.0"
