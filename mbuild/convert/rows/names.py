"""GGUF's names for a checkpoint's tensors: the ``gguf`` package's table, and what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.synonyms import of_places, published, synonyms
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Family

_BLOCK = regex(r"^blk\.\d+\.")
_LAYER = regex(r"\.(?:layers|layer|h|blocks)\.(\d+)\.")
_SUFFIXES = (".weight", ".bias")

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


def package_tables() -> tuple[dict[Any, tuple[str, ...]], dict[Any, tuple[str, ...]]]:
    """The ``gguf`` package's synonyms of all tensors: those outside the layers, those of layers."""
    table = published("tensor_mapping").TensorNameMap
    return dict(table.mappings_cfg), dict(table.block_mappings_cfg)


def _finder(hp: Hyper, row: Family) -> Callable[[str], str | None]:
    table = synonyms(hp.arch, hp.blocks) or of_places(row.layout.names, hp.blocks)
    own = dict(_own(row, hp.blocks))

    def find(name: str) -> str | None:
        return table.find(name, _SUFFIXES) or own.get(name)

    return find


def _own(row: Family, blocks: int) -> Iterator[tuple[str, str]]:
    endings = (("", ""), ("", ".weight"), *((suffix, suffix) for suffix in _SUFFIXES))
    for source, name in LAYER_NAMES.items():
        for before, after in endings:
            if f"{name}{after}" in row.layout.names:
                for layer in range(blocks):
                    yield f"model.layers.{layer}.{source}{before}", f"blk.{layer}.{name}{after}"
