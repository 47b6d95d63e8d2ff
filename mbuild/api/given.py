"""What Python may give of the tables of options. Written by python docs/generate.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class TableOptions(TypedDict, total=False):
    """The options of the tables, under the names that docs/cli.md has with ``-`` for ``_``."""

    recipe: str
    imatrix: str | None
    imatrix_from: str | None
    imatrix_chunks: int | str | None
    pure: bool
    leave_output_tensor: bool
    output_tensor_type: str | None
    token_embedding_type: str | None
    tensor_type: Sequence[str]
    allow_requantize: bool
    override_kv: Sequence[str]
    include_weights: Sequence[str]
    exclude_weights: Sequence[str]
    prune_layers: str | None
    split: str | None
    split_layers: int | str | None
    keep_split: bool
    keep_quantized: bool
    dequantize: bool
    fp8_as_q8: bool
    fuse_gate_up_exps: bool
    fuse_qkv: bool
    no_mtp: bool
    mtp: bool
    sentence_transformers_dense_modules: bool
    model_name: str | None
    text_only: bool
    mmproj: bool
    mmproj_outtype: str | None
