"""What llama.cpp's loader asks of a model: which tensors, and of which shapes.

A model that lacks one tensor, has one more or has one of another shape is not
loaded. So the whole list follows here from the architecture's name and its
metadata, and a checkpoint is held against it before a weight is read.

Source: ``load_arch_tensors`` and ``load_arch_hparams`` of llama.cpp's
``src/models`` (1 October 2026), one file an architecture.
"""

from mbuild.convert.layouts.table import LAYOUTS

__all__ = ["LAYOUTS"]
