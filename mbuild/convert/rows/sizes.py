"""The sizes that tensors' shapes are made of: read from a model's metadata as llama.cpp reads them.

Each has a short name, which the table of layouts uses, and the names that
config.json may have for it, so that a message can say where a number stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import HEAD_NAMES, LAYER_NAMES, WIDTH_NAMES
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.gguf.model import KV

LAUREL_RANK = 64
"""Gemma 3n's: llama.cpp reads it from no key (``llama-hparams.h``)."""


class Size(NamedTuple):
    """One size.

    Attributes:
        key: GGUF's key without the architecture's name, or a whole key that has a colon in front.
        names: what config.json may call it, in order of preference.
        default: the value without the key, from the other sizes of that layer; None: not known.
        otherwise: what counts in words where config.json has none of the names.
    """

    key: str
    names: tuple[str, ...]
    default: Callable[[Sizes, int], int | None] = lambda sizes, layer: 0
    otherwise: str = ""


def _head(sizes: Sizes, layer: int) -> int | None:
    heads = sizes.value("heads", 0)
    return (sizes.value("width", layer) or 0) // heads if heads else None


def _expert_width(sizes: Sizes, layer: int) -> int | None:
    used = sizes.value("used", layer)
    return (sizes.value("ff", layer) or 0) // used if used else None


def _recurrent(sizes: Sizes, layer: int) -> int | None:
    """All layers but every n-th and those for multi-token prediction."""
    interval = sizes.value("interval", layer)
    main = (sizes.value("layers", layer) or 0) - (sizes.value("nextn", layer) or 0)
    return int(bool(interval) and layer < main and (layer + 1) % (interval or 1) != 0)


def _laurel(sizes: Sizes, layer: int) -> int | None:
    return sizes.given("laurel_rank", LAUREL_RANK)


def _draft(sizes: Sizes, layer: int) -> int | None:
    """The draft's tokens, which may be some of its target's."""
    return sizes.given("draft_vocab_size", sizes.value("tokens", layer) or 0) or None


_FEED_FORWARD = ("intermediate_size", "n_inner", "hidden_dim", "block_ff_dim")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

SIZES: Mapping[str, Size] = {
    "layers": Size("block_count", LAYER_NAMES),
    "width": Size("embedding_length", WIDTH_NAMES),
    "context": Size("context_length", ("max_position_embeddings", "n_positions", "n_ctx")),
    "ff": Size("feed_forward_length", _FEED_FORWARD),
    "heads": Size("attention.head_count", HEAD_NAMES),
    "kv": Size(
        "attention.head_count_kv",
        ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
        lambda sizes, layer: sizes.value("heads", layer),
        "num_attention_heads",
    ),
    "key": Size(
        "attention.key_length", ("head_dim",), _head, "hidden_size over num_attention_heads"
    ),
    "value": Size(
        "attention.value_length", ("head_dim",), _head, "hidden_size over num_attention_heads"
    ),
    "rotary": Size(
        "rope.dimension_count",
        ("partial_rotary_factor", "rotary_pct", "qk_rope_head_dim"),
        lambda sizes, layer: sizes.value("key", layer),
        "the width of a head",
    ),
    "experts": Size("expert_count", _EXPERTS),
    "used": Size("expert_used_count", ("num_experts_per_tok", "moe_k", "moe_top_k")),
    "expert_ff": Size(
        "expert_feed_forward_length", ("moe_intermediate_size", *_FEED_FORWARD), _expert_width
    ),
    "routed_ff": Size(
        "expert_feed_forward_length",
        ("moe_intermediate_size", *_FEED_FORWARD),
        lambda sizes, layer: sizes.value("ff", layer),
    ),
    "shared_ff": Size(
        "expert_shared_feed_forward_length",
        ("shared_expert_intermediate_size", "shared_intermediate_size", *_FEED_FORWARD),
    ),
    "shared": Size("expert_shared_count", ("n_shared_experts", "num_shared_experts")),
    "dense": Size(
        "leading_dense_block_count",
        ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"),
    ),
    "step": Size("interleave_moe_layer_step", ("interleave_moe_layer_step",)),
    "every": Size("moe_every_n_layers", ("moe_every_n_layers",)),
    "q_rank": Size("attention.q_lora_rank", ("q_lora_rank",)),
    "kv_rank": Size("attention.kv_lora_rank", ("kv_lora_rank",)),
    "key_mla": Size("attention.key_length_mla", ("qk_nope_head_dim",)),
    "value_mla": Size("attention.value_length_mla", ("v_head_dim",)),
    "kernel": Size("shortconv.l_cache", ("conv_L_cache",)),
    "conv": Size("ssm.conv_kernel", ("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel")),
    "inner": Size("ssm.inner_size", ("mamba_d_ssm", "mamba_expand", "intermediate_size")),
    "state": Size("ssm.state_size", ("linear_key_head_dim", "mamba_d_state", "state_size")),
    "time": Size(
        "ssm.time_step_rank", ("linear_num_value_heads", "mamba_dt_rank", "time_step_rank")
    ),
    "groups": Size("ssm.group_count", ("linear_num_key_heads", "mamba_n_groups", "n_groups")),
    "interval": Size("full_attention_interval", ("full_attention_interval",)),
    "recurrent": Size("attention.recurrent_layers", ("layer_types",), _recurrent),
    "index_heads": Size("attention.indexer.head_count", ("index_n_heads",)),
    "index_key": Size("attention.indexer.key_length", ("index_head_dim",)),
    "streams": Size("hyper_connection.count", ("hc_mult",)),
    "ratio": Size("attention.compress_ratios", ("compress_ratios",)),
    "latent": Size("moe_latent_size", ("moe_latent_size",)),
    "expert_width": Size(
        "moe_latent_size", ("moe_latent_size",), lambda sizes, layer: sizes.value("width", layer)
    ),
    "key_swa": Size("attention.key_length_swa", ("head_dim",)),
    "value_swa": Size("attention.value_length_swa", ("head_dim",)),
    "sliding": Size("attention.sliding_window_pattern", ("layer_types",)),
    "borrowed": Size("attention.shared_kv_layers", ("num_kv_shared_layers",)),
    "stack": Size("hrm.layers_per_stack", ("num_layers_per_stack", "num_hidden_layers")),
    "steps": Size(
        "",
        (),
        lambda sizes, layer: max(64, (sizes.value("width", layer) or 0) // 16),
        "hidden_size over 16, at least 64:",
    ),
    "free": Size("", (), lambda sizes, layer: None),
    "out": Size("embedding_length_out", ("backbone_hidden_size",)),
    "kda": Size("kda.head_dim", ("linear_attn_config",)),
    "wkv": Size("wkv.head_size", ("head_size", "head_dim")),
    "mix_extra": Size("time_mix_extra_dim", ("lora_rank_tokenshift",)),
    "decay_extra": Size("time_decay_extra_dim", ("lora_rank_decay",)),
    "decay_rank": Size("attention.decay_lora_rank", ("lora_rank_decay", "decay_low_rank_dim")),
    "iclr_rank": Size("attention.iclr_lora_rank", ("lora_rank_iclr", "a_low_rank_dim")),
    "value_rank": Size(
        "attention.value_residual_mix_lora_rank",
        ("lora_rank_value_residual_mix", "v_low_rank_dim"),
    ),
    "gate_rank": Size("attention.gate_lora_rank", ("lora_rank_gate", "gate_low_rank_dim")),
    "buckets": Size("attention.relative_buckets_count", ("relative_attention_num_buckets",)),
    "decoder": Size("decoder_block_count", ("num_decoder_layers",)),
    "indexed": Size("attention.indexer.types", ("indexer_types",), lambda sizes, layer: 1),
    "altup": Size("altup.num_inputs", ("altup_num_inputs",)),
    "per_layer": Size("embedding_length_per_layer_input", ("hidden_size_per_layer_input",)),
    "laurel": Size("laurel_rank", ("laurel_rank",), _laurel),
    "nextn": Size("nextn_predict_layers", ("num_nextn_predict_layers",)),
    "kv_rank_swa": Size("attention.kv_lora_rank_swa", ("swa_kv_lora_rank",)),
    "key_mla_swa": Size("attention.key_length_mla_swa", ("swa_qk_nope_head_dim",)),
    "value_mla_swa": Size("attention.value_length_mla_swa", ("swa_v_head_dim",)),
    "grams": Size("ple.layers", ("ple_layer_ids",)),
    "rank": Size("adapters.lora_rank", ("max_lora_rank",)),
    "slots": Size("", ("num_adapters",), lambda sizes, layer: sizes.given("num_adapters", 0) + 1),
    "target": Size("target_hidden_size", ("target_hidden_size",)),
    "seen": Size("target_layers", ("target_layer_ids",)),
    "markov": Size("", ("markov_rank",)),
    "draft": Size("", ("draft_vocab_size",), _draft),
    "labels": Size("classifier.output_labels", ("id2label",), lambda sizes, layer: 1),
    "tokens": Size(":tokenizer.ggml.tokens", ("vocab_size",), lambda sizes, layer: None),
    "types": Size(
        ":tokenizer.ggml.token_type_count", ("type_vocab_size",), lambda sizes, layer: None
    ),
}


class Sizes:
    """A model's sizes.

    Args:
        arch: GGUF's name of the architecture.
        entries: the metadata, as far as it is known.
        config: config.json as it is in the checkpoint.
        given: sizes that the metadata does not have yet.
        own: those that this architecture alone has, beside :data:`SIZES`.
    """

    def __init__(
        self,
        arch: str,
        entries: Sequence[KV],
        config: Mapping[str, Any],
        given: Mapping[str, int] | None = None,
        own: Mapping[str, Size] | None = None,
    ) -> None:
        self._config, self._sizes = config, given or {}
        self.known: Mapping[str, Size] = {**SIZES, **(own or {})}
        self._values = {kv.key.removeprefix(f"{arch}."): kv.value for kv in entries}

    def value(self, name: str, layer: int) -> int | None:
        """A size in one layer, None where it is not known."""
        if name in self._sizes:
            return self._sizes[name]
        size = self.known[name]
        found = self._values.get(size.key.removeprefix(":"))
        if found is None:
            return size.default(self, layer)
        if isinstance(found, int):
            return found
        if name in ("labels", "tokens", "seen"):
            return len(found)
        return int(found[layer]) if 0 <= layer < len(found) else 0

    def given(self, name: str, default: int) -> int:
        """A number of config.json that no metadata has."""
        value = self._config.get(name)
        return value if type(value) is int else default

    def setting(self, name: str) -> Any:
        """What config.json says under a name, None where it says nothing."""
        return self._config.get(name)

    def dim(self, expression: str, layer: int) -> int | None:
        """A sum of products of sizes and numbers, ``heads*key+2``; None if one is unknown."""
        total = 0
        for product in expression.split("+"):
            factors = [self._factor(factor, layer) for factor in product.split("*")]
            known = [factor for factor in factors if factor is not None]
            if len(known) < len(factors):
                return None
            total += prod(known)
        return total

    def _factor(self, text: str, layer: int) -> int | None:
        if text.startswith("-"):
            value = self._factor(text[1:], layer)
            return None if value is None else -value
        if "/" in text:
            above, below = (self._factor(part, layer) for part in text.split("/"))
            return None if above is None or not below else above // below
        return int(text) if text.isdecimal() else self.value(text, layer)

    def names(self, expression: str) -> list[str]:
        """The sizes that an expression is made of, in order."""
        for sign in "*/-":
            expression = expression.replace(sign, "+")
        return [part for part in expression.split("+") if part and not part.isdecimal()]

    def described(self, name: str, layer: int) -> str:
        """A size under config.json's name, with its value there."""
        size, value = self.known[name], self.value(name, layer)
        found = next((n for n in size.names if self._config.get(n) is not None), None)
        if not size.names:
            return f"{size.otherwise or name} {value}"
        if found is None:
            missing = f"not in config.json, so {size.otherwise}" if size.otherwise else "assumed"
            return f"{size.names[0]} {value} ({missing})"
        given = self._config[found]
        if isinstance(given, list) and 0 <= layer < len(given):
            given = given[layer]
        if given == value or isinstance(given, list | dict):
            return f"{found} {value}"
        return f"{found} {str(given)[:20]}, which makes {value}"
