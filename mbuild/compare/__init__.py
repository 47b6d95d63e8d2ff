"""What differs between two models: layers, settings, texts, metadata, weights."""

from mbuild.compare.causes import Cause, causes
from mbuild.compare.models import Change, ModelDiff, WeightsDiff, diff
from mbuild.compare.sides import Side, gguf_side, model_side
from mbuild.compare.tensors import TensorDiff, TensorFacts

__all__ = [
    "Cause",
    "Change",
    "ModelDiff",
    "Side",
    "TensorDiff",
    "TensorFacts",
    "WeightsDiff",
    "causes",
    "diff",
    "gguf_side",
    "model_side",
]
