"""The table of the kinds of steps, which loads all of them: a plan loads those that it has."""

from __future__ import annotations

from mbuild.build.graph import BaseStep
from mbuild.build.steps.checkpoint import ConvertCheckpoint, ConvertProjector
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF
from mbuild.build.steps.header import ReadHeader
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.quantize import Quantize
from mbuild.build.steps.shards import KeepShards, SplitWeights
from mbuild.build.steps.template import DetectTemplate
from mbuild.build.steps.weights import ConvertAdapter

KINDS: dict[str, type[BaseStep]] = {
    "config": MakeConfig,
    "convert": ConvertCheckpoint,
    "convert-adapter": ConvertAdapter,
    "convert-projector": ConvertProjector,
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
