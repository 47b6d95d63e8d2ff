"""The checkpoint's name of a tensor that is not there, for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mbuild.convert.rows.synonyms import synonyms
from mbuild.core.patterns import regex

_QUOTED = regex(r"tensor '([^']+)'$")
_LAYER = regex(r"^(enc\.|dec\.)?blk\.(\d+)\.")


class Origins:
    """Where a model's tensors come from.

    Args:
        arch: GGUF's name of the architecture.
        blocks: the number of layers.
        origins: GGUF's names, and what messages say of the tensor.
        head: the checkpoint's name of the output matrix, which is like none of the others.
    """

    def __init__(self, arch: str, blocks: int, origins: Mapping[str, str], head: str) -> None:
        self._arch, self._blocks, self._origins, self._head = arch, blocks, origins, head

    def source(self, name: str) -> str:
        """What the checkpoint would call a tensor, or GGUF's name where that is not known."""
        return self._like_another_layer(name) or self._from_table(name) or name

    def _like_another_layer(self, name: str) -> str:
        match = _LAYER.match(name)
        if match is None:
            return ""
        tail = name[match.end() :]
        for other, origin in self._origins.items():
            found = _LAYER.match(other)
            if found is None or found[1] != match[1] or other[found.end() :] != tail:
                continue
            source = _source_name(origin)
            if source and f".{found[2]}." in source:
                return source.replace(f".{found[2]}.", f".{match[2]}.", 1)
        return ""

    def _from_table(self, name: str) -> str:
        """Of the names that the ``gguf`` package knows, the one most like those there are."""
        table = synonyms(self._arch, self._blocks)
        if table is None:
            return ""
        base, _, suffix = name.rpartition(".")
        sources = [_source_name(origin) for origin in self._origins.values()]
        names = list(table.synonyms(base))
        if not names:
            return ""
        words = {word for source in sources for word in _words(source)}
        best = max(
            names,
            key=lambda n: (
                n == self._head,
                max(_common(n, s) for s in sources),
                len(words & _words(n)),
            ),
        )
        return f"{best}.{suffix}"


def _source_name(origin: str) -> str:
    match = _QUOTED.search(origin)
    return match[1] if match else ""


def _words(name: str) -> set[str]:
    """The words behind the layer's number, by which a style of naming is known."""
    found = re.search(r"\.\d+\.(.+)", name)
    return set(re.split(r"[._]", found[1])) if found else set()


def _common(first: str, second: str) -> int:
    """How many components two names have in common from the start."""
    count = 0
    for one, other in zip(first.split("."), second.split("."), strict=False):
        if one != other:
            break
        count += 1
    return count
