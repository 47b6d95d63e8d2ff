"""EAGLE-3: one layer of a Llama's that drafts from three of its target's hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, entry
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.target import check_reduced, draft_tokens, target_integer
from mbuild.core.errors import FormatError
from mbuild.core.values import replace
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Packed
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors

_NAMES = {"input_norm.weight": "enc.output_norm.weight", "fc.weight": "fc.weight"}


def _in_layer(config: Mapping[str, Any], name: str) -> str:
    for start in ("midlayer.", "layers.0."):
        if name.startswith(start):
            name = f"model.layers.0.{name[len(start) :]}"
    if name.endswith(".hidden_norm.weight"):
        return "blk.0.attn_norm_2.weight"
    return _NAMES.get(name, name)


def _hidden_states(hp: Hyper, tensors: Tensors) -> Iterator[KV]:
    """Which of the target's layers the draft sees, and how wide they are."""
    layers = hp.value("eagle_aux_hidden_state_layer_ids")
    if not layers:
        count = target_integer(hp, "num_hidden_layers")
        layers = [2, count // 2, count - 3]
    if not isinstance(layers, list) or len(layers) != 3:
        raise FormatError("config.json: eagle_aux_hidden_state_layer_ids are not three layers")
    yield entry("eagle3.target_layers", U32, layers, "eagle_aux_hidden_state_layer_ids")
    width = hp.optional_integer("target_hidden_size", low=1)
    width = target_integer(hp, "hidden_size") if width is None else width
    yield KV("eagle3.target_hidden_size", U32, width)
    yield KV("eagle3.norm_before_residual", BOOL, hp.flag("norm_before_residual"))
    before = hp.flag("norm_before_fc")
    if before is not ("enc.output_norm.weight" in tensors):
        raise FormatError(
            f"config.json says norm_before_fc: {str(before).lower()}, but the checkpoint has"
            f" {'no' if before else 'an'} 'input_norm.weight'",
            hint="a shard is missing, or config.json belongs to another checkpoint",
        )
    yield KV("eagle3.norm_before_fc", BOOL, before)


def _tokens(hp: Hyper, tensors: Tensors) -> Iterator[tuple[str, Packed]]:
    check_reduced(hp, tensors, "lm_head.weight")
    return draft_tokens(hp, tensors, target_integer(hp, "vocab_size"))


EAGLE3 = replace(
    LLAMA,
    gguf="eagle3",
    names=(
        *("Eagle3DraftModel", "Eagle3LlamaForCausalLM", "Eagle3Speculator"),
        "LlamaForCausalLMEagle3",
    ),
    variant=None,
    drafts=True,
    layout=TensorLayout(
        (
            *p.ROPE_FREQS,
            *slots("""
                ? token_embd width tokens
                output_norm width
                ? output width draft
                fc 3*target width
                ? enc.output_norm 3*target
                ? d2t. draft
            """),
        ),
        (
            Group(
                slots("""
                    attn_norm width
                    attn_norm_2 width
                    attn_q 2*width heads*key
                    attn_k 2*width kv*key
                    attn_v 2*width kv*value
                    attn_output heads*key width
                    ffn_norm width
                """)
            ),
            Group(p.GATED),
        ),
        (*p.RMS, "target_layers"),
    ),
    renamed=_in_layer,
    skip=(r"^(d2t|t2d)$",),
    early=_hidden_states,
    last=_tokens,
)

ROWS = (EAGLE3,)
