"""The kinds of steps: what a build is made of. Each sees its inputs and the store."""

from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF, Role
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.quantize import (
    PlannedTensor,
    Quantize,
    preview,
    unquantized_size,
)
from mbuild.build.steps.template import DetectTemplate
from mbuild.build.steps.weights import ConvertAdapter, ConvertCheckpoint

__all__ = [
    "AssembleManifest",
    "ConvertAdapter",
    "ConvertCheckpoint",
    "DetectTemplate",
    "ImportGGUF",
    "MakeConfig",
    "MergeGGUF",
    "MergeParameters",
    "PlannedTensor",
    "PutLayer",
    "Quantize",
    "Role",
    "preview",
    "unquantized_size",
]
