"""Shapes that contradict the config are found before the conversion starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.errors import FormatError

if TYPE_CHECKING:
    from mbuild.convert.hyper import Hyper
    from mbuild.convert.lazy import Lazy

_WIDE_ROWS = re.compile(
    r"^(token_embd|output|blk\.\d+\.(attn_q|attn_k|attn_v|attn_qkv|ffn_gate|ffn_up"
    r"|ffn_gate_exps|ffn_up_exps|ffn_gate_inp))\.weight$"
)
"""Tensors whose rows are as long as the hidden size."""

_WIDE_VECTORS = re.compile(r"^(output_norm|blk\.\d+\.(attn_norm|ffn_norm))\.weight$")
_VOCABULARY = ("token_embd.weight", "output.weight")
_PADDED = ("gemma3", "gemma3n", "gemma-embedding")
"""Families whose embedding has another number of rows than the config's vocab_size."""


def check_shape(hp: Hyper, name: str, lazy: Lazy) -> None:
    """Raise :class:`FormatError` if a tensor cannot be of the model that the config describes."""
    shape = lazy.shape
    if (_WIDE_ROWS.match(name) or _WIDE_VECTORS.match(name)) and shape[-1:] != (hp.width,):
        raise FormatError(
            f"{lazy.origin} has the shape {list(shape)}, but config.json the hidden size "
            f"{hp.width}",
            hint="config.json may be another checkpoint's",
        )
    if name in _VOCABULARY and hp.arch not in _PADDED:
        size = hp.optional_integer("vocab_size", low=1)
        if size is not None and shape[0] != size:
            raise FormatError(
                f"{lazy.origin} has {shape[0]} rows, but config.json the vocab_size {size}",
                hint="resize the embedding or correct config.json",
            )
