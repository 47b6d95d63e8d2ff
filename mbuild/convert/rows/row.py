"""One architecture: a row of the table that the whole conversion is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import HFConfig

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy, Packed
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import KeyRule
    from mbuild.convert.rows.rules import Rule, Stack
    from mbuild.gguf.model import KV

    Tensors = Mapping[str, Lazy]

NO_HF_CONFIG = HFConfig("")


@dataclass(frozen=True, slots=True)
class Architecture:
    """How checkpoints of one family become GGUF.

    Attributes:
        gguf: GGUF's name of the architecture, also the ``gguf`` package's.
        names: the class names in ``architectures`` of config.json.
        keys: the architecture's metadata, in the order of the file.
        hf: the defaults of transformers' configuration class.
        rules: transforms; the first whose pattern is found in a name decides.
        stacks: tensors of a layer that are put together.
        prefixes: beginnings of names that are replaced before anything else,
            in order, each at most once.
        replaced: text anywhere in names that is replaced after that.
        skip: tensors that are left out: patterns (searched, after renaming) or
            tests on the hyper-parameters and the name.
        extra: tensors that stand before all others, generated from the
            hyper-parameters or taken out of the checkpoint's.
        early: entries that stand right after ``general.architecture``, from
            the hyper-parameters and the checkpoint's tensors.
        variant: GGUF's name where it depends on the config.
    """

    gguf: str
    names: tuple[str, ...]
    keys: tuple[KeyRule, ...]
    hf: HFConfig = NO_HF_CONFIG
    rules: tuple[Rule, ...] = ()
    stacks: tuple[Stack, ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()
    skip: tuple[str | Callable[[Hyper, str], bool], ...] = ()
    extra: Callable[[Hyper, Tensors], Iterable[tuple[str, Lazy | Packed]]] | None = None
    early: Callable[[Hyper, Tensors], Iterable[KV]] | None = None
    variant: Callable[[Mapping[str, Any]], str] | None = None
