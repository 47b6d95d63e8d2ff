"""A checkpoint as a GGUF model, equal to what llama.cpp's converter writes.

Everything is decided from the headers: names, shapes, types, order, metadata.
Weights are read when a tensor is loaded, one tensor at a time, from any
thread. (Two families keep a few numbers as tensors that become metadata or
must be zero; those are read at once.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mbuild.convert.checks.head import check_head
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
from mbuild.convert.model_tensors import beside, left_out, model_tensors, source_tensors, text_name
from mbuild.convert.read.dequantize import dequantize
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.kept import KeptWeight, kept_types
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.modelopt import activations
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.hyper import LAYER_NAMES, Hyper, as_integer, unified_rope
from mbuild.convert.rows.keys import MASK_OF_DRAFT, merged, write
from mbuild.convert.rows.nextn import of_layers
from mbuild.convert.rows.pooling import unused_modules
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.vocabulary.assemble import vocabulary as read_vocabulary
from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple, replace
from mbuild.gguf.model import KV, Model
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.convert.checkpoint import Checkpoint
    from mbuild.convert.rows.hyper import HFConfig
    from mbuild.gguf.model import Tensor


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
        nextn = row.counted(text_name(row, tensor.name) or "" for tensor in checkpoint.tensors)
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


def _before_pooling(keys: tuple[KV, ...], more: tuple[KV, ...]) -> tuple[KV, ...]:
    """Entries in front of the kind of pooling, or behind all others."""
    at = next((n for n, kv in enumerate(keys) if kv.key.endswith(".pooling_type")), len(keys))
    return (*keys[:at], *more, *keys[at:])


class BareModel(NamedTuple):
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
        for name, item, type_, _ in (each, *beside(each))
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
    from mbuild.convert.read.integers import lost

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
    checkpoint: Checkpoint, body: BareModel, pre: str | None, warn: Callable[[str], None]
) -> list[KV]:
    """The checkpoint's own vocabulary, or of a draft its target's."""
    row = checkpoint.family
    config = dict(checkpoint.config)
    if body.hyper.config.get("vocab_size") is not None:
        config["vocab_size"] = body.hyper.config["vocab_size"]
    config[MASK_OF_DRAFT] = body.hyper.config.get(MASK_OF_DRAFT)
    if not row.drafts:
        return read_vocabulary(checkpoint.files, config, row.vocabulary, pre=pre, warn=warn)
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
    vocabulary: bool = True,
) -> Model:
    """The GGUF model of a checkpoint: metadata complete, tensors loaded on demand.

    Args:
        checkpoint: as :func:`~mbuild.convert.checkpoint.open_checkpoint` gives it.
        outtype: what matrices are stored as; ``auto`` keeps BF16 or F16.
        pre: the pre-tokenizer's name instead of the one that is found.
        options: what else is asked for.
        warn: told of what was put right or left out, and of what GGUF cannot say.
        alone: nobody else converts the encoders, so that it is said when they are left out.
        vocabulary: whether it is read; without it the metadata has none, and is in no doubt.

    Raises:
        FormatError: for files that contradict each other.
        UnsupportedError: for what has no place in a GGUF file.
    """
    body = convert_body(checkpoint, outtype, options)
    towers = left_out(checkpoint) if alone else ()
    for warning in (*checkpoint.warnings, *towers, *_check(body)):
        warn(warning)
    entries = _entries(checkpoint, body, options)
    if vocabulary:
        entries = merged((*entries, *_vocabulary(checkpoint, body, pre, warn)))
        for text in _doubts(checkpoint, body, entries, options):
            warn(text)
    return Model(entries, body.tensors)


def _entries(checkpoint: Checkpoint, body: BareModel, options: Conversion) -> tuple[KV, ...]:
    """The model's metadata in front of its vocabulary, in the file's order, each key once."""
    arch = body.hyper.arch
    described = general(
        checkpoint.name,
        checkpoint.files,
        arch,
        Parameters.count((t.name, t.dims) for t in body.tensors),
        model_name=options.model_name,
        override=options.overrides,
    )
    return merged(
        (
            KV("general.architecture", ValueType.STRING, arch),
            *body.early,
            *described,
            *body.keys,
            QUANTIZATION_VERSION,
            *body.late,
        )
    )


def _doubts(
    checkpoint: Checkpoint, body: BareModel, entries: tuple[KV, ...], options: Conversion
) -> Iterator[str]:
    """Warnings of what the model does not say, or says otherwise than the checkpoint."""
    values = {kv.key: kv.value for kv in entries}
    names = {tensor.name for tensor in body.tensors}
    yield from unsaid(checkpoint.family, body.hyper, values.keys(), names)
    if not options.sentence_transformers_dense_modules:
        yield from unused_modules(body.hyper)
    yield from two_ropes(checkpoint.config)
    yield from not_kept(checkpoint, options)
    tokens = len(values.get("tokenizer.ggml.tokens") or ())
    types = values.get("tokenizer.ggml.token_type_count")
    yield from check_vocabulary(body.described, tokens, types)
