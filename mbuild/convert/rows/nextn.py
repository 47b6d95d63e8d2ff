"""Layers for multi-token prediction that a checkpoint keeps apart, as ``mtp.*``.

GGUF has them behind the others, under the names of layers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import main_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHARED = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
"""Parts that stand outside the layers for multi-token prediction, and a layer's name for them."""

_IN_LAYER = re.compile(r"^(?:model\.)?mtp\.layers\.(\d{1,6})\.(.+)$")
_OUTSIDE = re.compile(rf"^(?:model\.)?mtp\.({'|'.join(SHARED)})\.(weight|bias)$")


def ahead_layers(names: Iterable[str]) -> int:
    """How many layers for multi-token prediction the names speak of."""
    return max((int(m[1]) + 1 for name in names if (m := _IN_LAYER.match(name))), default=0)


def behind(config: Mapping[str, Any], name: str) -> str:
    """A tensor's name with the layers for multi-token prediction behind the others; what they
    share is the first one's."""
    main = main_layers(config)
    match = _IN_LAYER.match(name)
    if match is not None:
        return f"model.layers.{main + int(match[1])}.{match[2]}"
    match = _OUTSIDE.match(name)
    return name if match is None else f"model.layers.{main}.{SHARED[match[1]]}.{match[2]}"
