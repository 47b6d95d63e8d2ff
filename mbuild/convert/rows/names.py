"""GGUF's names for a checkpoint's tensors: the ``gguf`` package's table, and what it lacks."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from gguf import TensorNameMap

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Family

_BLOCK = regex(r"^blk\.\d+\.")
_LAYER = regex(r"\.(?:layers|layer|h|blocks)\.(\d+)\.")
_SUFFIXES = (".weight", ".bias")
_TABLE = Lock()

LAYER_NAMES = {
    "eh_proj": "nextn.eh_proj",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "embed_tokens": "nextn.embed_tokens",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "block_sparse_moe.input_linear": "ffn_gate_up_exps",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "block_sparse_moe.experts.gate_up_proj": "ffn_gate_up_exps",
    "block_sparse_moe.experts.down_proj": "ffn_down_exps",
    "shared_mlp.input_linear": "ffn_up_shexp",
    "shared_mlp.output_linear": "ffn_down_shexp",
    "mlp.experts.e_score_correction": "exp_probs_b",
    "self_attn.index_q_proj": "indexer.q_proj",
    "self_attn.index_k_proj": "indexer.k_proj",
    "self_attn.index_q_norm": "indexer.q_norm",
    "self_attn.index_k_norm": "indexer.k_norm",
    "final_layernorm": "layer_output_norm",
    "post_attention_layernorm": "post_attention_norm",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
}
"""Names below ``model.layers.N.`` that the published ``gguf`` package does not know for every
architecture that has a place for them, and what follows ``blk.N.`` in GGUF's."""


_PART = regex(r"^(?:model\.|transformer\.)(?:layers|h|blocks)\.(\d{1,6})\.(.+?)(\.weight|\.bias)?$")


def placed(names: Mapping[str, str]) -> Callable[[Mapping[str, Any], str], str]:
    """GGUF's names of parts of layers, for those that no table has; ``.weight`` ends a parameter's
    name, unless that has a dot at its end."""

    def renamed(config: Mapping[str, Any], name: str) -> str:
        match = _PART.match(name)
        inner = names.get(match[2]) if match is not None else names.get(name)
        if inner is None:
            return name
        ending = "" if inner.endswith(".") or match is None else match[3] or ".weight"
        inner = inner.removesuffix(".")
        return f"blk.{match[1]}.{inner}{ending}" if match is not None else inner

    return renamed


def name_map(hp: Hyper, row: Family) -> Callable[[str], str]:
    """GGUF's name for a checkpoint's; the function raises :class:`UnsupportedError` if none.

    A rule may give GGUF's name itself, where no table has the tensor.
    """
    find = _finder(hp, row)
    places = row.layout.names

    def name_of(name: str) -> str:
        found = find(name)
        if found is None and _BLOCK.sub("", name) in places:
            return name
        if found is None:
            layer = _LAYER.search(name)
            beyond = layer is not None and int(layer[1]) >= hp.blocks
            raise UnsupportedError(
                f"tensor {name!r} has no place in {hp.arch} models of {hp.blocks} layers",
                hint="num_hidden_layers in config.json is too small"
                if beyond
                else "config.json may belong to another checkpoint, or the training added a layer"
                " that llama.cpp does not know",
            )
        return found

    return name_of


def synonyms(arch: str, blocks: int) -> TensorNameMap | None:
    """The ``gguf`` package's table of an architecture, None where it does not know it.

    The package writes what is special for one architecture into a table that all later ones
    start from, so that is put back.
    """
    constants, tables = published("constants"), published("tensor_mapping")
    known = {name: arch for arch, name in constants.MODEL_ARCH_NAMES.items()}
    if arch not in known:
        return None
    with _TABLE:
        shared = tables.TensorNameMap.block_mappings_cfg
        before = dict(shared)
        try:
            made: TensorNameMap = tables.get_tensor_name_map(known[arch], blocks)
            return made
        finally:
            shared.clear()
            shared.update(before)


@cache
def published(module: str) -> Any:
    """A module of the ``gguf`` package, without the rest of it: that loads YAML and more.

    The package's own file runs all of its modules, which takes five times as long as its tables.
    """
    place = find_spec("gguf")
    if place is None:
        raise ModuleNotFoundError("gguf is not installed", name="gguf")
    package = ModuleType("mbuild_gguf")
    package.__path__ = list(place.submodule_search_locations or ())
    sys.modules.setdefault(package.__name__, package)
    return import_module(f"{package.__name__}.{module}")


def package_tables() -> tuple[dict[Any, tuple[str, ...]], dict[Any, tuple[str, ...]]]:
    """The ``gguf`` package's synonyms of all tensors: those outside the layers, those of layers."""
    with _TABLE:
        table = published("tensor_mapping").TensorNameMap
        return dict(table.mappings_cfg), dict(table.block_mappings_cfg)


def _finder(hp: Hyper, row: Family) -> Callable[[str], str | None]:
    table = synonyms(hp.arch, hp.blocks) or _from_places(row, hp.blocks)
    own = dict(_own(row, hp.blocks))

    def find(name: str) -> str | None:
        return table.get_name(name, try_suffixes=_SUFFIXES) or own.get(name)

    return find


def _own(row: Family, blocks: int) -> Iterator[tuple[str, str]]:
    endings = (("", ""), ("", ".weight"), *((suffix, suffix) for suffix in _SUFFIXES))
    for source, name in LAYER_NAMES.items():
        for before, after in endings:
            if f"{name}{after}" in row.layout.names:
                for layer in range(blocks):
                    yield f"model.layers.{layer}.{source}{before}", f"blk.{layer}.{name}{after}"


def _from_places(row: Family, blocks: int) -> TensorNameMap:
    """The table of an architecture that the package does not have: its synonyms of all tensors
    for which the layout has a place."""
    constants, tables = published("constants"), published("tensor_mapping")
    table: TensorNameMap = tables.get_tensor_name_map(constants.MODEL_ARCH.LLAMA, 0)
    table.mapping = {}
    places = {name.removesuffix(".weight").removesuffix(".bias") for name in row.layout.names}
    everywhere = (
        (table.mappings_cfg, range(1), ""),
        (table.block_mappings_cfg, range(blocks), "blk.{bid}."),
    )
    for synonyms, layers, prefix in everywhere:
        for tensor, names in synonyms.items():
            name = constants.TENSOR_NAMES[tensor]
            if name.removeprefix(prefix) not in places:
                continue
            for layer in layers:
                found = (tensor, name.format(bid=layer))
                table.mapping |= {n.format(bid=layer): found for n in (name, *names)}
    return table
