"""Builds: from a Modelfile's bytes to a named model, and what a build would do."""

from mbuild.builder.build import build
from mbuild.builder.request import Request, read_recipe, resolve
from mbuild.history import modelfile_text

__all__ = ["Request", "build", "modelfile_text", "read_recipe", "resolve"]
