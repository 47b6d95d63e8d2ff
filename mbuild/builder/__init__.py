"""Builds: from a Modelfile's bytes to a named model, and what a build would do."""

from mbuild.builder.build import build
from mbuild.builder.request import Request, read_recipe, resolve

__all__ = ["Request", "build", "read_recipe", "resolve"]
