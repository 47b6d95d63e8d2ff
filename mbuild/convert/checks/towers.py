"""A projector's tensors held against what its kind needs, before a weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.sizes import Sizes
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.layout import Slot
    from mbuild.convert.rows.projector import Projector
    from mbuild.gguf.model import KV

_BLOCK = regex(r"^(v|a)\.blk\.(\d+)\.(.+)$")
_OTHER = (
    "a shard is missing, or config.json belongs to another checkpoint;"
    " to build the text half alone: --text-only"
)
_SIZES = {
    "width": "embedding_length",
    "ff": "feed_forward_length",
    "text": "projection_dim",
    "heads": "attention.head_count",
    "layers": "block_count",
    "patch": "patch_size",
    "image": "image_size",
    "mels": "num_mel_bins",
}
"""Sizes in the lines of ``needs``, and the keys below ``clip.vision.`` or ``clip.audio.``."""


def check_towers(row: Projector, keys: Sequence[KV], tensors: Mapping[str, Lazy]) -> None:
    """Raise :class:`FormatError` unless all that the kind needs is there, and well shaped.

    Every layer has the same tensors, but for those that ``row.uneven`` names.
    """
    sizes = {name: _sizes(keys, name) for name in ("vision", "audio")}
    places = dict(_places(row, sizes, tensors))
    missing = [n for n, slot in places.items() if not slot.together and n not in tensors]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FormatError(
            f"the checkpoint has no tensor for {missing[0]}{others}, which a projector of"
            f" {row.names[0]} needs",
            hint=_OTHER,
        )
    _check_together(row, places, tensors)
    for name, slot in places.items():
        if name in tensors and slot.dims:
            _check_shape(name, slot, sizes[_encoder(name)], tensors[name])
    _check_layers(row, sizes, tensors)


def _encoder(name: str) -> str:
    return "audio" if name.startswith(("a.", "mm.a.")) else "vision"


def _sizes(keys: Sequence[KV], encoder: str) -> dict[str, int]:
    values = {kv.key: kv.value for kv in reversed(keys)}  # before a row corrects one
    found = {name: values.get(f"clip.{encoder}.{key}") for name, key in _SIZES.items()}
    return {name: value for name, value in found.items() if type(value) is int}


def _places(
    row: Projector, sizes: Mapping[str, Mapping[str, int]], tensors: Mapping[str, Lazy]
) -> Iterator[tuple[str, Slot]]:
    """What the row needs, with the layers' numbers, of those encoders that the file has."""
    for slot in slots(row.needs):
        encoder = sizes[_encoder(slot.name)]
        if "width" not in encoder:
            continue
        if ".blk." not in slot.name:
            yield slot.name, slot
            continue
        for layer in range(min(encoder.get("layers", 0), len(tensors))):
            yield slot.name.replace(".blk.", f".blk.{layer}."), slot


def _check_together(
    row: Projector, places: Mapping[str, Slot], tensors: Mapping[str, Lazy]
) -> None:
    sets: dict[str, list[str]] = {}
    for name, slot in places.items():
        if slot.together:
            sets.setdefault(slot.together, []).append(name)
    for names in sets.values():
        missing = [name for name in names if name not in tensors]
        if missing and len(missing) < len(names):
            there = next(name for name in names if name in tensors)
            raise FormatError(
                f"the checkpoint has no tensor for {missing[0]}, but {tensors[there].origin}"
                " is there",
                hint=_OTHER,
            )


def _check_shape(name: str, slot: Slot, known: Mapping[str, int], lazy: Lazy) -> None:
    sizes = Sizes("clip", (), {}, known)
    wanted = [sizes.dim(dim, 0) for dim in reversed(slot.dims)]
    shape = list(lazy.shape)
    while len(shape) > len(wanted) and shape[0] == 1:  # which GGUF does not tell from none
        del shape[0]
    fits = len(shape) == len(wanted) and all(
        dim is None or dim == size for dim, size in zip(wanted, shape, strict=True)
    )
    if not fits:
        asked = ", ".join("any" if dim is None else str(dim) for dim in wanted)
        raise FormatError(
            f"{lazy.origin} has the shape {list(lazy.shape)} as {name}, but config.json asks for"
            f" [{asked}]",
            hint="config.json may belong to another checkpoint",
        )


def _check_layers(
    row: Projector, sizes: Mapping[str, Mapping[str, int]], tensors: Mapping[str, Lazy]
) -> None:
    """Every layer has what the first has, and there is none beyond the last."""
    uneven = re.compile(row.uneven) if row.uneven else None
    layers: dict[tuple[str, int], dict[str, str]] = {}
    for name in tensors:
        match = _BLOCK.match(name)
        if match is None or (uneven is not None and uneven.search(name)):
            continue
        layers.setdefault((match[1], int(match[2])), {})[match[3]] = name
    for prefix, encoder in (("v", sizes["vision"]), ("a", sizes["audio"])):
        count = encoder.get("layers", 0)
        found = {number: tails for (kind, number), tails in layers.items() if kind == prefix}
        if not found:
            continue
        beyond = [number for number in found if number >= count]
        if beyond:
            name = next(iter(found[beyond[0]].values()))
            raise FormatError(
                f"{tensors[name].origin} is of layer {beyond[0]} (from 0), but config.json has"
                f" {count} layers",
                hint=_OTHER,
            )
        usual = found[max(found, key=lambda number: len(found[number]))]
        for number in range(count):
            lacking = usual.keys() - found.get(number, {}).keys()
            if lacking:
                raise FormatError(
                    f"the checkpoint has no tensor for {prefix}.blk.{number}.{min(lacking)}, which"
                    " other layers have",
                    hint=_OTHER,
                )
