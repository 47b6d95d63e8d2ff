"""The kinds of steps: what a build is made of. Each sees its inputs and the store."""

from mbuild.steps.config import MakeConfig
from mbuild.steps.gguf import ImportGGUF, MergeGGUF, Role
from mbuild.steps.layers import MergeParameters, PutLayer
from mbuild.steps.manifest import AssembleManifest
from mbuild.steps.quantize import PlannedTensor, Quantization, Quantize, preview, unquantized_size
from mbuild.steps.template import DetectTemplate
from mbuild.steps.weights import ConvertAdapter, ConvertCheckpoint

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
    "Quantization",
    "Quantize",
    "Role",
    "preview",
    "unquantized_size",
]
