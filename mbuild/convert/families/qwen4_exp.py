"""Qwen 3.8 Flash Next (text): Qwen 3.5 with streams instead of norms, an indexer, and n-grams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.qwen3_5 import QWEN3_5_MOE
from mbuild.convert.families.qwen3_next import ATTENTION, EXPERTS
from mbuild.convert.read.dtypes import NUMPY
from mbuild.convert.read.joining import joined
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer
from mbuild.convert.rows.keys import U32, computed, entry, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.recurrent import DELTA_NET, squeezed
from mbuild.convert.rows.rules import Rule, each, plus_one
from mbuild.convert.rows.sizes import Size
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes

_CONSTANTS = {
    "layer_multipliers": "layer_multipliers",
    "head_offsets": "ngram_heads_offsets",
    "head_vocab_sizes": "ngram_heads_vocab_sizes",
}
"""Whole numbers of more than 32 bits that are keys in GGUF, by the key's and the tensor's name."""

_SHARD = regex(r"\.ngram_embedding\.shard_(\d{1,6})(?:\.\w+)?$")


def _of_ngrams(hp: Hyper) -> list[int]:
    """The layers (from 0) that add an embedding of the last tokens."""
    layers = hp.value("ple_layer_ids") or []
    if not isinstance(layers, list):
        raise FormatError("config.json: ple_layer_ids is not a list")
    return [as_integer(layer, "ple_layer_ids", low=1) - 1 for layer in layers]


def _constants(hp: Hyper) -> Iterator[KV]:
    grams, heads = hp.integer("ngram_size", low=2), hp.integer("heads_per_ngram", low=1)
    for key, ending in _CONSTANTS.items():
        found = next(
            (t for n, t in hp.tensors.items() if n.endswith(f"ple_embedding.{ending}")), None
        )
        if found is None:
            raise FormatError(f"the checkpoint has no 'ple_embedding.{ending}'")
        if NUMPY.get(found.dtype, "") not in ("<i4", "<i8"):
            raise FormatError(f"{found.origin} is {found.dtype}; whole numbers are needed")
        numbers = [int(number) for number in found.load().reshape(-1)]
        if min(numbers, default=0) < 0:
            raise FormatError(f"{found.origin} has a negative number")
        if len(numbers) != (grams if key == "layer_multipliers" else (grams - 1) * heads):
            raise FormatError(
                f"{found.origin} has {len(numbers)} numbers, but config.json says ngram_size"
                f" {grams} and heads_per_ngram {heads}"
            )
        name = f"qwen4exp.ple.{key}"
        yield KV(name, ValueType.ARRAY, numbers, ValueType.UINT64)


def _ngrams(hp: Hyper) -> Iterator[KV]:
    """How tokens become rows of the table of n-grams; nothing where no layer has one."""
    layers = _of_ngrams(hp)
    if not layers:
        return
    prefix = "qwen4exp.ple."
    yield entry(f"{prefix}layers", U32, layers, "ple_layer_ids")
    for key, name in (
        ("ngram_size", "ngram_size"),
        ("heads_per_ngram", "heads_per_ngram"),
        ("conv_kernel", "ple_conv_kernel_size"),
    ):
        yield KV(f"{prefix}{key}", U32, hp.integer(name, low=1))
    eos = hp.value("eos_token_id")
    eos = eos[-1] if isinstance(eos, list) and eos else eos
    yield KV(f"{prefix}eos_token_id", U32, as_integer(eos, "eos_token_id"))
    image = hp.optional_integer("image_token_id")
    if image is not None:
        yield KV(f"{prefix}image_token_id", U32, image)
    shard = next((t for n, t in hp.tensors.items() if _SHARD.search(n)), None)
    if shard is not None:
        width = KV("qwen4exp.embedding_length_per_layer_input", U32, shard.shape[-1])
        yield width
    yield from _constants(hp)


def _table(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """The shards of the table of n-grams one behind the other, in place of the last of them."""
    shards = {int(m[1]): (n, t) for n, t in hp.tensors.items() if (m := _SHARD.search(n))}
    if name != [n for n in hp.tensors if _SHARD.search(n)][-1]:
        return []
    count = hp.integer("split_ngram_parts", low=1)
    if sorted(shards) != list(range(count)):
        raise FormatError(
            f"the table of n-grams has {len(shards)} of {count} shards", hint="a shard is missing"
        )
    return [("per_layer_token_embd.weight", joined([shards[n][1] for n in range(count)]))]


def _indexer(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries and keys of the indexer in one matrix."""
    queries = hp.integer("indexer_n_heads", low=1) * hp.integer("indexer_head_dim", low=1)
    rows = lazy.shape[0] if lazy.shape else 0
    halves = lazy.split(0, (queries, max(rows - queries, 0)))
    layer = name.split(".")[2]
    return [
        (f"blk.{layer}.indexer.{part}_proj.weight", half)
        for part, half in zip("qk", halves, strict=True)
    ]


def _ratios(hp: Hyper) -> list[int]:
    ratio, kinds = hp.integer("indexer_compress_ratio"), hp.texts("layer_types") or []
    return [ratio if kind == "full_attention" else 0 for kind in kinds[: hp.blocks]]


def _has_ngrams(sizes: Sizes, layer: int) -> bool:
    layers = sizes.setting("ple_layer_ids")
    return isinstance(layers, list) and layer + 1 in layers


_STREAMS = {"hc_norm": "norm", "input_mix_weight_down": "down", "input_mix_weight_up": "up"}
_NAMES = {
    **{
        f"{theirs}_hyper_connection.{name}": f"hc_{ours}_{part}"
        for theirs, ours in (("attn", "attn"), ("mlp", "ffn"))
        for name, part in (*_STREAMS.items(), ("block_inject_weight", "inject"))
    },
    **{
        f"model.hyper_connection_mixer.{name}{ending}": f"output_hc_{part}.weight"
        for name, part in _STREAMS.items()
        for ending in ("", ".weight")
    },
    "self_attn.indexer.q_layernorm": "indexer.q_norm",
    "self_attn.indexer.k_layernorm": "indexer.k_norm",
    "ple.key_proj": "ple_key",
    "ple.value_proj": "ple_value",
    "ple.norm_key": "ple_norm_key",
    "ple.norm_query": "ple_norm_query",
    "ple.norm_conv": "ple_norm_conv",
    "ple.conv1d": "ple_conv1d",
}

_HC = "\n".join(
    f"hc_{part}_norm streams*width\nhc_{part}_down streams*width hc_rank\n"
    f"hc_{part}_up hc_rank streams*width\nhc_{part}_inject streams*width streams"
    for part in ("attn", "ffn")
)

QWEN4_EXP = replace(
    QWEN3_5_MOE,
    gguf="qwen4exp",
    names=("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
    keys=(
        *QWEN3_5_MOE.keys,
        u32("hyper_connection.count", "hc_count", low=2, required=True),
        u32("hyper_connection.low_rank", "hc_lowrank", low=1, required=True),
        u32("attention.indexer.head_count", "indexer_n_heads", low=1, required=True),
        u32("attention.indexer.key_length", "indexer_head_dim", low=1, required=True),
        u32("attention.indexer.top_k", "indexer_budget", low=1, required=True),
        computed("attention.compress_ratios", U32, _ratios),
        _ngrams,
    ),
    layout=TensorLayout(
        (
            *p.EMBEDDING,
            *p.HEAD_OR_TIED,
            *slots("""
                output_hc_norm streams*width
                output_hc_down streams*width hc_rank
                output_hc_up hc_rank streams*width
                ?ngrams per_layer_token_embd per_layer free
            """),
        ),
        (
            Group((*slots(_HC), *EXPERTS)),
            Group(
                (
                    *ATTENTION,
                    *slots("""
                        indexer.q_proj width index_heads*index_key
                        indexer.k_proj width index_key
                        indexer.q_norm index_key
                        indexer.k_norm index_key
                    """),
                ),
                p.none("recurrent"),
            ),
            Group(
                (*DELTA_NET, *slots("ssm_alpha width time\nssm_beta width time")),
                p.some("recurrent"),
            ),
            Group(
                slots("""
                    ple_key width streams*width
                    ple_value width width
                    ple_norm_key streams*width
                    ple_norm_query streams*width
                    ple_norm_conv streams*width
                    ple_conv1d ple_kernel streams*width
                """),
                _has_ngrams,
            ),
        ),
        (*p.RMS, "rope.dimension_sections", "hyper_connection.count"),
        sizes={
            "hc_rank": Size("hyper_connection.low_rank", ("hc_lowrank",)),
            "ple_kernel": Size("ple.conv_kernel", ("ple_conv_kernel_size",)),
        },
    ),
    renamed=placed(_NAMES),
    skip=(r"^(model\.)?mtp\.", *(rf"ple_embedding\.{ending}$" for ending in _CONSTANTS.values())),
    rules=(
        Rule(_SHARD, _table),
        Rule(regex(r"\.indexer\.index_qk_proj\.weight$"), _indexer),
        each(r"\.ple_norm_\w+\.weight$", plus_one),
        each(r"\.ple_conv1d\.weight$", squeezed),
        *QWEN3_5_MOE.rules,
    ),
    nextn="",
    counted=None,
)

ROWS = (QWEN4_EXP,)
