"""Prefixes that wrappers of training leave in tensors' names, taken off again.

``torch.compile``, FSDP and their like hold a model inside another module, and
a checkpoint that is saved from outside has the outer module's name in every
tensor's. The weights are the same, so the names are put right with a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mbuild.convert.read.safetensors import StoredTensor

WRAPPERS: tuple[tuple[str, str], ...] = (
    ("_orig_mod", "torch.compile"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_fpw_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("_forward_module", "Lightning"),
    ("module", "DataParallel or DeepSpeed"),
    ("base_model.model", "PEFT"),
)
"""Modules around modules, anywhere in a name, and what puts them there."""

_WRAPPER = regex(rf"(?<![^.])({'|'.join(re.escape(name) for name, _ in WRAPPERS)})\.")

_ROOT = (
    r"(?:model\.(?:embed_tokens|layers\.\d+|transformer)|transformer\.(?:wte|h\.\d+)"
    r"|gpt_neox\.layers)\."
)
_AT_ROOT = regex(rf"^{_ROOT}")
_INNER = regex(rf"^(?P<prefix>.+?\.){_ROOT}")
_KNOWN = regex(r"language_model|text_model|text_decoder|thinker|vision|visual|audio|talker")
"""Prefixes of models with towers, which the families' rules take off themselves."""


def unwrap(tensors: Sequence[StoredTensor]) -> tuple[tuple[StoredTensor, ...], list[str]]:
    """The tensors under the names that they had inside, in their order, and warnings.

    Raises :class:`FormatError` if two tensors get one name.
    """
    names = [_WRAPPER.sub("", tensor.name) for tensor in tensors]
    found = Counter(
        prefix for tensor in tensors for prefix in dict.fromkeys(_WRAPPER.findall(tensor.name))
    )
    makers = dict(WRAPPERS)
    warnings = [_said(f"{name}.", count, makers[name]) for name, count in found.items()]
    outer = _outer(names)
    if outer:
        count = sum(name.startswith(outer) for name in names)
        names = [name.removeprefix(outer) for name in names]
        warnings.append(_said(outer, count, "another module around the model"))
    if not warnings:
        return tuple(tensors), []
    return _renamed(tensors, names), warnings


def _said(prefix: str, count: int, maker: str) -> str:
    return f"the prefix {prefix} ({maker}) is removed from the names of {count} tensors"


def _outer(names: Iterable[str]) -> str:
    """A prefix before the names that a model has at its root, where nothing stands at the root."""
    prefix = ""
    for name in names:
        if _AT_ROOT.match(name):
            return ""
        match = _INNER.match(name)
        if match is not None and not prefix and not _KNOWN.search(match["prefix"]):
            prefix = match["prefix"]
    return prefix


def _renamed(tensors: Sequence[StoredTensor], names: Sequence[str]) -> tuple[StoredTensor, ...]:
    result: dict[str, StoredTensor] = {}
    was: dict[str, str] = {}
    for tensor, name in zip(tensors, names, strict=True):
        if name in result:
            raise FormatError(
                f"{was[name]!r} and {tensor.name!r} are both {name!r} without their prefixes",
                hint="the checkpoint holds the model twice: save it again from the inner model",
            )
        result[name], was[name] = replace(tensor, name=name), tensor.name
    # As if they had never had the prefixes: by file, then by name.
    return tuple(sorted(result.values(), key=lambda tensor: (tensor.shard.name, tensor.name)))
