"""What a reader of a vocabulary is given, and what it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.values import EMPTY, FrozenValue, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.vocabulary.base import Tokens
    from mbuild.convert.vocabulary.rules import VocabRule
    from mbuild.convert.vocabulary.special import Specials
    from mbuild.gguf.model import KV


class Unfit(Exception):
    """The checkpoint has not the files that a reader needs; the next one is tried."""


class ReaderContext(NamedTuple):
    """What a reader may look at; ``config`` is config.json with a text_config laid over it."""

    files: CheckpointFiles
    config: Mapping[str, Any]
    rule: VocabRule
    pre: str | None
    warn: Callable[[str], None] = lambda text: None


class Vocabulary(FrozenValue):
    """What a reader found: ``model`` and ``pre`` are the tokenizer's kind and pre-tokenizer.

    ``first``, ``middle`` and ``last`` are entries before all others, before the
    special tokens and behind them, ``merges`` whether merges belong to the model, ``bounded``
    whether special ids beyond the vocabulary are dropped, ``pieces`` whether
    it came from tokenizer.model. ``renumbered`` has the added tokens whose id
    is another than tokenizer.json says. ``specials`` are the special tokens, where they are
    found in another way than usual.
    """

    model: str
    pre: str
    tokens: Tokens
    merges: bool = False
    bounded: bool = True
    pieces: bool = False
    first: Sequence[KV] = ()
    middle: Sequence[KV] = ()
    last: Sequence[KV] = ()
    renumbered: Mapping[str, int] = EMPTY
    specials: Specials | None = None
