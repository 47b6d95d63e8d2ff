"""PEFT LoRA adapters as GGUF adapters, as ``convert_lora_to_gguf.py`` makes them.

An adapter changes a weight W (out, in) by scale * B A, with A (rank, in) and
B (out, rank). GGUF stores both under the weight's name, ``.lora_a`` and
``.lora_b``, and one ``adapter.lora.alpha``; llama.cpp's scale is alpha / rank.
What a family's rules do to the rows of W they do to the rows of B.

Two things are better here than there: rank-stabilized adapters (scale alpha /
sqrt(rank)) and ``alpha_pattern`` keep their scale, and GPT-2's transposed
weights get their adapter the right way round.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.convert.lora.factors import Pair, by_rules, pairs_by_rules, scaled
from mbuild.convert.lora.mlx import MLX_WEIGHTS, mlx_adapter
from mbuild.convert.lora.settings import LoraConfig, read_config
from mbuild.convert.metadata.general import QUANTIZATION_VERSION, Parameters, general
from mbuild.convert.model_tensors import is_skipped, renamed
from mbuild.convert.read.dtypes import OutType, to_f32
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.convert.read.safetensors import DType, StoredTensor, read_header
from mbuild.convert.read.torch_files import read_torch_file
from mbuild.convert.read.values import encode_checked
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.rules import Stacker
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from mbuild.convert.lora.base import Base
    from mbuild.gguf.files import Seen

WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_FACTOR = regex(
    r"\.lora_(?:(?P<kind>[AB])(?:\.(?P<adapter>\w+))?\.weight"
    r"|embedding_(?P<embedding>[AB])(?:\.(?P<named>\w+))?)$"
)
"""A factor's name; PEFT leaves the adapter's own name (``default``) out when it saves."""
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "modules_to_save.")

_GGML: dict[OutType, GGMLType] = {
    OutType.F32: GGMLType.F32,
    OutType.F16: GGMLType.F16,
    OutType.BF16: GGMLType.BF16,
    OutType.Q8_0: GGMLType.Q8_0,
}


class LoraAdapter(NamedTuple):
    """A PEFT adapter, checked in itself.

    ``name`` is the folder's name, ``pairs`` and ``vectors`` (whole norm
    weights, which some extractors keep) go by the base's tensor names, in the
    order of the file.
    """

    name: str
    files: Mapping[str, Path]
    config: LoraConfig
    pairs: Mapping[str, Pair]
    vectors: Mapping[str, Lazy]


def open_adapter(
    name: str,
    files: Mapping[str, Path],
    warn: Callable[[str], None] = lambda text: None,
    seen: Mapping[str, Seen] | None = None,
    *,
    merging: bool = False,
) -> LoraAdapter:
    """Read an adapter's config and the headers of its weights; ``warn`` is told what is lost.

    ``files`` maps names relative to the adapter's folder to readable files; ``seen`` has, for
    some of them, who is shown what is read of their tensors. ``merging``: whole weights have
    a place in the base, so any tensor may be one.
    Raises :class:`UnsupportedError` for another kind of adapter and for whole weights among the
    factors, :class:`SourceError` for missing files and :class:`FormatError` for malformed ones.
    """
    if MLX_WEIGHTS in files and WEIGHTS not in files:
        return _open_mlx(name, files, warn, seen or {}, merging=merging)
    config = read_config(name, CheckpointFiles(files), warn, merging=merging)
    if WEIGHTS not in files and _PICKLED not in files:
        raise SourceError(f"{name} has no {WEIGHTS}")
    used = WEIGHTS if WEIGHTS in files else _PICKLED
    read = read_header if WEIGHTS in files else read_torch_file
    stored = read(files[used], used, (seen or {}).get(used))
    factors, vectors = _sorted_out(stored, merging=merging)
    if not factors and not (merging and vectors):
        raise FormatError(f"{WEIGHTS}: no LoRA tensors")
    if vectors and not merging:
        warn(
            f"{WEIGHTS}: {next(iter(vectors))} and {len(vectors) - 1} more are whole weights, which"
            " llama.cpp does not apply: merge the adapter into its base to keep them"
        )
    pairs = {weight: _pair(weight, kinds) for weight, kinds in factors.items()}
    _warn_of_nothing(pairs, warn)
    return LoraAdapter(name, dict(files), config, pairs, vectors)


def _open_mlx(
    name: str,
    files: Mapping[str, Path],
    warn: Callable[[str], None],
    seen: Mapping[str, Seen],
    *,
    merging: bool,
) -> LoraAdapter:
    """An adapter as MLX writes it; it warns and raises as :func:`open_adapter`."""
    stored = read_header(files[MLX_WEIGHTS], MLX_WEIGHTS, seen.get(MLX_WEIGHTS))
    mlx = mlx_adapter(CheckpointFiles(files), stored, merging=merging)
    pairs = {
        weight: Pair(a, b, embedding="embed_tokens" in weight)
        for weight, (a, b) in mlx.factors.items()
    }
    if pairs:
        _warn_of_nothing(pairs, warn)
    return LoraAdapter(name, dict(files), mlx.config, pairs, mlx.whole)


def _sorted_out(
    stored: Iterable[StoredTensor], *, merging: bool
) -> tuple[dict[str, dict[str, Lazy]], dict[str, Lazy]]:
    """The factors by the weight that they are for, and the weights that are kept whole."""
    factors: dict[str, dict[str, Lazy]] = {}
    vectors: dict[str, Lazy] = {}
    adapters: set[str] = set()
    for tensor in sorted(stored, key=lambda t: t.offset):
        base = tensor.name.replace(_PREFIX, "")
        match = _FACTOR.search(base)
        if match is not None:
            weight = base[: match.start()] + ".weight"
            kind = match["kind"] or f"embedding {match['embedding']}"
            adapters.add(match["adapter"] or match["named"] or "")
            if len(adapters) > 1:
                raise UnsupportedError(
                    f"{WEIGHTS} holds several adapters: {', '.join(map(repr, sorted(adapters)))}",
                    hint="save one of them alone:"
                    " model.save_pretrained(FOLDER, selected_adapters=[NAME])",
                )
            factors.setdefault(weight, {})[kind] = lazy_of(tensor)
        elif ".base_layer.weight" in base:
            continue
        elif merging:
            vectors[_whole_name(base)] = lazy_of(tensor)
        elif "_layernorm" in base or ".norm" in base:
            vectors[base] = lazy_of(tensor)
        else:
            raise _unexpected(tensor.name)
    return factors, vectors


def _whole_name(name: str) -> str:
    """The base's name of a tensor that is kept whole; raises for what is none of the base's."""
    name = re.sub(r"\.modules_to_save(?:\.\w+)?(?=\.)", "", name)
    if ".lora_" in name or not name.endswith((".weight", ".bias")):
        raise UnsupportedError(
            f"{WEIGHTS}: {name!r} is neither a factor of a LoRA pair nor a weight of the base",
            hint="merge the adapter with peft: model.merge_and_unload()",
        )
    return name


def _warn_of_nothing(pairs: Mapping[str, Pair], warn: Callable[[str], None]) -> None:
    """Tell of an adapter whose products are all zero, as before the first step of a training."""
    for pair in pairs.values():
        if all(to_f32(each.load(), each.dtype).any() for each in (pair.b, pair.a)):
            return
    warn("the adapter changes nothing: in each of its pairs one factor is all zeros")


def _unexpected(name: str) -> UnsupportedError:
    whole = any(text in name for text in _EMBEDDINGS)
    return UnsupportedError(
        f"{WEIGHTS}: {name!r} is not a factor of a LoRA pair",
        hint="the adapter has whole weights (new tokens?): merge it into its base model and"
        " build that"
        if whole
        else "only LoRA adapters without biases or magnitudes can be converted",
    )


def _pair(weight: str, kinds: Mapping[str, Lazy]) -> Pair:
    embedding = "embedding A" in kinds or "embedding B" in kinds
    a, b = (kinds.get(f"embedding {k}" if embedding else k) for k in "AB")
    if a is None or b is None:
        raise FormatError(f"{WEIGHTS}: {weight!r} has only one of its two factors")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise FormatError(
            f"{WEIGHTS}: the factors of {weight!r} have the shapes {list(a.shape)} and "
            f"{list(b.shape)}, which cannot be multiplied"
        )
    return Pair(a, b, embedding)


def convert_adapter(adapter: LoraAdapter, base: Base, outtype: OutType = OutType.F32) -> Model:
    """The GGUF adapter for a base: metadata complete, tensors loaded on demand.

    ``outtype`` is what the factors are stored as; ``auto`` keeps BF16 or F16
    and makes F32 of everything else. Raises :class:`FormatError`, with the
    tensor's name, when the base lacks a weight or has one of another shape,
    and :class:`UnsupportedError` for a weight that the base's family takes
    apart in a way that factors cannot follow.
    """
    tensors: dict[str, Tensor] = {}
    resolved = _resolve(adapter, outtype)
    for name, item in _placed(adapter, base):
        if name in tensors:
            raise FormatError(f"{WEIGHTS}: two tensors would be named {name}")
        tensors[name] = _tensor(name, item, resolved)
    parameters = Parameters.count((t.name, t.dims) for t in tensors.values())
    entries = general(adapter.name, adapter.files, base.hp.arch, parameters, kind="adapter")
    alpha = adapter.config.written_alpha()
    entries.append(KV("adapter.lora.alpha", ValueType.FLOAT32, alpha))
    if tokens := adapter.config.invocation_tokens:
        key = "adapter.alora.invocation_tokens"
        entries.append(KV(key, ValueType.ARRAY, [*tokens], ValueType.UINT32))
    entries.append(QUANTIZATION_VERSION)
    return Model(tuple(entries), tuple(tensors.values()))


def _resolve(adapter: LoraAdapter, outtype: OutType) -> OutType:
    if outtype is not OutType.AUTO:
        return outtype
    first = next(iter(adapter.pairs.values()))
    kinds = {DType.BF16: OutType.BF16, DType.F16: OutType.F16}
    return kinds.get(first.a.dtype, OutType.F32) if first.a.dtype is first.b.dtype else OutType.F32


def _tensor(name: str, item: Lazy, outtype: OutType) -> Tensor:
    type_ = _GGML[outtype]
    if len(item.shape) < 2:
        type_ = GGMLType.F32
    elif type_ is GGMLType.Q8_0 and item.shape[-1] % 32:
        type_ = GGMLType.F16
    return Tensor(name, tuple(reversed(item.shape)), type_, partial(_encoded, item, type_))


def _encoded(item: Lazy, type_: GGMLType) -> Any:
    return encode_checked(item.load(), item.dtype, type_, item.origin)


def _placed(adapter: LoraAdapter, base: Base) -> Iterator[tuple[str, Lazy]]:
    """GGUF's names and the values under them, in llama.cpp's order: vectors, then pairs."""
    name_of = name_map(base.hp, base.row)
    for weight, lazy in adapter.vectors.items():
        for label, item in by_rules(base, _known(base, weight), lazy):
            name = name_of(label)
            _check(base, name, item.shape, item.origin)
            yield name, item
    used = [s for s in base.row.stacks if any(s.pattern.search(w) for w in adapter.pairs)]
    stacks = (Stacker(used, base.hp), Stacker(used, base.hp))
    for weight, pair in adapter.pairs.items():
        pair = scaled(adapter.config, weight, pair)
        for label, a, b in pairs_by_rules(base, _known(base, weight), pair, stacks):
            name = name_of(label)
            whole = (a.shape[-1], b.shape[-2]) if pair.embedding else (*b.shape[:-1], a.shape[-1])
            _check(base, name, whole, b.origin)
            if pair.embedding:  # llama.cpp looks rows of A up, one a token
                a = a.transpose(1, 0)
            yield f"{name}.lora_a", a
            yield f"{name}.lora_b", b
    for stacker in stacks:
        stacker.finish()


def _known(base: Base, weight: str) -> str:
    """A weight's name as the family's rules know it."""
    name = renamed(base.row, base.hp.config, weight)
    if name is None or is_skipped(base.row, base.hp, name):
        raise FormatError(
            f"the adapter changes {weight!r}, which the base model does not have",
            hint="this adapter was trained for another base model",
        )
    return name


def _check(base: Base, name: str, shape: tuple[int, ...], origin: str) -> None:
    """Raise :class:`FormatError` unless the base has a tensor of that name and shape."""
    dims = base.tensors.get(name)
    if dims is None and name == "output.weight":
        raise FormatError(
            f"{origin}: the base model has no tensor {name}: it ties the output to the embeddings",
            hint="llama.cpp cannot load an adapter of a tied output: merge the adapter into its"
            " base (model.merge_and_unload()) and build that",
        )
    if dims is None:
        raise FormatError(
            f"{origin}: the base model has no tensor {name}",
            hint="this adapter was trained for another base model",
        )
    if tuple(reversed(shape)) != dims:
        raise FormatError(
            f"{origin}: the adapter is for a {name} of shape {list(shape)}, "
            f"but the base model's is {list(reversed(dims))}",
            hint="this adapter was trained for another base model",
        )
