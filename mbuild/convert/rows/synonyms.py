"""The names of GGUF's tensors and what checkpoints call them: the published ``gguf`` package's.

To load the package's tables and to write out an architecture's names for every layer takes 50 ms.
So what they say is kept in a smaller form (:mod:`mbuild.core.kept_table`), and the number of a
layer is looked for in a name.
"""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mbuild.core.kept_table import KeptTable
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

_NUMBER = regex(r"(?<!\d)(?:0|[1-9]\d{0,5})(?!\d)")
_LAYER = "{bid}"
"""What the package writes for a layer's number."""

_TABLES = ("constants.py", "tensor_mapping.py")
_VERSION = 1
"""Of the form in which a table is kept."""

Row = tuple[str, tuple[str, ...]]
"""A tensor's name and its synonyms, ``{bid}`` for the number of a layer."""


class TensorNames:
    """The names and synonyms of one architecture's tensors."""

    def __init__(self, rows: Iterable[Row], blocks: int) -> None:
        """Later rows count before earlier ones; ``blocks`` is the number of layers."""
        self._blocks = blocks
        self._names: dict[str, str] = {}
        for name, synonyms_ in rows:
            self._names[name] = name
            self._names.update(dict.fromkeys(synonyms_, name))

    def find(self, name: str, endings: Sequence[str] = ()) -> str | None:
        """GGUF's name for a synonym, also without one of the endings, which the name then gets."""
        found = self._named(name)
        for ending in endings:
            if found is None and name.endswith(ending):
                found = self._named(name.removesuffix(ending))
                found = None if found is None else found + ending
        return found

    def _named(self, name: str) -> str | None:
        for match in _NUMBER.finditer(name):
            found = self._names.get(f"{name[: match.start()]}{_LAYER}{name[match.end() :]}")
            if found is not None and int(match[0]) < self._blocks:
                return found.replace(_LAYER, match[0])
        found = self._names.get(name)
        return None if found is None or _LAYER in found else found

    def synonyms(self, name: str) -> Iterator[str]:
        """What GGUF's name may be called in a checkpoint."""
        places = [(name, "")]
        places += [
            (f"{name[: match.start()]}{_LAYER}{name[match.end() :]}", match[0])
            for match in _NUMBER.finditer(name)
            if int(match[0]) < self._blocks
        ]
        for place, number in places:
            for synonym, found in self._names.items():
                if found == place and synonym != place:
                    yield synonym.replace(_LAYER, number)


def synonyms(arch: str, blocks: int) -> TensorNames | None:
    """Those of an architecture, None where the package does not know it."""
    rows, architectures, _ = _kept()
    if arch not in architectures:
        return None
    # Where there are no layers, what the package lists with those is not there either.
    apart, layers = architectures[arch]
    numbers = (*apart, *layers) if blocks else apart
    return TensorNames((rows[number] for number in numbers), blocks)


def of_places(places: Collection[str], blocks: int) -> TensorNames:
    """Those of an architecture that the package does not have: the synonyms of all tensors for
    which its layout has a place (GGUF's names, those of layers without ``blk.N.``)."""
    known = {name.removesuffix(".weight").removesuffix(".bias") for name in places}
    rows, _, (apart, layers) = _kept()
    wanted = [rows[number] for number in apart if rows[number][0] in known]
    for number in layers if blocks else ():
        if rows[number][0].removeprefix(f"blk.{_LAYER}.") in known:
            wanted.append(rows[number])
    return TensorNames(wanted, blocks)


@cache
def published(module: str) -> Any:
    """A module of the ``gguf`` package, without the rest of it: that loads YAML and more.

    The package's own file runs all of its modules, which takes five times as long as its tables.
    """
    package = ModuleType("mbuild_gguf")
    package.__path__ = [str(_place())]
    sys.modules.setdefault(package.__name__, package)
    return import_module(f"{package.__name__}.{module}")


def _place() -> Path:
    spec = find_spec("gguf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("gguf is not installed", name="gguf")
    return Path(spec.submodule_search_locations[0])


Numbers = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows of tensors that are there once, and of those that layers have."""

Table = tuple[list[Row], dict[str, Numbers], Numbers]
"""All rows, which of them each architecture has, and which count for one that is not there."""


@cache
def _kept() -> Table:
    texts = [hashlib.sha256((_place() / name).read_bytes()).digest() for name in _TABLES]
    key = repr((_VERSION, sys.implementation.cache_tag, texts)).encode()
    kept = KeptTable("names", hashlib.sha256(key).digest())
    table: Table | None = kept.read()
    if table is None:
        table = made_of_package()
        kept.keep(table)
    return table


def made_of_package() -> Table:
    """The table, made of the package's own."""
    constants, mapping = published("constants"), published("tensor_mapping").TensorNameMap
    rows: list[Row] = []
    known: dict[Row, int] = {}

    def numbers(listed: dict[Any, tuple[str, ...]], have: Collection[Any]) -> tuple[int, ...]:
        found = []
        for tensor, names in listed.items():
            if tensor in have:
                row = (constants.TENSOR_NAMES[tensor], tuple(names))
                if row not in known:
                    known[row] = len(rows)
                    rows.append(row)
                found.append(known[row])
        return tuple(found)

    apart, layers = dict(mapping.mappings_cfg), dict(mapping.block_mappings_cfg)
    architectures = {}
    for arch, name in constants.MODEL_ARCH_NAMES.items():
        have = constants.MODEL_TENSORS[arch]
        own = layers | mapping.arch_block_mappings_cfg.get(arch, {})
        architectures[name] = (numbers(apart, have), numbers(own, have))
    return rows, architectures, (numbers(apart, apart), numbers(layers, layers))
