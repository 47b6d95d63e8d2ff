"""The kinds of steps: what a build is made of. Each sees its inputs and the store."""

from __future__ import annotations

from mbuild.build.graph import BaseStep
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF, Role
from mbuild.build.steps.header import HeaderPart, ReadHeader
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.quantize import Quantize
from mbuild.build.steps.shards import KeepShards, SplitWeights
from mbuild.build.steps.template import DetectTemplate
from mbuild.build.steps.weights import ConvertAdapter, ConvertCheckpoint, ConvertOptions

__all__ = [
    "KINDS",
    "AssembleManifest",
    "ConvertAdapter",
    "ConvertCheckpoint",
    "ConvertOptions",
    "DetectTemplate",
    "HeaderPart",
    "ImportGGUF",
    "KeepShards",
    "MakeConfig",
    "MergeGGUF",
    "MergeParameters",
    "PutLayer",
    "Quantize",
    "ReadHeader",
    "Role",
    "SplitWeights",
]


KINDS: dict[str, type[BaseStep]] = {
    "config": MakeConfig,
    "convert": ConvertCheckpoint,
    "convert-adapter": ConvertAdapter,
    "detect-template": DetectTemplate,
    "header": ReadHeader,
    "import": ImportGGUF,
    "keep-shards": KeepShards,
    "license": PutLayer,
    "manifest": AssembleManifest,
    "merge": MergeGGUF,
    "messages": PutLayer,
    "params": MergeParameters,
    "quantize": Quantize,
    "split": SplitWeights,
    "system": PutLayer,
    "template": PutLayer,
}
"""Every kind of step by its name, as keys, the log and explanations have it."""
