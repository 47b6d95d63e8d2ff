"""Vocabularies of checkpoints as GGUF metadata: every ``tokenizer.*`` key, in llama.cpp's order.

::

    entries = vocabulary(files, config, "LlamaForCausalLM")

A family's way is one row of :data:`VOCABULARIES`. Nothing of a checkpoint is
executed: templates are text, regular expressions run in a limited child
process, and every file is read with limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import Files
from mbuild.convert.vocabulary.assemble import vocabulary_entries
from mbuild.convert.vocabulary.rules import BPE, VOCABULARIES, Prefix, Reader, VocabRule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mbuild.gguf.model import KV

__all__ = ["VOCABULARIES", "Prefix", "Reader", "VocabRule", "vocabulary"]


def vocabulary(
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    arch: str,
    *,
    pre: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> list[KV]:
    """All ``tokenizer.*`` entries of a checkpoint.

    ``files`` maps names relative to the checkpoint's folder to readable
    files, ``config`` is config.json (with or without a nested text_config
    laid over it), ``arch`` the class name in its ``architectures``; a class
    without a row in :data:`VOCABULARIES` has a byte-pair tokenizer.json.
    ``pre`` names the pre-tokenizer instead of looking for it. ``warn`` is told
    of tokens that are dropped, and of files that disagree. Arrays of types are
    int32 and scores float32 numpy arrays; all else is plain Python.

    Raises :class:`~mbuild.core.errors.FormatError` for malformed or hostile files,
    :class:`~mbuild.core.errors.SourceError` when no vocabulary is there, and
    :class:`~mbuild.core.errors.UnsupportedError` for an unknown pre-tokenizer; its
    message has the hash, its hint the way to name one.
    """
    rule = VOCABULARIES.get(arch, BPE)
    return vocabulary_entries(Files(files), config, rule, pre, warn)
