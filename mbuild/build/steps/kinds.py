"""The table of the kinds of steps; each is loaded when it is asked for, as most builds have few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.build.graph import BaseStep

_PLACES = {
    "ask": "measuring.AskModel",
    "change": "changed.ChangeWeights",
    "check": "checking.CheckModel",
    "choose": "choosing.ChooseTypes",
    "compare": "errors.CompareTensors",
    "config": "config.MakeConfig",
    "convert": "checkpoint.ConvertCheckpoint",
    "convert-adapter": "weights.ConvertAdapter",
    "convert-projector": "checkpoint.ConvertProjector",
    "detect-template": "template.DetectTemplate",
    "header": "header.ReadHeader",
    "imatrix": "importances.MakeImatrix",
    "import": "gguf.ImportGGUF",
    "keep-shards": "shards.KeepShards",
    "license": "layers.PutLayer",
    "manifest": "manifest.AssembleManifest",
    "measure": "measuring.MeasureModel",
    "merge": "gguf.MergeGGUF",
    "messages": "layers.PutLayer",
    "params": "layers.MergeParameters",
    "pull": "pull.Pull",
    "quantize": "quantize.Quantize",
    "split": "shards.SplitWeights",
    "system": "layers.PutLayer",
    "template": "layers.PutLayer",
    "unquantized": "unquantized.Unquantized",
}
"""The module here and the class of each kind."""


class _Kinds(Mapping[str, "type[BaseStep]"]):
    def __getitem__(self, name: str) -> type[BaseStep]:
        module, _, kind = _PLACES[name].partition(".")
        found: type[BaseStep] = getattr(import_module(f"mbuild.build.steps.{module}"), kind)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


KINDS: Mapping[str, type[BaseStep]] = _Kinds()
"""Every kind of step by its name, as keys, the log and explanations have it."""
