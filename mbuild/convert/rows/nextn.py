"""Layers for multi-token prediction that a checkpoint keeps apart, as ``mtp.*``.

GGUF has them behind the others, under the names of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import main_layers
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mbuild.convert.conversion import Conversion
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Family

SHARED = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
"""Parts that stand outside the layers for multi-token prediction, and a layer's name for them."""

_IN_LAYER = regex(r"^(?:model\.)?mtp\.layers\.(\d{1,6})\.(.+)$")
_OUTSIDE = regex(rf"^(?:model\.)?mtp\.({'|'.join(SHARED)})\.(weight|bias)$")


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


_LAYER = regex(r"^(?:model\.)?layers\.(\d{1,6})\.")
_SHARED_BY_BOTH = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
"""What a file of the layers for multi-token prediction alone has beside them."""


def of_layers(
    row: Family, hp: Hyper, tensors: Mapping[str, Lazy], options: Conversion
) -> Mapping[str, Lazy]:
    """The tensors without the layers for multi-token prediction (``--no-mtp``), or those alone.

    ``tensors`` have their names within the family. Raises :class:`UnsupportedError` for a family
    without such layers, and for ``--mtp`` of a checkpoint that was saved without them.
    """
    if not (options.no_mtp or options.mtp):
        return tensors
    flag = "--no-mtp" if options.no_mtp else "--mtp"
    if not row.nextn and row.counted is None:
        raise UnsupportedError(
            f"{flag}: {hp.arch} models have no layers for multi-token prediction",
            hint="leave the option out",
        )
    ahead = {
        name
        for name in tensors
        if (match := _LAYER.match(name)) is not None and int(match[1]) >= hp.main
    }
    if options.no_mtp:
        return {name: lazy for name, lazy in tensors.items() if name not in ahead}
    if not ahead:
        raise UnsupportedError(
            "--mtp: the checkpoint has no layers for multi-token prediction",
            hint="it was saved without them: take them from the base model",
        )
    return {n: lazy for n, lazy in tensors.items() if n in ahead or n in _SHARED_BY_BOTH}
