"""The model that a draft drafts for: its small files lie beside the draft's own, below ``target/``.

A draft has no tokenizer of its own. Whoever names it puts these files there (FROM is the target).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.checkpoint import class_name, flat_config
from mbuild.convert.conversion import TARGET
from mbuild.convert.families import find
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.rows.keys import MASK_OF_DRAFT
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mbuild.convert.rows.row import Family
    from mbuild.convert.vocabulary.rules import VocabRule


def target_vocabulary(
    paths: Mapping[str, Path],
    config: Mapping[str, Any],
    row: Family,
    *,
    pre: str | None,
    warn: Callable[[str], None],
) -> list[KV]:
    """The target's vocabulary, and the draft's own mask token behind it.

    ``paths`` and ``config`` are the draft's. Raises as
    :func:`~mbuild.convert.vocabulary.assemble.vocabulary` does.
    """
    files = {n.removeprefix(TARGET): p for n, p in paths.items() if n.startswith(TARGET)}
    entries = vocabulary(files, config, _rule(row, files), pre=pre, warn=warn)
    mask = config.get(MASK_OF_DRAFT)
    if type(mask) is int:
        entries.append(KV("tokenizer.ggml.mask_token_id", ValueType.UINT32, mask))
    return entries


def _rule(row: Family, files: Mapping[str, Path]) -> VocabRule:
    """The draft's own way to read the target's vocabulary, or the way of the target's family."""
    if row.vocabulary.readers:
        return row.vocabulary
    root = CheckpointFiles(files).json_object("config.json") or {}
    target = find(class_name(root))
    target = target.variant(flat_config(root)) if target.variant else target
    return target.vocabulary
