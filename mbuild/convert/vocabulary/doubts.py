"""What a vocabulary says that its tokens do not bear out: warnings, never errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.vocabulary.base import TokenType
from mbuild.convert.vocabulary.loader import CONFIG, SPECIAL_NAMES, token_text
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.vocabulary.base import Tokens
    from mbuild.convert.vocabulary.special import Specials

_CHAT_TOKEN = regex(
    r"<\|(?:im_start|im_end|eot_id|start_header_id|end_header_id|end|user"
    r"|assistant|system|eom_id|endoftext)\|>|<(?:start|end)_of_turn>"
)
"""Tokens that templates build turns of."""


def doubts(specials: Specials, tokens: Tokens, settings: Mapping[str, Any]) -> Iterator[str]:
    """Warnings about special ids without a token and turns of a template without tokens.

    ``settings`` is tokenizer_config.json.
    """
    size = len(tokens.texts)
    known = frozenset(tokens.texts)
    for name, id_ in specials.ids.items():
        if id_ >= size:
            yield f"the {name} token's id is {id_}, but the vocabulary ends at {size - 1}"
        elif tokens.types[id_] == TokenType.UNUSED and tokens.texts[id_] == f"[PAD{id_}]":
            yield (
                f"the {name} token's id is {id_}, which no file of the vocabulary names:"
                f" it is {tokens.texts[id_]} in the model"
            )
    for name, id_ in specials.dropped.items():
        if name not in specials.ids:
            yield (f"the {name} token's id, {id_}, is left out: the vocabulary ends at {size - 1}")
    for name in SPECIAL_NAMES:
        text = token_text(settings.get(f"{name}_token"))
        if text and name in ("bos", "eos") and not _there(text, known):
            yield f"{CONFIG}: {name}_token is {text!r}, which the vocabulary does not have"
    yield from _template(specials, known)


def _there(text: str, known: frozenset[str]) -> bool:
    return text in known or text.replace("\u2581", " ") in known


def _template(specials: Specials, known: frozenset[str]) -> Iterator[str]:
    texts = specials.template
    if texts is None:
        return
    used = dict.fromkeys(_CHAT_TOKEN.findall(_whole(texts)))
    missing = [token for token in used if token not in known]
    if missing and len(missing) == len(used):
        yield (
            f"the chat template uses {', '.join(missing[:3])}, which the vocabulary does not have"
            " as tokens: the template is another model's"
        )


def _whole(template: Any) -> str:
    if isinstance(template, str):
        return template
    return "\n".join(str(part) for part in template)
