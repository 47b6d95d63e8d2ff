"""One family: a row of the table that the whole conversion is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.patterns import regex
from mbuild.core.values import EMPTY, FrozenValue

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy, Packed
    from mbuild.convert.rows.hyper import Fill, Hyper
    from mbuild.convert.rows.keys import KeyRule
    from mbuild.convert.rows.layout import TensorLayout
    from mbuild.convert.rows.rules import Rule, Stack
    from mbuild.convert.vocabulary.rules import VocabRule
    from mbuild.gguf.model import KV

    Tensors = Mapping[str, Lazy]

NO_HF_CONFIG = HFConfig("")

TOWERS = regex(
    r"^(mlp|vit\.|vpm\.|siglip2\.|conformer\.|merger\.|resampler\.|sound_encoder\."
    r"|sound_projection\.|speech_embeddings\.)"
    r"|visual\.|vision\.|audio\.|talker\.|vision_|audio_|token2wav\.|code2wav\.|projector\."
    r"|pre_mm_projector_norm|image_newline|view_seperator|patch_embed|patch_merger\."
    r"|patch_merge_mlp\.|model\.connector\."
)
"""Tensors of vision and audio towers, which llama.cpp leaves out of every text model: any family
can be the text half of a larger model."""


class Family(FrozenValue):
    """How checkpoints of one family become GGUF.

    Attributes:
        gguf: GGUF's name of the architecture, also the ``gguf`` package's.
        names: the class names in ``architectures`` of config.json; none for a row that
            another one's ``variant`` gives.
        keys: the architecture's metadata, in the order of the file.
        layout: the tensors that llama.cpp's loader wants; the same in all rows of one ``gguf``.
        vocabulary: how the tokenizer's files are read.
        hf: the defaults of transformers' configuration class.
        settled: settings that follow from others, whatever config.json says, in order.
        rules: transforms; the first whose pattern is found in a name decides.
        stacks: tensors of a layer that are put together.
        prefixes: beginnings of names that are replaced before anything else,
            in order, each at most once.
        replaced: text anywhere in names that is replaced after that.
        renamed: a last change of names, by the config.
        towers: tensors of other models in the same checkpoint (searched, after renaming).
        skip: tensors that are left out: patterns (searched, after renaming) or
            tests on the hyper-parameters and the name.
        extra: tensors that stand before all others, generated from the
            hyper-parameters or taken out of the checkpoint's.
        last: tensors that stand behind all others.
        early: entries that stand right after ``general.architecture``, from
            the hyper-parameters and the checkpoint's tensors.
        variant: the row that counts instead, by config.json.
        nextn: config.json's name for the number of layers for multi-token prediction, which
            stand behind the others and are kept; empty where the family keeps none.
        counted: the number of those layers from the tensors' names, where config.json has none.
        head: the checkpoint's name of the output matrix, for messages.
        same_head: the checkpoint's name of the embedding, where an output matrix that has the same
            values is left out.
        alike: names that one tensor may be saved under, once or several times: the first that is
            there counts, under the last of the names.
        padded: the embedding has another number of rows than config.json's vocab_size.
        biased: queries, keys and values always have biases.
        folded: settings of config.json that become part of the weights.
        drafts: it drafts for another model, whose files lie below ``target/``; a vocabulary without
            readers is then read as the target's family does it.
        silu: llama.cpp computes no other activation, and config.json may name one.
    """

    gguf: str
    names: tuple[str, ...]
    keys: tuple[KeyRule, ...]
    layout: TensorLayout
    vocabulary: VocabRule = BPE
    hf: HFConfig = NO_HF_CONFIG
    settled: Mapping[str, Fill] = EMPTY
    rules: tuple[Rule, ...] = ()
    stacks: tuple[Stack, ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    replaced: tuple[tuple[str, str], ...] = ()
    renamed: Callable[[Mapping[str, Any], str], str] | None = None
    towers: re.Pattern[str] = TOWERS
    skip: tuple[str | Callable[[Hyper, str], bool], ...] = ()
    extra: Callable[[Hyper, Tensors], Iterable[tuple[str, Lazy | Packed]]] | None = None
    last: Callable[[Hyper, Tensors], Iterable[tuple[str, Lazy | Packed]]] | None = None
    early: Callable[[Hyper, Tensors], Iterable[KV]] | None = None
    variant: Callable[[Mapping[str, Any]], Family] | None = None
    nextn: str = ""
    counted: Callable[[Iterable[str]], int] | None = None
    head: str = "lm_head"
    same_head: str = ""
    alike: tuple[str, ...] = ()
    padded: bool = False
    biased: bool = False
    folded: tuple[str, ...] = ()
    drafts: bool = False
    silu: bool = False
