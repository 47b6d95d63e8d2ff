"""Builds: from a Modelfile's bytes to a named model, and what a build would do."""

from mbuild.builder.build import build
from mbuild.builder.request import Request, check_unasked_names, read_recipe, resolve
from mbuild.history import modelfile_text

__all__ = ["Request", "build", "check_unasked_names", "modelfile_text", "read_recipe", "resolve"]
