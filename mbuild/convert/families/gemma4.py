"""Gemma 4 (text): full and sliding layers with heads of their own, experts, shared keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.gemma import GEMMA3
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, computed, entry, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import partial_factors
from mbuild.convert.rows.row import NO_HF_CONFIG, TOWERS
from mbuild.convert.vocabulary.rules import Prefix, Reader, VocabRule
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper, missing
    from mbuild.convert.rows.layout import Where
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes
    from mbuild.gguf.model import KV


def _of_full(hp: Hyper, name: str, single: str) -> int | None:
    """A size of the full layers: of its own name, or of the first full layer's own config."""
    found = hp.optional_integer(name, low=1)
    layers, kinds = hp.value("per_layer_config"), hp.texts("layer_types") or []
    if found is not None or not isinstance(layers, dict):
        return found
    for layer, kind in enumerate(kinds):
        own = layers.get(str(layer))
        if kind == "full_attention" and isinstance(own, dict) and type(own.get(single)) is int:
            return int(own[single])
    return None


def _head(hp: Hyper) -> int:
    found = _of_full(hp, "global_head_dim", "head_dim")
    if found is None:
        raise missing("global_head_dim")
    return found


def _kv_heads(hp: Hyper) -> list[int] | None:
    full = _of_full(hp, "num_global_key_value_heads", "num_key_value_heads")
    kinds = hp.texts("layer_types")
    if full is None or kinds is None or hp.value("num_key_value_heads") is None:
        return None
    return [hp.kv_heads if kind == "sliding_attention" else full for kind in kinds]


def _feed_forward(hp: Hyper) -> list[int] | None:
    if not hp.flag("use_double_wide_mlp"):
        return None
    width, own = hp.integer("intermediate_size"), hp.blocks - hp.integer("num_kv_shared_layers")
    return [width if layer < own else 2 * width for layer in range(hp.blocks)]


def _turned(hp: Hyper) -> int:
    share = hp.rope.get("partial_rotary_factor")
    return int(hp.integer("head_dim") * (1.0 if share is None else float(share)))


def _factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    if hp.full_rope.get("rope_type") != "proportional":
        raise FormatError("config.json: the full layers' rope_type is not 'proportional'")
    yield partial_factors(_head(hp), hp.rope_number("partial_rotary_factor"))


def _with_ending(config: Mapping[str, Any], name: str) -> str:
    bare = ".experts." in name and not name.endswith(".weight")
    return f"{name}.weight" if bare or name.endswith(("per_dim_scale", "layer_scalar")) else name


def _layers(sliding: bool, borrowed: bool) -> Where:
    def where(sizes: Sizes, layer: int) -> bool:
        own = (sizes.value("layers", 0) or 0) - (sizes.value("borrowed", 0) or 0)
        return bool(sizes.value("sliding", layer)) is sliding and (layer >= own) is borrowed

    return where


def _attention(key: str, value: str) -> tuple[str, str]:
    """Tensors of layers of one kind, and keys and values of those that have their own."""
    queries = f"attn_q width heads*{key}\nattn_output heads*{key} width\nattn_q_norm {key}\n"
    return queries, f"attn_k width kv*{key}\nattn_k_norm {key}\nattn_v width kv*{value}"


_SLIDING, _SLIDING_KV = _attention("key_swa", "value_swa")
_FULL, _FULL_KV = _attention("key", "value")


def _perhaps(text: str, name: str) -> str:
    return "\n".join(f"?{name} {line}" for line in text.splitlines())


_ATTENTION = (
    Group(slots(_SLIDING), p.some("sliding")),
    Group(slots(_FULL), p.none("sliding")),
    Group(slots(_SLIDING_KV), _layers(sliding=True, borrowed=False)),
    Group(
        slots(_FULL_KV.replace("attn_v", "?full_v attn_v")), _layers(sliding=False, borrowed=False)
    ),
    Group(slots(_perhaps(_SLIDING_KV, "borrowed")), _layers(sliding=True, borrowed=True)),
    Group(slots(_perhaps(_FULL_KV, "borrowed_full")), _layers(sliding=False, borrowed=True)),
)

GEMMA4 = replace(
    GEMMA3,
    gguf="gemma4",
    names=("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"),
    vocabulary=VocabRule(
        (Reader.GEMMA4,), Prefix.FALSE_OF_JSON, flags_of_size={0: (("bos", True),)}
    ),
    keys=(
        *GEMMA3.keys,
        u32("attention.shared_kv_layers", "num_kv_shared_layers", required=True),
        u32("embedding_length_per_layer_input", "hidden_size_per_layer_input", default=0),
        computed("attention.sliding_window_pattern", BOOL, sliding_pattern),
        computed("attention.key_length", U32, _head),
        computed("attention.value_length", U32, _head),
        u32("attention.key_length_swa", "head_dim", low=1, required=True),
        u32("attention.value_length_swa", "head_dim", low=1, required=True),
        u32("expert_feed_forward_length", "expert_intermediate_size", "moe_intermediate_size"),
        computed("feed_forward_length", U32, _feed_forward),
        computed("attention.head_count_kv", U32, _kv_heads),
        computed("rope.dimension_count", U32, _head),
        computed("rope.dimension_count_swa", U32, _turned),
    ),
    layout=TensorLayout(
        (
            *p.USUAL,
            *slots("""
                rope_freqs key/2
                ?per_layer per_layer_token_embd per_layer*layers tokens
                ?per_layer per_layer_model_proj width per_layer*layers
                ?per_layer per_layer_proj_norm per_layer
            """),
        ),
        (
            Group((*p.NORMS, *p.POST_NORMS, *p.GATED, *slots("? layer_output_scale 1"))),
            *_ATTENTION,
            Group(
                slots("""
                    ffn_gate_inp width experts F32
                    ffn_gate_inp.scale. width
                    pre_ffw_norm_2 width
                    post_ffw_norm_1 width
                    post_ffw_norm_2 width
                    ffn_gate_up_exps width 2*expert_ff experts
                    ffn_down_exps expert_ff width experts
                    ? ffn_down_exps.scale. experts
                """),
                p.some("experts"),
            ),
            Group(
                slots("inp_gate width per_layer\nproj per_layer width\npost_norm width"),
                p.some("per_layer"),
            ),
        ),
        (*p.RMS, "attention.sliding_window", "attention.sliding_window_pattern"),
    ),
    hf=NO_HF_CONFIG,
    renamed=_with_ending,
    rules=GEMMA3.rules[:1],
    extra=_factors,
)


def _silenced(hp: Hyper) -> Iterator[KV]:
    """Tokens that no answer may have."""
    tokens = (hp.files.json_object("generation_config.json") or {}).get("suppress_tokens")
    if tokens is not None:
        yield entry("tokenizer.ggml.suppress_tokens", U32, tokens, "suppress_tokens")


GEMMA4_UNIFIED = replace(
    GEMMA4, names=("Gemma4UnifiedForConditionalGeneration",), keys=(*GEMMA4.keys, _silenced)
)

_ALL_AHEAD = computed("nextn_predict_layers", U32, lambda hp: hp.blocks)

GEMMA4_ASSISTANT = replace(
    GEMMA4,
    gguf="gemma4-assistant",
    names=("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"),
    keys=(
        *GEMMA4.keys,
        u32("embedding_length_out", "backbone_hidden_size", low=1, required=True),
        _ALL_AHEAD,
    ),
    layout=TensorLayout(
        (
            *p.TIED,
            *slots("""
                rope_freqs key/2
                nextn.pre_projection 2*out width
                nextn.post_projection width out
            """),
        ),
        (
            Group((*p.NORMS, *p.POST_NORMS, *p.GATED, *slots("layer_output_scale 1"))),
            Group(slots(_SLIDING), p.some("sliding")),
            Group(slots(_FULL), p.none("sliding")),
        ),
        (*GEMMA4.layout.keys, "embedding_length_out"),
    ),
    replaced=(
        ("post_attention_layernorm", "post_self_attn_layernorm"),
        ("pre_projection", "nextn.pre_projection"),
        ("post_projection", "nextn.post_projection"),
    ),
    towers=regex(rf"masked_embedding|{TOWERS.pattern}"),
)
"""A draft head, which reads the keys and values of its target's layers."""

ROWS = (GEMMA4, GEMMA4_UNIFIED, GEMMA4_ASSISTANT)
