"""A checkpoint as a GGUF model, equal to what llama.cpp's converter writes.

Everything is decided from the headers: names, shapes, types, order, metadata.
Weights are read when a tensor is loaded, one tensor at a time, from any
thread. (Two families keep a few numbers as tensors that become metadata or
must be zero; those are read at once.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mbuild.convert.checks.head import check_head, differ
from mbuild.convert.checks.layout import (
    DescribedModel,
    check_layout,
    check_vocabulary,
    layout_places,
)
from mbuild.convert.checks.unsaid import two_ropes, unsaid
from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.convert.dense import dense_layers, dense_sizes
from mbuild.convert.encoded import encoded, shape_of
from mbuild.convert.families import config_class
from mbuild.convert.fusing import Converted, fused
from mbuild.convert.metadata.general import QUANTIZATION_VERSION, Parameters, general
from mbuild.convert.read.dequantize import dequantize, eight_bit_names, kept_first, plain
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.integers import lost
from mbuild.convert.read.kept import KeptWeight, can_stay, kept_types
from mbuild.convert.read.lazy import Lazy, constant, lazy_of
from mbuild.convert.read.leftovers import INTEGERS, UNQUANTIZED
from mbuild.convert.read.modelopt import activations
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.hyper import LAYER_NAMES, Hyper, as_integer, unified_rope
from mbuild.convert.rows.keys import MASK_OF_DRAFT, merged, write
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.nextn import of_layers
from mbuild.convert.rows.pooling import unused_modules
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Stacker, apply_rules
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV, Model
from mbuild.gguf.types import GGMLType, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.convert.checkpoint import Checkpoint
    from mbuild.convert.rows.hyper import HFConfig
    from mbuild.convert.rows.row import Family
    from mbuild.convert.rows.rules import Named
    from mbuild.gguf.model import Tensor

_UNUSED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


def hyper_parameters(
    checkpoint: Checkpoint, outtype: OutType, options: Conversion = AS_IT_IS
) -> Hyper:
    """The checkpoint's hyper-parameters, completed with its family's defaults.

    Raises :class:`FormatError` for a number of layers that its tensors cannot have.
    """
    row = checkpoint.family
    config = _class_of(checkpoint).complete(checkpoint.config)
    config |= {name: settle(config) for name, settle in row.settled.items()}
    layers = next((config[name] for name in LAYER_NAMES if name in config), None)
    nextn = as_integer(config.get(row.nextn) or 0, row.nextn) if row.nextn else 0
    if row.counted is not None and not nextn:
        nextn = row.counted(_of_text(row, tensor.name) or "" for tensor in checkpoint.tensors)
    if options.no_mtp and nextn:
        config, nextn = {k: v for k, v in config.items() if k != row.nextn}, 0
    blocks = as_integer(layers, "num_hidden_layers", low=1) + nextn
    if blocks > len(checkpoint.tensors):
        raise FormatError(
            f"config.json has {blocks} layers, but the checkpoint has only "
            f"{len(checkpoint.tensors)} tensors",
            hint="a shard is missing, or config.json belongs to another checkpoint",
        )
    rope, files = unified_rope(config), CheckpointFiles(checkpoint.files)
    return Hyper(row.gguf, checkpoint.hf_arch, config, rope, blocks, outtype, files, nextn)


def _class_of(checkpoint: Checkpoint) -> HFConfig:
    """The defaults that count for a checkpoint's config."""
    named = config_class(checkpoint.config.get("model_type"))
    return named if checkpoint.composed else NO_HF_CONFIG


def resolve_outtype(outtype: OutType, tensors: Mapping[str, Lazy]) -> OutType:
    """``auto`` becomes the type of the first matrix that is BF16 or F16, F16 if none is."""
    if outtype is not OutType.AUTO:
        return outtype
    for lazy in tensors.values():
        if len(lazy.shape) >= 2 and lazy.dtype in (DType.BF16, DType.F16):
            return OutType.BF16 if lazy.dtype is DType.BF16 else OutType.F16
    return OutType.F16


def source_tensors(checkpoint: Checkpoint) -> dict[str, Lazy]:
    """The checkpoint's tensors under the names that its family's rules know."""
    row, result = checkpoint.family, dict[str, Lazy]()
    for tensor in checkpoint.tensors:
        name = renamed(row, checkpoint.config, tensor.name)
        if name is None:
            continue
        if name in row.alike:
            name = row.alike[-1]
            if name in result:
                continue
        if name in result:
            raise FormatError(f"two tensors would be named {name!r}; {tensor.name!r} is the second")
        result[name] = lazy_of(tensor)
    head, embedding = result.get(f"{row.head}.weight"), result.get(row.same_head)
    if head is not None and embedding is not None and not differ(head, embedding):
        del result[f"{row.head}.weight"]
    return result


def left_out(checkpoint: Checkpoint) -> Iterator[str]:
    """A warning of the tensors that belong to encoders of images and sound."""
    row, config = checkpoint.family, checkpoint.config
    towers = [t.name for t in checkpoint.tensors if renamed(row, config, t.name) is None]
    if towers:
        yield (
            f"{len(towers)} tensors of encoders for images or sound are left out"
            f" ({towers[0]!r} and so on): the model reads text only; a projector file that was made"
            " elsewhere can be added with a second FROM"
        )


def renamed(row: Family, config: Mapping[str, Any], name: str) -> str | None:
    """A checkpoint's tensor name as the family's rules expect it; None for one left out."""
    found = _of_text(row, name)
    return found if found is None or row.renamed is None else row.renamed(config, found)


def _of_text(row: Family, name: str) -> str | None:
    """A checkpoint's tensor name without what stands around the text model; None for a tensor of
    an encoder."""
    for old, new in row.prefixes:
        if name.startswith(old):
            name = new + name[len(old) :]
    for old, new in row.replaced:
        name = name.replace(old, new)
    if row.towers.search(name):
        return None
    name = name.replace("language_model.", "")
    if name.endswith("e_score_correction_bias"):
        name = name.removesuffix("_bias") + ".bias"
    return name


def model_tensors(
    hp: Hyper, row: Family, tensors: Mapping[str, Lazy], options: Conversion = AS_IT_IS
) -> Iterator[Converted]:
    """The model's tensors in the file's order.

    Raises :class:`UnsupportedError` for a tensor that the family has no place
    for, :class:`FormatError` for one that does not fit.
    """
    name_of = name_map(hp, row)
    stacker = Stacker(row.stacks, hp) if row.stacks else None
    made = dequantize(hp.config, tensors, keep=options.keep_quantized)
    eight = eight_bit_names(tensors, made) if options.fp8_as_q8 else frozenset()
    extra = iter(row.extra(hp, tensors) if row.extra is not None else ())
    for name, lazy in kept_first(plain(made) if options.dequantize else made):
        if not isinstance(lazy, KeptWeight):
            yield from (Converted(name_of(label), item) for label, item in extra)
        if name.endswith(_UNUSED) or is_skipped(row, hp, name):
            continue
        if lazy.dtype in INTEGERS:
            raise UnsupportedError(
                f"{lazy.origin} holds integers ({lazy.dtype}) without scales: it is quantized",
                hint=UNQUANTIZED,
            )
        type_ = GGMLType.Q8_0 if name in eight else None
        for label, item in _kept_or_plain(row, stacker, hp, name, lazy, name_of):
            yield Converted(name_of(label), item, type_, label)
    for label, packed in row.last(hp, tensors) if row.last is not None else ():
        yield Converted(name_of(label), packed)
    if stacker is not None:
        stacker.finish()


def _kept_or_plain(
    row: Family,
    stacker: Stacker | None,
    hp: Hyper,
    name: str,
    lazy: Lazy,
    name_of: Callable[[str], str],
) -> list[Named]:
    """What the rules make of a tensor, in its bits if every rule and llama.cpp can leave it so."""
    if not isinstance(lazy, KeptWeight):
        return list(_transformed(row, stacker, hp, name, lazy))
    with suppress(FormatError):
        made = list(_transformed(row, stacker, hp, name, lazy))
        fitting = [(n, item if can_stay(name_of(n), item) else item.plain()) for n, item in made]
        return fitting
    return list(_transformed(row, stacker, hp, name, lazy.plain()))


def _transformed(
    row: Family, stacker: Stacker | None, hp: Hyper, name: str, lazy: Lazy
) -> Iterator[Named]:
    for rule in row.rules:
        if rule.pattern.search(name):
            yield from apply_rules(rule, hp, name, lazy)
            return
    stacks = stacker.take(name, lazy) if stacker is not None else None
    yield from [(name, lazy)] if stacks is None else stacks


def is_skipped(row: Family, hp: Hyper, name: str) -> bool:
    """Whether the family has no use for a tensor of that name."""
    return any(
        re.search(test, name) is not None if isinstance(test, str) else test(hp, name)
        for test in row.skip
    )


def _before_pooling(keys: tuple[KV, ...], more: tuple[KV, ...]) -> tuple[KV, ...]:
    """Entries in front of the kind of pooling, or behind all others."""
    at = next((n for n, kv in enumerate(keys) if kv.key.endswith(".pooling_type")), len(keys))
    return (*keys[:at], *more, *keys[at:])


def _beside(made: Converted) -> Iterator[Converted]:
    """The factors of a weight that stays in its bits, as tensors of their own."""
    if isinstance(made.item, KeptWeight):
        for label, values in made.item.factors.tensors():
            name = f"{made.name.removesuffix('weight')}{label}"
            yield Converted(name, constant(values, made.item.origin))


@dataclass(frozen=True, slots=True)
class BareModel:
    """A model without its general and tokenizer metadata.

    ``early`` stands right after ``general.architecture``, ``keys`` between the
    general and the tokenizer's entries, ``late`` after them. ``head`` and ``embedding`` are the
    checkpoint's, whether the model has both or not.
    """

    hyper: Hyper
    early: tuple[KV, ...]
    keys: tuple[KV, ...]
    late: tuple[KV, ...]
    tensors: tuple[Tensor, ...]
    described: DescribedModel
    head: Lazy | None
    embedding: Lazy | None


def convert_body(
    checkpoint: Checkpoint, outtype: OutType = OutType.AUTO, options: Conversion = AS_IT_IS
) -> BareModel:
    """What the family's row decides; raises as :func:`convert` does."""
    row = checkpoint.family
    sources = source_tensors(checkpoint)
    hp = hyper_parameters(checkpoint, resolve_outtype(outtype, sources), options)
    sources = dict(of_layers(row, hp, sources, options))
    hp = replace(hp, tensors=sources)
    made: dict[str, Converted] = {}
    for each in model_tensors(hp, row, sources, options):
        if each.name in made:
            raise FormatError(
                f"two tensors of the checkpoint would be named {each.name}:"
                f" {made[each.name].item.origin} and {each.item.origin}"
            )
        made[each.name] = each
    hp = replace(hp, kept=kept_types(each.item for each in made.values()))
    early = tuple(row.early(hp, sources)) if row.early is not None else ()
    keys = merged(write(row.keys, hp))
    described = DescribedModel(
        row,
        hp.hf_arch,
        _class_of(checkpoint).untied,
        hp.blocks,
        checkpoint.config,
        (*early, *keys),
        {name: shape_of(each.item) for name, each in made.items()},
        {name: each.item.origin for name, each in made.items()},
        checkpoint.tied,
        hp.main if options.mtp else 0,
    )
    places = layout_places(described, described.sizes({}))
    whole = {name for name, (slot, _) in places.items() if slot.whole}
    made = fused(made, hp.arch, options)
    if options.sentence_transformers_dense_modules:
        dense = {n: Converted(n, item) for n, item in dense_layers(hp, checkpoint.files)}
        made, keys = dense | made, _before_pooling(keys, tuple(dense_sizes(hp)))
    tensors = tuple(
        encoded(name, item, hp.outtype, whole, type_)
        for each in made.values()
        for name, item, type_, _ in (each, *_beside(each))
    )
    kept = ((each.source, name) for name, each in made.items() if isinstance(each.item, KeptWeight))
    late = tuple(activations(checkpoint.config, kept))
    head, embedding = sources.get("lm_head.weight"), sources.get("model.embed_tokens.weight")
    return BareModel(hp, early, keys, late, tensors, described, head, embedding)


def not_kept(checkpoint: Checkpoint, options: Conversion) -> Iterator[str]:
    """A warning of integers that were to be kept and are dequantized."""
    if not options.keep_quantized:
        return
    sources = source_tensors(checkpoint)
    names = lost(sources, dequantize(checkpoint.config, sources, keep=True))
    if names:
        yield (
            f"--keep-quantized: {names[0]} is dequantized"
            + (f", like {len(names) - 1} more" if len(names) > 1 else "")
            + ": its scales are not F16, or its groups of values do not fill whole blocks of ggml"
        )


def _check(body: BareModel) -> list[str]:
    """What llama.cpp would not load is refused, and so is what config.json contradicts."""
    hp = body.hyper
    tokens = None if body.described.row.padded else hp.optional_integer("vocab_size")
    kept = "output.weight" in body.described.shapes
    heads = check_head(hp, kept, body.head, body.embedding)
    return [*check_layout(body.described, tokens), *heads]


def _vocabulary(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    pre: str | None,
    warn: Callable[[str], None],
) -> list[KV]:
    """The checkpoint's own vocabulary, or of a draft its target's."""
    row = checkpoint.family
    if not row.drafts:
        return vocabulary(checkpoint.files, config, row.vocabulary, pre=pre, warn=warn)
    from mbuild.convert.drafting import target_vocabulary

    return target_vocabulary(checkpoint.files, config, row, pre=pre, warn=warn)


def convert(
    checkpoint: Checkpoint,
    outtype: OutType = OutType.AUTO,
    *,
    pre: str | None = None,
    options: Conversion = AS_IT_IS,
    warn: Callable[[str], None] = lambda text: None,
    alone: bool = True,
) -> Model:
    """The GGUF model of a checkpoint: metadata complete, tensors loaded on demand.

    Args:
        checkpoint: as :func:`~mbuild.convert.checkpoint.open_checkpoint` gives it.
        outtype: what matrices are stored as; ``auto`` keeps BF16 or F16.
        pre: the pre-tokenizer's name instead of the one that is found.
        options: what else is asked for.
        warn: told of what was put right or left out, and of what GGUF cannot say.
        alone: nobody else converts the encoders, so that it is said when they are left out.

    Raises:
        FormatError: for files that contradict each other.
        UnsupportedError: for what has no place in a GGUF file.
    """
    body = convert_body(checkpoint, outtype, options)
    towers = left_out(checkpoint) if alone else ()
    for warning in (*checkpoint.warnings, *towers, *_check(body)):
        warn(warning)
    arch, files = body.hyper.arch, checkpoint.files
    parameters = Parameters.count((t.name, t.dims) for t in body.tensors)
    config = dict(checkpoint.config)
    if body.hyper.config.get("vocab_size") is not None:
        config["vocab_size"] = body.hyper.config["vocab_size"]
    config[MASK_OF_DRAFT] = body.hyper.config.get(MASK_OF_DRAFT)
    entries = merged(
        (
            KV("general.architecture", ValueType.STRING, arch),
            *body.early,
            *general(
                checkpoint.name,
                files,
                arch,
                parameters,
                model_name=options.model_name,
                override=options.overrides,
            ),
            *body.keys,
            QUANTIZATION_VERSION,
            *body.late,
            *_vocabulary(checkpoint, config, pre, warn),
        )
    )
    values = {kv.key: kv.value for kv in entries}
    for text in unsaid(
        checkpoint.family, body.hyper, values.keys(), {tensor.name for tensor in body.tensors}
    ):
        warn(text)
    unused = () if options.sentence_transformers_dense_modules else unused_modules(body.hyper)
    for text in (*unused, *two_ropes(checkpoint.config), *not_kept(checkpoint, options)):
        warn(text)
    tokens = len(values.get("tokenizer.ggml.tokens") or ())
    for text in check_vocabulary(
        body.described, tokens, values.get("tokenizer.ggml.token_type_count")
    ):
        warn(text)
    return Model(entries, body.tensors)
