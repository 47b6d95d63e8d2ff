"""Text to tokens and back, by the engine that has the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mbuild.runtime.events import refused

if TYPE_CHECKING:
    from mbuild.runtime.process import LlamaEngine


async def tokens_of(engine: LlamaEngine, text: str, *, add_special: bool) -> list[int]:
    """The tokens of a text, special ones by their names; ``add_special`` puts BOS and EOS."""
    body = {"content": text, "add_special": add_special, "parse_special": True}
    answer = await engine.ask("/tokenize", body)
    found = await answer.json()
    if answer.status != 200:
        raise refused(answer.status, found)
    return [int(token) for token in found["tokens"]]


async def text_of(engine: LlamaEngine, tokens: Sequence[int]) -> str:
    """The text of tokens."""
    answer = await engine.ask("/detokenize", {"tokens": list(tokens)})
    found = await answer.json()
    if answer.status != 200:
        raise refused(answer.status, found)
    return str(found["content"])
