"""DFlash and DSpark: drafts that write a block of tokens at once from their target's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer, as_number, missing
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    MASK_OF_DRAFT,
    TEXT,
    U32,
    computed,
    constant,
    entry,
    sliding_pattern,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import partial_factors
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule, paired
from mbuild.convert.rows.sizes import Size
from mbuild.convert.rows.target import check_reduced, draft_tokens, target_config
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy, Packed
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors
    from mbuild.convert.rows.rules import Named

_NAMES = {
    "fc": "fc",
    "hidden_norm": "enc.output_norm",
    "lm_head": "output",
    "markov_head.markov_w1": "markov_w1",
    "markov_head.markov_w2": "markov_w2",
    "confidence_head.proj": "conf_proj",
    "confidence_proj": "conf_proj",
    "candidate_selector.predecessor_codebook": "selector_predecessor",
    "candidate_selector.successor_codebook": "selector_successor",
    "candidate_selector.hidden_projection": "selector_hidden",
    "attention_conv.base_kernel": "attn_conv_base.",
    "attention_conv.kernel_projection": "attn_conv_proj",
    "mlp_conv.base_kernel": "ffn_conv_base.",
    "mlp_conv.kernel_projection": "ffn_conv_proj",
    "post_attention_layernorm": "ffn_norm",
}
"""Names that only drafts have, or that mean something else in them."""

_PLACE = regex(r"^(?:model\.)?(layers\.(\d{1,6})\.)?(.+?)(\.weight|\.bias)?$")


def _name(config: Mapping[str, Any], name: str, names: Mapping[str, str] = _NAMES) -> str:
    match = _PLACE.match(name)
    assert match is not None  # any name fits
    inner = names.get(match[3])
    layer = f"blk.{match[2]}." if match[1] else ""
    if inner is not None:
        return (
            f"{layer}{inner[:-1]}" if inner[-1] == "." else f"{layer}{inner}{match[4] or '.weight'}"
        )
    if "sink" in name and match[4] is None:
        name += ".weight"
    return name if name in ("d2t", "t2d") or name.startswith("model.") else f"model.{name}"


def _settings(hp: Hyper) -> Mapping[str, Any]:
    found = hp.value("dflash_config")
    return found if isinstance(found, dict) else {}


def _either(hp: Hyper, name: str) -> Any:
    """A setting of ``dflash_config``, or of config.json itself."""
    return _settings(hp).get(name, hp.value(name))


def _number(key: str, name: str, *, alone: bool = False, positive: bool = False) -> Any:
    def compute(hp: Hyper) -> float | None:
        value = _settings(hp).get(name) if alone else _either(hp, name)
        number = None if value is None else as_number(value, name)
        return None if number is None or (positive and number <= 0) else number

    return computed(key, F32, compute)


def _turned(hp: Hyper) -> int | None:
    share = hp.rope.get("partial_rotary_factor")
    return None if share is None else int(hp.head_dim * as_number(share, "partial_rotary_factor"))


def _block_size(hp: Hyper) -> Any:
    return _settings(hp).get("block_size", hp.config.get("block_size", 16))


def _selector(hp: Hyper) -> Iterator[KV]:
    settings = _settings(hp)
    if "conv_kernel_size" in settings:
        for name in ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k"):
            yield KV(f"dflash.{name}", U32, as_integer(settings.get(name), name, low=1))


def _target_layers(hp: Hyper) -> Iterator[KV]:
    layers = _either(hp, "target_layer_ids")
    if not layers:
        raise missing("target_layer_ids")
    if not isinstance(layers, list):
        raise FormatError(f"config.json: target_layer_ids is {layers!r:.60}; a list is needed")
    numbers = [as_integer(layer, "target_layer_ids") + 1 for layer in layers]
    yield entry("dflash.target_layers", U32, numbers, "target_layer_ids")


def _windows(hp: Hyper) -> Iterator[KV]:
    """The window of all layers, or of those that ``layer_types`` names."""
    settings = _settings(hp)
    everywhere = bool(settings.get("use_swa", False))
    window = settings.get("swa_window_size") or hp.value("sliding_window")
    if not window or not (everywhere or hp.flag("use_sliding_window")):
        return
    yield KV("dflash.attention.sliding_window", U32, as_integer(window, "sliding_window"))
    pattern = [True] * hp.blocks if everywhere else sliding_pattern(hp) or []
    yield entry("dflash.attention.sliding_window_pattern", BOOL, pattern, "layer_types")


def _causal(hp: Hyper) -> bool | None:
    found = hp.value("is_causal")
    found = _settings(hp).get("causal") if found is None else found
    return None if found is None else bool(found)


def _sections(hp: Hyper) -> Iterator[KV]:
    """Beside a target with several axes of RoPE the draft turns by time alone."""
    config = target_config(hp)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope, dict) and "mrope_section" in rope:
        sections = [hp.head_dim // 2, 0, 0, 0]
        yield entry("dflash.rope.dimension_sections", U32, sections, "head_dim")


def _mask(config: Mapping[str, Any]) -> Any:
    settings = config.get("dflash_config")
    return settings.get("mask_token_id") if isinstance(settings, dict) else None


def _no_embedding(hp: Hyper, name: str) -> bool:
    return name == "model.embed_tokens.weight" and not hp.flag("has_embed_tokens", default=True)


def _heads_as_halves(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    if hp.flag("rope_is_neox_style", default=True):
        return [(name, lazy)]
    return [(name, paired(lazy, hp.head_dim, hp.head_dim))]


def _tokens(hp: Hyper, tensors: Tensors) -> Iterator[tuple[str, Packed]]:
    return draft_tokens(hp, tensors, hp.integer("vocab_size", low=1))


def _no_patched_mask(hp: Hyper, tensors: Tensors) -> Iterator[Named]:
    """Nothing; raises :class:`UnsupportedError` for a mask's embedding in a file of its own."""
    if "mask_embedding.pt" in hp.files:
        raise UnsupportedError(
            "mask_embedding.pt changes a row of the target's embedding, which is not supported",
            hint="convert the draft with llama.cpp's convert_hf_to_gguf.py and --target-model-dir,"
            " and name the file with DRAFT",
        )
    yield from ()


_KEYS = (
    *COMMON,
    computed("rope.dimension_count", U32, _turned),
    _number("attention.value_scale", "attention_value_scale", alone=True),
    computed("block_size", U32, _block_size),
    _selector,
    _number("logit_scale", "output_multiplier"),
    _number("final_logit_softcapping", "final_logit_softcapping", positive=True),
    _number("embedding_scale", "input_embedding_scale"),
    _target_layers,
    _windows,
    computed("attention.causal", BOOL, _causal),
    _sections,
)

DFLASH = Family(
    gguf="dflash",
    names=("DFlashDraftModel", "DFlash2DraftModel"),
    drafts=True,
    vocabulary=VocabRule(readers=()),
    keys=_KEYS,
    layout=TensorLayout(
        slots("""
            ? token_embd width tokens
            ? output width draft
            output_norm width
            enc.output_norm width
            fc seen*width width
            ? rope_freqs key/2
            ?markov markov_w1 markov tokens
            ?markov markov_w2 markov draft
            ? conf_proj width+markov 1
            ? conf_proj.bias 1
            ?selector selector_predecessor chosen tokens
            ?selector selector_successor chosen tokens
            ?selector selector_hidden width chosen
            ? d2t. draft
        """),
        (
            Group((*p.NORMS, *p.GATED, *p.QK_NORM)),
            Group(
                slots("""
                    attn_q width heads*key
                    attn_k width kv*key
                    ? attn_v width kv*value
                    attn_output heads*key width
                    ? attn_sinks heads
                    ? post_attention_norm width
                    ? post_ffw_norm width
                    ? layer_output_scale 1
                    ?selector attn_conv_base. width kernel_size 2
                    ?selector attn_conv_proj width free
                    ?selector ffn_conv_base. width kernel_size 2
                    ?selector ffn_conv_proj width free
                """)
            ),
        ),
        (*p.RMS, "target_layers"),
        sizes={
            "chosen": Size("selector_rank", ("selector_rank",)),
            "kernel_size": Size("conv_kernel_size", ("conv_kernel_size",)),
        },
    ),
    settled={MASK_OF_DRAFT: _mask},
    renamed=_name,
    skip=(r"^(d2t|t2d)$", _no_embedding),
    rules=(Rule(regex(r"self_attn\.(q_proj|k_proj|q_norm|k_norm)\.weight$"), _heads_as_halves),),
    extra=_no_patched_mask,
)


def _as_dflash(config: Mapping[str, Any]) -> Any:
    """What the formats of DSpark say at the root, as DFlash says it."""
    if "dflash_config" in config:
        return config["dflash_config"]
    layers = config.get("aux_hidden_state_layer_ids")
    if isinstance(layers, list):
        before = [layer - 1 if type(layer) is int else layer for layer in layers]
        return {"mask_token_id": config.get("mask_token_id"), "target_layer_ids": before}
    return {n: config[n] for n in ("target_layer_ids", "mask_token_id") if n in config}


def _from_anchor(hp: Hyper) -> bool:
    other = "transformer_layer_config" in hp.config or "aux_hidden_state_layer_ids" in hp.config
    return hp.flag("sample_from_anchor", default=not other)


def _is_sure(hp: Hyper) -> bool:
    return any(name.startswith("conf_proj.") for name in hp.tensors)


def _markov(hp: Hyper) -> Iterator[KV]:
    kind = hp.config.get("markov_head_type", "vanilla")
    if kind != "vanilla":
        raise UnsupportedError(f"config.json: markov_head_type is {kind!r:.60}, not 'vanilla'")
    check_reduced(hp, hp.tensors, "output.weight")
    yield from ()


def _whole_head(hp: Hyper, name: str) -> bool:
    """The head of a draft with its target's tokens: the target has it."""
    whole = hp.integer("vocab_size", low=1)
    return name == "output.weight" and (hp.optional_integer("draft_vocab_size") or whole) == whole


DSPARK = replace(
    DFLASH,
    names=(
        *("Qwen3DSparkModel", "DSparkDraftModel", "DSparkSpeculator", "Lfm2DSparkDraftModel"),
        "LingDSparkModel",
    ),
    settled={"dflash_config": _as_dflash, MASK_OF_DRAFT: _mask},
    keys=(
        *_KEYS,
        _markov,
        computed("sample_from_anchor", BOOL, _from_anchor),
        computed("has_confidence_head", BOOL, _is_sure),
    ),
    skip=(*DFLASH.skip, _whole_head),
    last=_tokens,
)

_GEMMA = {
    **_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "layer_scalar": "layer_output_scale",
}


def _rope_of_gemma(config: Mapping[str, Any]) -> Any:
    given = config.get("rope_parameters") or {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
        }
    }
    return given.get("full_attention", given) if isinstance(given, dict) else given


def _simple_gemma(hp: Hyper, tensors: Tensors) -> Iterator[Named]:
    """The factors of its RoPE; raises :class:`UnsupportedError` for what the draft cannot have."""
    kinds = hp.value("layer_types")
    wants = (
        (hp.flag("attention_k_eq_v"), "attention_k_eq_v"),
        (kinds == ["full_attention"] * hp.blocks, "layer_types of full_attention alone"),
        (not (hp.flag("attention_bias") or hp.flag("enable_moe_block")), "no biases or experts"),
        (not hp.value("final_logit_softcapping"), "no final_logit_softcapping"),
        (hp.rope.get("rope_type") in ("default", "proportional"), "proportional RoPE"),
    )
    for holds, what in wants:
        if not holds:
            raise UnsupportedError(f"config.json: a DSpark draft of Gemma 4 needs {what}")
    if hp.rope.get("rope_type") == "proportional":
        share = as_number(hp.rope.get("partial_rotary_factor", 0.25), "partial_rotary_factor")
        yield partial_factors(hp.integer("global_head_dim", low=1), share)


def _global_head(hp: Hyper) -> int:
    return hp.integer("global_head_dim", low=1)


GEMMA4_DSPARK = replace(
    DSPARK,
    names=("Gemma4DSparkModel",),
    settled={
        "rope_parameters": _rope_of_gemma,
        MASK_OF_DRAFT: lambda c: _mask(c) if _mask(c) is not None else c.get("mask_token_id"),
    },
    keys=(
        *_KEYS,
        u32("attention.head_count_kv", "num_global_key_value_heads", required=True),
        computed("attention.key_length", U32, _global_head),
        computed("attention.value_length", U32, _global_head),
        computed("rope.dimension_count", U32, _global_head),
        computed("embedding_scale", F32, lambda hp: hp.width**0.5),
        constant("attention.scale", F32, 1.0),
        constant("hidden_activation", TEXT, "gelu_pytorch_tanh"),
        computed("sample_from_anchor", BOOL, lambda hp: hp.flag("sample_from_anchor", True)),
        computed("has_confidence_head", BOOL, _is_sure),
    ),
    renamed=lambda config, name: _name(config, name, _GEMMA),
    skip=DFLASH.skip,
    extra=_simple_gemma,
)

_MUSE = {
    **_NAMES,
    "encoder.fc": "fc",
    "encoder.output_norm_enc": "enc.output_norm",
}


def _muse_windows(hp: Hyper) -> Iterator[KV]:
    pattern = sliding_pattern(hp)
    if hp.value("sliding_window") and pattern:
        yield KV("dflash.attention.sliding_window", U32, hp.integer("sliding_window"))
        yield entry("dflash.attention.sliding_window_pattern", BOOL, pattern, "layer_types")


MUSE_ASSISTANT = replace(
    DFLASH,
    names=("MuseGlimmerAssistantModel",),
    settled={MASK_OF_DRAFT: lambda config: config.get("mask_token_id")},
    keys=(
        *COMMON,
        u32("block_size", "block_size", required=True),
        _target_layers,
        _muse_windows,
    ),
    renamed=lambda config, name: _name(config, name, _MUSE),
    skip=(),
    rules=(),
    extra=None,
)

ROWS = (DFLASH, DSPARK, GEMMA4_DSPARK, MUSE_ASSISTANT)
