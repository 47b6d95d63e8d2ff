"""The table of the kinds of steps, which loads all of them: a plan loads those that it has."""

from __future__ import annotations

from mbuild.build.graph import BaseStep
from mbuild.build.steps.changed import ChangeWeights
from mbuild.build.steps.checking import CheckModel
from mbuild.build.steps.checkpoint import ConvertCheckpoint, ConvertProjector
from mbuild.build.steps.choosing import ChooseTypes
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.errors import CompareTensors
from mbuild.build.steps.gguf import ImportGGUF, MergeGGUF
from mbuild.build.steps.header import ReadHeader
from mbuild.build.steps.importances import MakeImatrix
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import AssembleManifest
from mbuild.build.steps.measuring import AskModel, MeasureModel
from mbuild.build.steps.pull import Pull
from mbuild.build.steps.quantize import Quantize
from mbuild.build.steps.shards import KeepShards, SplitWeights
from mbuild.build.steps.template import DetectTemplate
from mbuild.build.steps.unquantized import Unquantized
from mbuild.build.steps.weights import ConvertAdapter

KINDS: dict[str, type[BaseStep]] = {
    "ask": AskModel,
    "change": ChangeWeights,
    "check": CheckModel,
    "choose": ChooseTypes,
    "compare": CompareTensors,
    "config": MakeConfig,
    "convert": ConvertCheckpoint,
    "convert-adapter": ConvertAdapter,
    "convert-projector": ConvertProjector,
    "detect-template": DetectTemplate,
    "header": ReadHeader,
    "imatrix": MakeImatrix,
    "import": ImportGGUF,
    "keep-shards": KeepShards,
    "license": PutLayer,
    "manifest": AssembleManifest,
    "measure": MeasureModel,
    "merge": MergeGGUF,
    "messages": PutLayer,
    "params": MergeParameters,
    "pull": Pull,
    "quantize": Quantize,
    "split": SplitWeights,
    "system": PutLayer,
    "template": PutLayer,
    "unquantized": Unquantized,
}
"""Every kind of step by its name, as keys, the log and explanations have it."""
