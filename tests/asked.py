"""Builds as a program asks for them: of a recipe, for one model."""

from __future__ import annotations

from typing import Any

from mbuild.build.prepare import Build
from mbuild.build.request import BuildRequest, Target
from mbuild.build.sources.resolve import Context
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe


def asked(recipe: Recipe, context: Context, *names: ModelName, **fields: Any) -> Build:
    """The build of one model of these names, with other fields of its request."""
    return Build(BuildRequest((Target(names),), **fields), recipe, context)
