"""What differs between two models: layers, settings, texts, metadata, weights."""

from mbuild.models.compare.causes import DifferenceCause, causes
from mbuild.models.compare.measures import measures_of
from mbuild.models.compare.models import ChangedValue, ModelDiff, WeightsDiff, diff
from mbuild.models.compare.sides import Side, gguf_side, model_side
from mbuild.models.compare.tensors import TensorDiff, TensorFacts

__all__ = [
    "ChangedValue",
    "DifferenceCause",
    "ModelDiff",
    "Side",
    "TensorDiff",
    "TensorFacts",
    "WeightsDiff",
    "causes",
    "diff",
    "gguf_side",
    "measures_of",
    "model_side",
]
