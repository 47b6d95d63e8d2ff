"""A checkpoint as a GGUF model, equal to what llama.cpp's converter writes.

Everything is decided from the headers: names, shapes, types, order, metadata.
Weights are read when a tensor is loaded, one tensor at a time, from any
thread. (Two families keep a few numbers as tensors that become metadata or
must be zero; those are read at once.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.convert.checks.head import check_head, differ
from mbuild.convert.checks.layout import (
    DescribedModel,
    check_layout,
    check_vocabulary,
    layout_places,
)
from mbuild.convert.checks.unsaid import unsaid
from mbuild.convert.families import config_class
from mbuild.convert.metadata.general import QUANTIZATION_VERSION, Parameters, general
from mbuild.convert.read.dequantize import dequantize
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy, Packed, lazy_of
from mbuild.convert.read.leftovers import INTEGERS, UNQUANTIZED
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.values import check_mxfp4, encode_checked
from mbuild.convert.rows.hyper import LAYER_NAMES, Hyper, as_integer, unified_rope
from mbuild.convert.rows.keys import merged, write
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.pooling import unused_modules
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Stacker, apply_rules
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.memory import room
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType, ValueType, tensor_nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mbuild.convert.checkpoint import Checkpoint
    from mbuild.convert.rows.hyper import HFConfig
    from mbuild.convert.rows.row import Family
    from mbuild.convert.rows.rules import Named

MAX_DIMS = 4
_WIDEST = 4  # bytes of the widest element

_UNUSED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


_GGML: dict[OutType, GGMLType] = {
    OutType.F32: GGMLType.F32,
    OutType.F16: GGMLType.F16,
    OutType.BF16: GGMLType.BF16,
    OutType.Q8_0: GGMLType.Q8_0,
}


def hyper_parameters(checkpoint: Checkpoint, outtype: OutType) -> Hyper:
    """The checkpoint's hyper-parameters, completed with its family's defaults.

    Raises :class:`FormatError` for a number of layers that its tensors cannot have.
    """
    row = checkpoint.family
    config = _class_of(checkpoint).complete(checkpoint.config)
    config |= {name: settle(config) for name, settle in row.settled.items()}
    layers = next((config[name] for name in LAYER_NAMES if name in config), None)
    nextn = as_integer(config.get(row.nextn) or 0, row.nextn) if row.nextn else 0
    if row.counted is not None and not nextn:
        nextn = row.counted(tensor.name for tensor in checkpoint.tensors)
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
    return name if row.renamed is None else row.renamed(config, name)


def model_tensors(
    hp: Hyper, row: Family, tensors: Mapping[str, Lazy]
) -> Iterator[tuple[str, Lazy | Packed]]:
    """GGUF's names and the values to be stored under them, in the file's order.

    Raises :class:`UnsupportedError` for a tensor that the family has no place
    for, :class:`FormatError` for one that does not fit.
    """
    name_of = name_map(hp, row)
    if row.extra is not None:
        for name, item in row.extra(hp, tensors):
            yield name_of(name), item
    stacker = Stacker(row.stacks, hp) if row.stacks else None
    for name, lazy in dequantize(hp.config, tensors).items():
        if name.endswith(_UNUSED) or is_skipped(row, hp, name):
            continue
        if lazy.dtype in INTEGERS:
            raise UnsupportedError(
                f"{lazy.origin} holds integers ({lazy.dtype}) without scales: it is quantized",
                hint=UNQUANTIZED,
            )
        for label, item in _transformed(row, stacker, hp, name, lazy):
            yield name_of(label), item
    if stacker is not None:
        stacker.finish()


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


def tensor_type(
    name: str, shape: tuple[int, ...], outtype: OutType, whole: Collection[str]
) -> GGMLType:
    """What a tensor is stored as: vectors, norms, biases and those of ``whole`` as F32,
    a matrix whose rows are no whole blocks as F16, all others as asked for."""
    if len(shape) <= 1 or name.endswith("_norm.weight") or not name.endswith(".weight"):
        return GGMLType.F32
    if name in whole:
        return GGMLType.F32
    if outtype is OutType.Q8_0 and shape[-1] % 32:
        return GGMLType.F16
    return _GGML[outtype]


def _tensor(name: str, item: Lazy | Packed, outtype: OutType, whole: Collection[str]) -> Tensor:
    dims = tuple(reversed(item.shape))
    if len(dims) > MAX_DIMS:
        raise FormatError(f"tensor {name} has {len(dims)} dimensions, more than {MAX_DIMS}")
    if isinstance(item, Packed):
        return Tensor(name, dims, item.type, partial(_stored, item))
    type_ = tensor_type(name, item.shape, outtype, whole)
    return Tensor(name, dims, type_, Encoded(name, item, type_, 0, item.size))


def _stored(item: Packed) -> Any:
    blocks = item.load()
    return check_mxfp4(blocks, item.origin) if item.type is GGMLType.MXFP4 else blocks


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor's ``load``: values as GGUF's type ``type``, those from ``start`` to ``stop``.

    The places are flat indices, multiples of 32 but for the last. The writer
    takes a large tensor in pieces, so that it is not in memory whole. ``name``
    is GGUF's, for messages.
    """

    name: str
    item: Lazy
    type: GGMLType
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Bytes of the result."""
        return tensor_nbytes(self.type, (self.stop - self.start,))

    def __call__(self) -> Any:
        """The bytes, as a flat array; raises :class:`FormatError` for what is not finite."""
        item = self.item
        if item.part is not None:
            return self._encoded(item, item.part(self.start, self.stop), self.start)
        if not item.parts:
            return self._encoded(item, item.load())
        # A stack of experts can be larger than memory is; one at a time needs room for one more.
        out = room(self.count)
        size = out.size // len(item.parts)
        for number, part in enumerate(item.parts):
            out[number * size : (number + 1) * size] = self._encoded(part, part.load())
        return out

    def _encoded(self, item: Lazy, values: Any, start: int = 0) -> Any:
        origin = f"{item.origin} ({self.name})"
        return encode_checked(values, item.dtype, self.type, origin, start)

    def pieces(self, size: int, row: int = 1) -> Iterator[Encoded]:
        """The tensor as loads of at most ``size`` bytes, in order, as far as it can be cut.

        They begin and end with rows of ``row`` bytes of the result, or with blocks of 32.
        """
        block = BLOCKS[self.type]
        values = max(row // block.size * block.weights, 32)
        for part in self.item.parts or (self.item,):
            first, last = (self.start, self.stop) if part is self.item else (0, part.size)
            unit = math.lcm(values, part.grain)
            step = max(size // _WIDEST // unit, 1) * unit
            step = step if part.part is not None else part.size
            for start in range(first, last, step):
                yield Encoded(self.name, part, self.type, start, min(start + step, last))


@dataclass(frozen=True, slots=True)
class BareModel:
    """A model without its general and tokenizer metadata.

    ``early`` stands right after ``general.architecture``, ``keys`` between the
    general and the tokenizer's entries. ``head`` and ``embedding`` are the
    checkpoint's, whether the model has both or not.
    """

    hyper: Hyper
    early: tuple[KV, ...]
    keys: tuple[KV, ...]
    tensors: tuple[Tensor, ...]
    described: DescribedModel
    head: Lazy | None
    embedding: Lazy | None


def convert_body(checkpoint: Checkpoint, outtype: OutType = OutType.AUTO) -> BareModel:
    """What the family's row decides; raises as :func:`convert` does."""
    row = checkpoint.family
    sources = source_tensors(checkpoint)
    hp = replace(hyper_parameters(checkpoint, resolve_outtype(outtype, sources)), tensors=sources)
    items: dict[str, Lazy | Packed] = {}
    for name, item in model_tensors(hp, row, sources):
        if name in items:
            raise FormatError(
                f"two tensors of the checkpoint would be named {name}: {items[name].origin}"
                f" and {item.origin}"
            )
        items[name] = item
    early = tuple(row.early(hp, sources)) if row.early is not None else ()
    keys = merged(write(row.keys, hp))
    described = DescribedModel(
        row,
        hp.hf_arch,
        _class_of(checkpoint).untied,
        hp.blocks,
        checkpoint.config,
        (*early, *keys),
        {name: item.shape for name, item in items.items()},
        {name: item.origin for name, item in items.items()},
        checkpoint.tied,
    )
    places = layout_places(described, described.sizes({}))
    whole = {name for name, (slot, _) in places.items() if slot.whole}
    tensors = tuple(_tensor(name, item, hp.outtype, whole) for name, item in items.items())
    head, embedding = sources.get("lm_head.weight"), sources.get("model.embed_tokens.weight")
    return BareModel(hp, early, keys, tensors, described, head, embedding)


def _check(body: BareModel) -> list[str]:
    """What llama.cpp would not load is refused, and so is what config.json contradicts."""
    hp = body.hyper
    tokens = None if body.described.row.padded else hp.optional_integer("vocab_size")
    kept = "output.weight" in body.described.shapes
    heads = check_head(hp, kept, body.head, body.embedding)
    return [*check_layout(body.described, tokens), *heads]


def convert(
    checkpoint: Checkpoint,
    outtype: OutType = OutType.AUTO,
    *,
    pre: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
    alone: bool = True,
) -> Model:
    """The GGUF model of a checkpoint: metadata complete, tensors loaded on demand.

    Args:
        checkpoint: as :func:`~mbuild.convert.checkpoint.open_checkpoint` gives it.
        outtype: what matrices are stored as; ``auto`` keeps BF16 or F16.
        pre: the pre-tokenizer's name instead of the one that is found.
        warn: told of what was put right or left out, and of what GGUF cannot say.
        alone: nobody else converts the encoders, so that it is said when they are left out.

    Raises:
        FormatError: for files that contradict each other.
        UnsupportedError: for what has no place in a GGUF file.
    """
    body = convert_body(checkpoint, outtype)
    towers = left_out(checkpoint) if alone else ()
    for warning in (*checkpoint.warnings, *towers, *_check(body)):
        warn(warning)
    arch, files = body.hyper.arch, checkpoint.files
    parameters = Parameters.count((t.name, t.dims) for t in body.tensors)
    config = dict(checkpoint.config)
    if body.hyper.config.get("vocab_size") is not None:
        config["vocab_size"] = body.hyper.config["vocab_size"]
    entries = merged(
        (
            KV("general.architecture", ValueType.STRING, arch),
            *body.early,
            *general(checkpoint.name, files, arch, parameters),
            *body.keys,
            QUANTIZATION_VERSION,
            *vocabulary(files, config, checkpoint.family.vocabulary, pre=pre, warn=warn),
        )
    )
    values = {kv.key: kv.value for kv in entries}
    for text in unsaid(
        checkpoint.family, body.hyper, values.keys(), {tensor.name for tensor in body.tensors}
    ):
        warn(text)
    for text in unused_modules(body.hyper):
        warn(text)
    tokens = len(values.get("tokenizer.ggml.tokens") or ())
    for text in check_vocabulary(
        body.described, tokens, values.get("tokenizer.ggml.token_type_count")
    ):
        warn(text)
    return Model(entries, body.tensors)
