"""What config.json asks of the model and the GGUF file does not say: warnings, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Family

_FACTORS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("attn_logit_softcapping", "attn_logit_softcapping", ()),
    ("final_logit_softcapping", "final_logit_softcapping", ()),
    ("logit_scale", "logit_scale", (1, 1.0)),
    ("logits_scaling", "logit_scale", (1, 1.0)),
    ("embedding_multiplier", "embedding_scale", (1, 1.0)),
    ("residual_multiplier", "residual_scale", (1, 1.0)),
    ("clip_qkv", "attention.clamp_kqv", ()),
)
"""Settings that change the computation: config.json's name, GGUF's key below the architecture, and
values that change nothing."""

_NO_SCALING = (None, "default", "mrope")
_SILU = ("silu", "swish", "swiglu")


def unsaid(
    row: Family, hp: Hyper, keys: Collection[str], tensors: Collection[str]
) -> Iterator[str]:
    """A warning for each setting that is lost; keys' and tensors' names are the GGUF file's."""
    yield from _rope(hp, keys, tensors)
    window = hp.config.get("sliding_window")
    longest = hp.config.get("max_position_embeddings")
    used = hp.config.get("use_sliding_window") is not False
    shorter = (
        type(window) is int and window > 0 and not (type(longest) is int and window >= longest)
    )
    if used and shorter and f"{hp.arch}.attention.sliding_window" not in keys:
        yield (
            f"config.json: sliding_window {window} is not in the model: llama.cpp's {hp.arch}"
            " attends to all tokens, so the results for longer texts differ from training"
        )
    for name, key, neutral in _FACTORS:
        value = hp.config.get(name)
        said = name in row.folded or f"{hp.arch}.{key}" in keys
        if said or value in (None, 0, False, *neutral):
            continue
        setting = f"{name} {str(value)[:40]}"
        yield f"config.json: {setting} is not in the model: {hp.arch} has no place for it"
    act = hp.config.get("hidden_act")
    if row.silu and isinstance(act, str) and act not in _SILU:
        yield f"config.json: hidden_act is {act[:40]!r}, but llama.cpp's {hp.arch} computes silu"


def two_ropes(config: Mapping[str, Any]) -> Iterator[str]:
    """A warning of a RoPE scaling beside parameters that count instead of it."""
    scaling = config.get("rope_scaling")
    if "rope_parameters" not in config or not isinstance(scaling, dict):
        return
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind not in _NO_SCALING and config["rope_parameters"] != scaling:
        yield (
            f"config.json: the rope_scaling {str(kind)[:40]!r} is not in the model: rope_parameters"
            " stand there too, and count; write the scaling into them"
        )


def _rope(hp: Hyper, keys: Collection[str], tensors: Collection[str]) -> Iterator[str]:
    kind = hp.full_rope.get("rope_type") or hp.full_rope.get("type")
    if kind in _NO_SCALING or "rope_freqs.weight" in tensors:
        return
    written = f"{hp.arch}.rope.scaling.type" in keys or "rope_factors_long.weight" in tensors
    if not written:
        yield (
            f"config.json: the RoPE scaling {str(kind)[:40]!r} is not in the model: llama.cpp does"
            " not have it, and texts beyond the original context come out wrong"
        )
