"""Models split into several files by llama.cpp's gguf-split, and merging them.

Shards are named ``X-00001-of-00003.gguf``. The first holds the model's metadata;
each has ``split.no`` (uint16, from 0), ``split.count`` (uint16) and
``split.tensors.count`` (int32, of the whole model), as gguf-split.cpp writes them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import chain, islice
from pathlib import PurePath
from typing import Any

from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import FrozenValue, replace
from mbuild.gguf.model import Model
from mbuild.gguf.reader import GGUFFile

NO = "split.no"
COUNT = "split.count"
TENSORS_COUNT = "split.tensors.count"
SPLIT_KEYS = (NO, COUNT, TENSORS_COUNT)

_NAME = regex(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.S)
_OF_THE_MODEL = ("general.architecture", "general.file_type")
"""Keys that are equal wherever they stand; Ollama 0.35 refuses other sets too."""

_WIDE = regex(r"((?:.*\.)?blk)\.\d+(\.(?:attn_q|ffn_up)\.weight)")
"""Matrices of layers whose rows are as long as the model, or its encoder, is wide."""

_NAMED = 5  # of the shards that are missing
_MISSING_HINT = "download or copy all shards into one folder"


class ShardName(FrozenValue):
    """A shard's file name taken apart; ``number`` counts from 1 to ``count``."""

    prefix: str
    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.prefix}-{self.number:05d}-of-{self.count:05d}.gguf"

    @property
    def siblings(self) -> tuple[str, ...]:
        """The names of all shards of the model, in order."""
        return tuple(str(replace(self, number=n)) for n in range(1, self.count + 1))


def parse_shard_name(name: str) -> ShardName | None:
    """Take a file name (without folder) apart; ``None`` if it is not a shard's.

    ``number`` above ``count`` is not a shard's name either.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    shard = ShardName(match[1], int(match[2]), int(match[3]))
    return shard if 1 <= shard.number <= shard.count else None


def missing_shards(shard: ShardName, present: Collection[str]) -> tuple[str, ...]:
    """The names among a shard's siblings that are not in ``present``, in order."""
    return tuple(name for name in shard.siblings if name not in present)


def is_shard(file: GGUFFile) -> bool:
    """Whether a file is one of several by its metadata (gguf-split's merge leaves a count of 0)."""
    return (_number(file, COUNT) or 0) > 1


def merge(files: Sequence[GGUFFile]) -> Model:
    """The one model that the shards ``files``, given in any order, make up.

    Metadata is the first shard's without the ``split.*`` keys; tensors follow
    in shard order. llama.cpp's own merge keeps those keys and sets the count to
    0; its quantizer and Ollama drop them, and so does this, because then the
    result equals the file that was split. Raises :class:`FormatError` for a
    shard that is missing (named), given twice or of another model, for counts
    that disagree, a tensor in two shards, and whatever else tells that the shards are not
    of one model: alignment, architecture, file type, the width of its layers.
    """
    ordered = in_order(files)
    own = own_keys(ordered[0])
    models = [file.model() for file in ordered]
    return Model(
        tuple(kv for kv in models[0].metadata if kv.key not in own),
        tuple(chain.from_iterable(model.tensors for model in models)),
        tuple(len(model.tensors) for model in models) if len(models) > 1 else (),
    )


def in_order(files: Sequence[GGUFFile]) -> list[GGUFFile]:
    """The shards of one model by their numbers; raises as :func:`merge` does."""
    if not files:
        raise FormatError("no GGUF file to merge")
    ordered = _by_number(files) if len(files) > 1 or is_shard(files[0]) else list(files)
    if len(ordered) > 1:
        _check_one_model(ordered)
    _check_tensors(ordered)
    return ordered


def own_keys(first: GGUFFile) -> tuple[str, ...]:
    """The keys of a first shard that are about the split, and not about the model."""
    return (*SPLIT_KEYS, *(f"{first.get('general.architecture')}.{key}" for key in SPLIT_KEYS))


def shard_number(file: GGUFFile) -> int:
    """Which shard a file says that it is, from 0."""
    return _number(file, NO) or 0


def shard_count(file: GGUFFile) -> int:
    """How many shards a file says that its model has; 1 for a file that is no shard."""
    return max(1, _number(file, COUNT) or 1)


def _number(file: GGUFFile, key: str) -> int | None:
    """A ``split.*`` number; some writers prefix it with the architecture."""
    for name in (key, f"{file.get('general.architecture')}.{key}"):
        value: Any = file.get(name)
        if isinstance(value, int):
            return value
    return None


def _by_number(files: Sequence[GGUFFile]) -> list[GGUFFile]:
    """The shards by their number, after checking that each is there once."""
    count = _common_count(files)
    by_number: dict[int, GGUFFile] = {}
    for file in files:
        number = _number(file, NO)
        if number is None or not 0 <= number < count:
            raise FormatError(f"{file.name}: {NO} is {number}, not 0 to {count - 1}")
        shard = parse_shard_name(PurePath(file.name).name)
        if shard is not None and (shard.number, shard.count) != (number + 1, count):
            raise FormatError(
                f"{file.name}: the metadata says shard {number + 1} of {count}, the name says "
                f"{shard.number} of {shard.count}",
                hint="give the file its original name",
            )
        if number in by_number:
            raise FormatError(
                f"{file.name}: shard {number + 1} of {count} is given twice, "
                f"also as {by_number[number].name}"
            )
        by_number[number] = file
    if len(by_number) < count:
        raise FormatError(
            f"{files[0].name}: missing {_names(files[0], by_number, count)}", hint=_MISSING_HINT
        )
    return [by_number[number] for number in range(count)]


def _common_count(files: Sequence[GGUFFile]) -> int:
    counts = [_number(file, COUNT) for file in files]
    for file, count in zip(files, counts, strict=True):
        if count is None or count < 1:
            raise FormatError(
                f"{file.name}: {COUNT} is {count}, so it is not a shard of a split model",
                hint="give the shards of one model, and nothing else",
            )
        if count != counts[0]:
            raise FormatError(
                f"{file.name}: {COUNT} is {count}, but {counts[0]} in {files[0].name}",
                hint=_MIXED_HINT,
            )
    return counts[0] or 0


def _names(file: GGUFFile, there: Collection[int], count: int) -> str:
    """What to call shards that are not there: file names if the present one has such a name.

    A file may say any ``count``, so no more of them are looked for than are named.
    """
    shown = list(islice((number for number in range(count) if number not in there), _NAMED))
    rest = count - len(there) - len(shown)
    more = f" and {rest} more" if rest else ""
    shard = parse_shard_name(PurePath(file.name).name)
    if shard is None:
        return ", ".join(f"shard {number + 1} of {count}" for number in shown) + more
    return ", ".join(str(replace(shard, number=number + 1)) for number in shown) + more


_MIXED_HINT = "the shards are of different models"


def _check_one_model(files: Sequence[GGUFFile]) -> None:
    """Nothing that two shards say tells that they are of two models."""
    first = files[0]
    said: dict[str, tuple[Any, GGUFFile]] = {}
    for file in files:
        if file.alignment != first.alignment:
            raise FormatError(
                f"{file.name}: alignment {file.alignment}, but {first.alignment} in {first.name}",
                hint="split the model again with one version of gguf-split",
            )
        for key in _OF_THE_MODEL:
            if key in file.kvs:
                _check_said(said, key, file.get(key), file)
        for tensor in file.tensors:
            if layer := _WIDE.fullmatch(tensor.name):
                what = f"the length of the rows of {layer[1]}.*{layer[2]}"
                _check_said(said, what, tensor.dims[0], file)


def _check_said(
    said: dict[str, tuple[Any, GGUFFile]], what: str, value: Any, file: GGUFFile
) -> None:
    before, other = said.setdefault(what, (value, file))
    if before != value and other is not file:
        raise FormatError(
            f"{file.name}: {what} is {value}, but {before} in {other.name}", hint=_MIXED_HINT
        )


def _check_tensors(files: Sequence[GGUFFile]) -> None:
    """Tensor counts agree, and no tensor is in two shards."""
    home: dict[str, GGUFFile] = {}
    for file in files:
        for tensor in file.tensors:
            other = home.setdefault(tensor.name, file)
            if other is not file:
                raise FormatError(
                    f"{file.name}: tensor {tensor.name!r} is also in {other.name}",
                    hint=_MIXED_HINT,
                )
    if len(files) == 1:
        return
    for file in files:
        claimed = _number(file, TENSORS_COUNT)
        if claimed is not None and claimed != len(home):
            raise FormatError(
                f"{file.name}: {TENSORS_COUNT} is {claimed}, but the shards hold {len(home)}",
                hint="a shard is incomplete or of another model; download it again",
            )
