"""Builds as one sees them: the graph's picture, and a page about one build."""

from mbuild.view.report.drawing import picture_of_build, picture_of_plan

__all__ = ["picture_of_build", "picture_of_plan"]
