"""mbuild from Python: ``mbuild.build`` and its like, loaded when they are first used.

A third front end beside the command line and HTTP: what it is asked becomes a
:class:`mbuild.build.request.BuildRequest`, and everything behind that is the same.
"""

from mbuild.api.failing import Error
from mbuild.api.inspecting import InspectedTensor, Inspection, inspect
from mbuild.api.keywords import BuildOptions
from mbuild.api.making import Built, build, convert, merge, quantize
from mbuild.api.verbs import Events, Verb

__all__ = [
    "BuildOptions",
    "Built",
    "Error",
    "Events",
    "InspectedTensor",
    "Inspection",
    "Verb",
    "build",
    "convert",
    "inspect",
    "merge",
    "quantize",
]
