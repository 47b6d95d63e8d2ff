"""Pixtral's encoder with two-dimensional RoPE: Mistral Small 3, Pixtral, LightOnOCR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.files import SMALL_LIMIT, TOKENIZER_LIMIT
from mbuild.convert.rows import tower_parts as p
from mbuild.convert.rows.projector import (
    F32,
    SILU,
    U32,
    Projector,
    TowerRule,
    each,
    epsilon,
    key,
    kind,
    only,
)
from mbuild.convert.rows.rules import rotary
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Towers
    from mbuild.gguf.model import KV

_BREAK = "[IMG_BREAK]"
_NAMES = (
    *("multi_modal_projector.", "vision_tower.", "vision_encoder."),
    *("vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm"),
)
_MOVED = (
    ("model.vision_encoder.", "vision_tower."),
    ("model.vision_projection.", "multi_modal_projector."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""Names as other versions of transformers save them."""


def _break_row(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    """The text model's embedding of the token that ends a row of patches."""
    number = _break_token(towers)
    lazy.need_dims(2)
    if not number < lazy.shape[0]:
        raise FormatError(f"{lazy.origin} has {lazy.shape[0]} rows, but {_BREAK} is {number}")
    row = lazy.slice(0, number, number + 1).reshape(lazy.shape[1])
    return [("v.token_embd.img_break", row)] if number else []


def _break_token(towers: Towers) -> int:
    """Its number, from tokenizer_config.json or else from tokenizer.json."""
    config = towers.files.json_object("tokenizer_config.json", SMALL_LIMIT) or {}
    listed = config.get("added_tokens_decoder")
    for number, token in listed.items() if isinstance(listed, dict) else ():
        if isinstance(token, dict) and token.get("content") == _BREAK and number.isdecimal():
            return int(number)
    tokenizer = towers.files.json_object("tokenizer.json", TOKENIZER_LIMIT) or {}
    for token in tokenizer.get("added_tokens") or ():
        number = token.get("id") if isinstance(token, dict) else None
        if type(number) is int and number >= 0 and token["content"] == _BREAK:
            return number
    raise FormatError(
        f"neither tokenizer_config.json nor tokenizer.json has the token {_BREAK}",
        hint="take the tokenizer's files from the base model",
    )


def _is_pixtral(towers: Towers) -> Iterator[KV]:
    """Nothing to say of Pixtral's encoder; another one is refused."""
    model_type = towers.sight.text("model_type", default="")
    if model_type != "pixtral":
        raise UnsupportedError(
            f"a vision encoder of the type {model_type[:40]!r} in a checkpoint of this class cannot"
            " be converted",
            hint="to build the text half alone: --text-only; a projector file that was made"
            " elsewhere can be added with a second FROM",
        )
    return iter(())


def _merge(towers: Towers) -> int | None:
    name = "spatial_merge_size"
    return towers.root.integer(name) if name in towers.root else None


_KEYS = (
    _is_pixtral,
    kind("pixtral"),
    epsilon(1e-5, "layer_norm_eps"),
    p.activation(needed=True),
    key("vision.spatial_merge_size", U32, _merge),
)

PIXTRAL = Projector(
    names=("LlavaForConditionalGeneration", "Mistral3ForConditionalGeneration"),
    takes=only(*_NAMES, inside=("embed_tokens.weight",), started=_MOVED),
    keys=_KEYS,
    rules=(
        each(r"[qk]_proj\.(weight|bias)$", lambda towers, lazy: rotary(lazy, towers.heads)),
        TowerRule(regex(r"embed_tokens\.weight$"), _break_row),
    ),
    needs=p.PATCHES
    + p.PRE_NORM
    + p.PLAIN_GATED
    + """
        mm.1 width free
        mm.2 free text
        ?merger mm.patch_merger free width
        ?merger mm.input_norm width
    """,
)

LIGHTON_OCR = replace(
    PIXTRAL,
    names=("LightOnOCRForConditionalGeneration",),
    takes=only(*_NAMES, started=_MOVED),
    keys=(*_KEYS, kind("lightonocr")),
    rules=PIXTRAL.rules[:1],
)


def _break_of_params(towers: Towers) -> int:
    """The number of the token that ends a row, which some params.json leave to the tokenizer."""
    said = towers.sight.value("image_break_token_id")
    if type(said) is int and said >= 0:
        return said
    tekken = towers.files.json_object("tekken.json", TOKENIZER_LIMIT) or {}
    for token in tekken.get("special_tokens") or ():
        if isinstance(token, dict) and token.get("token_str") == _BREAK:
            rank = token.get("rank")
            if type(rank) is int and rank >= 0:
                return rank
    raise FormatError(
        f"params.json has no image_break_token_id, and tekken.json no token {_BREAK}",
        hint="take the files from the base model",
    )


def _break_of_format(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
    number = _break_of_params(towers)
    lazy.need_dims(2)
    if not number < lazy.shape[0]:
        raise FormatError(f"{lazy.origin} has {lazy.shape[0]} rows, but {_BREAK} is {number}")
    row = lazy.slice(0, number, number + 1).reshape(lazy.shape[1])
    return [("v.token_embd.img_break", row)] if number else []


def _merge_of_params(towers: Towers) -> int | None:
    merges = towers.sight.value("mm_projector_id") == "patch_merge"
    return towers.sight.integer("spatial_merge_size", low=1) if merges else None


MISTRAL_FORMAT = replace(
    PIXTRAL,
    names=("MistralFormat",),
    takes=only(
        *_NAMES,
        inside=("tok_embeddings.weight",),
        replaced=(
            ("vision_language_adapter.w_in.", "mm.1."),
            ("vision_language_adapter.w_out.", "mm.2."),
        ),
    ),
    keys=(
        kind("pixtral"),
        key("vision.attention.layer_norm_epsilon", F32, lambda t: t.root.number("norm_eps")),
        key("rope.freq_base", F32, lambda t: t.sight.number("rope_theta")),
        SILU,
        key("vision.spatial_merge_size", U32, _merge_of_params),
    ),
    rules=(TowerRule(regex(r"tok_embeddings\.weight$"), _break_of_format),),
    processor={
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
)
"""Mistral's own format: queries and keys lie as ggml's RoPE wants them, and params.json has no
means of colours: mistral-common has them."""

ROWS = (PIXTRAL, LIGHTON_OCR, MISTRAL_FORMAT)
