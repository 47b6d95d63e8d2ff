"""What adapters change, by the names of GGUF: of PEFT's folders, GGUF adapters and MLX's."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.convert.convert import is_skipped, renamed
from mbuild.convert.lora.adapter import (
    WEIGHTS,
    LoraAdapter,
    Pair,
    _factors,
    _known,
    _rows,
    _scaled,
    open_adapter,
)
from mbuild.convert.lora.merging import Delta, LowRank, WholeWeight
from mbuild.convert.lora.settings import CONFIG, LoraConfig
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.convert.read.safetensors import DType, read_header
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.rules import Stacker
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.convert.lora.base import Base
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model, Tensor

MLX_WEIGHTS = "adapters.safetensors"
"""The file of an adapter that mlx-lm saves."""

_MLX_SCALE = 20.0  # mlx-lm's LoRALinear where the config has no scale
_PART = re.compile(r"(?P<name>.+)\.lora_(?P<kind>[ab])$")
_OTHER_BASE = "this adapter was trained for another base model"
_DTYPES = {GGMLType.F32: DType.F32, GGMLType.F16: DType.F16, GGMLType.BF16: DType.BF16}


def changes_of_folder(
    name: str,
    files: Mapping[str, Path],
    base: Base,
    weight: float,
    warn: Callable[[str], None] = lambda text: None,
    seen: Mapping[str, Seen] | None = None,
) -> dict[str, Delta]:
    """The changes of an adapter's folder, PEFT's or MLX's, by the names of the base's tensors.

    Raises :class:`UnsupportedError` for adapters that change weights in another way, and
    :class:`FormatError` with a tensor's name where the base has none like it.
    """
    if MLX_WEIGHTS in files and WEIGHTS not in files:
        adapter = _open_mlx(name, files, seen)
    else:
        adapter = open_adapter(name, files, warn, seen, merging=True)
    left = [w for w in (*adapter.vectors, *adapter.pairs) if _is_left_out(base, w)]
    if left:
        warn(
            f"{name}: {left[0]} and {len(left) - 1} more are changed by the adapter, but a GGUF"
            " model of this family has no place for them"
        )
        adapter = dataclasses.replace(
            adapter,
            vectors={w: item for w, item in adapter.vectors.items() if w not in left},
            pairs={w: pair for w, pair in adapter.pairs.items() if w not in left},
        )
    return dict(_placed(adapter, base, weight))


def _is_left_out(base: Base, weight: str) -> bool:
    """Whether a conversion leaves a weight of the checkpoint out: a pooler, a tower of images."""
    name = renamed(base.row, base.hp.config, weight)
    return name is None or is_skipped(base.row, base.hp, name)


def _placed(adapter: LoraAdapter, base: Base, weight: float) -> Iterator[tuple[str, Delta]]:
    name_of = name_map(base.hp, base.row)
    for module, lazy in adapter.vectors.items():
        for label, item in _rows(base, _known(base, module), lazy):
            name = name_of(label)
            _check(base, name, item.shape, item.origin, may_grow=True)
            yield name, WholeWeight(item, weight)
    used = [s for s in base.row.stacks if any(s.pattern.search(w) for w in adapter.pairs)]
    stacks = (Stacker(used, base.hp), Stacker(used, base.hp))
    for module, pair in adapter.pairs.items():
        known = _known(base, module)
        scale = adapter.config.scale(module.removesuffix(".weight"), pair.rank)
        if any(stack.pattern.search(known) for stack in used):  # one scale for all of a stack
            pair = _scaled(adapter.config, module, pair)
            scale = adapter.config.written_alpha() / pair.rank
        for label, a, b in _factors(base, known, pair, stacks):
            name = name_of(label)
            if pair.embedding:
                low = LowRank(a.transpose(1, 0), b.transpose(1, 0), scale * weight)
            else:
                low = LowRank(b, a, scale * weight)
            shape = (*low.left.shape[:-1], low.right.shape[-1])
            _check(base, name, shape, b.origin)
            yield name, low
    for stacker in stacks:
        stacker.finish()


def _check(
    base: Base, name: str, shape: tuple[int, ...], origin: str, *, may_grow: bool = False
) -> None:
    """Raise :class:`FormatError` unless the base has a tensor of that name and shape."""
    dims = base.tensors.get(name)
    if dims is None and name == "output.weight":
        dims = base.tensors.get("token_embd.weight")
    if dims is None:
        raise FormatError(f"{origin}: the base model has no tensor {name}", hint=_OTHER_BASE)
    own = tuple(reversed(shape))
    grown = may_grow and name in _VOCABULARY and own[:-1] == dims[:-1] and own[-1] > dims[-1]
    if own != dims and not grown:
        raise FormatError(
            f"{origin}: the adapter is for a {name} of shape {list(shape)}, "
            f"but the base model's is {list(reversed(dims))}",
            hint=_OTHER_BASE,
        )


_VOCABULARY = ("token_embd.weight", "output.weight")


# MLX.


def _open_mlx(name: str, files: Mapping[str, Path], seen: Mapping[str, Seen] | None) -> LoraAdapter:
    """An adapter of mlx-lm: its factors are the transposed of PEFT's, its scale is one number.

    Format: ``mlx_lm/tuner/lora.py`` (W + (scale B^T) A^T) and ``tuner/utils.py``.
    """
    config = CheckpointFiles(files).json_object(CONFIG)
    if config is None:
        raise SourceError(
            f"{name} has no {CONFIG}", hint="mlx_lm.lora writes it beside the weights"
        )
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "full"):
        what = "DoRA (a magnitude for each output)" if kind == "dora" else str(kind)[:60]
        raise UnsupportedError(
            f"{CONFIG}: fine_tune_type: {what} cannot be merged",
            hint="fuse it with mlx_lm.fuse and build the result",
        )
    settings = config.get("lora_parameters") or {}
    scale = settings.get("scale", _MLX_SCALE) if isinstance(settings, dict) else _MLX_SCALE
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise FormatError(f"{CONFIG}: the scale is {str(scale)[:60]}; a number is needed")
    factors: dict[str, dict[str, Lazy]] = {}
    whole: dict[str, Lazy] = {}
    for tensor in read_header(files[MLX_WEIGHTS], MLX_WEIGHTS, (seen or {}).get(MLX_WEIGHTS)):
        match = _PART.fullmatch(tensor.name)
        if match is None:
            if tensor.name.endswith((".m", ".lora_m")) or "scales" in tensor.name:
                raise UnsupportedError(f"{MLX_WEIGHTS}: {tensor.name!r} is no factor of a LoRA")
            whole[tensor.name] = lazy_of(tensor)
        else:
            factors.setdefault(f"{match['name']}.weight", {})[match["kind"]] = lazy_of(tensor)
    pairs = {weight: _mlx_pair(weight, kinds) for weight, kinds in factors.items()}
    return LoraAdapter(name, dict(files), _FixedScale(1, float(scale)), pairs, whole)


class _FixedScale(LoraConfig):
    """Settings of MLX: the scale is said, and no alpha is divided by a rank."""

    __slots__ = ()

    def scale(self, module: str, rank: int) -> float:
        """The number of the config."""
        return self.alpha

    def written_alpha(self) -> float:
        """Only asked for stacks, which MLX's adapters name in another way."""
        raise UnsupportedError("an MLX adapter of experts cannot be merged")


def _mlx_pair(weight: str, kinds: Mapping[str, Lazy]) -> Pair:
    a, b = kinds.get("a"), kinds.get("b")
    if a is None or b is None:
        raise FormatError(f"{MLX_WEIGHTS}: {weight!r} has only one of its two factors")
    if len(a.shape) == 3:
        raise UnsupportedError(
            f"{MLX_WEIGHTS}: {weight!r} is an adapter of experts, which cannot be merged",
            hint="fuse it with mlx_lm.fuse and build the result",
        )
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        raise FormatError(
            f"{MLX_WEIGHTS}: the factors of {weight!r} have the shapes {list(a.shape)} and"
            f" {list(b.shape)}, which cannot be multiplied"
        )
    if "embed_tokens" in weight:  # (vocabulary, rank) and (rank, width)
        return Pair(a.transpose(1, 0), b.transpose(1, 0), True)
    return Pair(a.transpose(1, 0), b.transpose(1, 0), False)


# GGUF.


def changes_of_gguf(adapter: Model, name: str, base: Base, weight: float) -> dict[str, Delta]:
    """The changes of a GGUF adapter, with llama.cpp's scale: alpha / rank, or 1 without alpha.

    Raises :class:`FormatError` where it does not fit the base.
    """
    kind, form = adapter.get("general.type"), adapter.get("adapter.type")
    if kind != "adapter" or form != "lora":
        raise UnsupportedError(f"{name}: it is no LoRA adapter", hint="MERGE needs one")
    arch = adapter.get("general.architecture")
    if arch != base.hp.arch:
        raise FormatError(
            f"{name}: an adapter for {str(arch)[:60]!r} models, but the base is {base.hp.arch!r}",
            hint=_OTHER_BASE,
        )
    alpha = float(adapter.get("adapter.lora.alpha") or 0.0)
    tensors = {tensor.name: tensor for tensor in adapter.tensors}
    found: dict[str, Delta] = {}
    for tensor in adapter.tensors:
        match = _PART.fullmatch(tensor.name)
        if match is None:
            raise FormatError(f"{name}: {tensor.name} is no factor of a LoRA pair")
        if match["kind"] == "b":
            continue
        other = tensors.get(f"{match['name']}.lora_b")
        if other is None:
            raise FormatError(f"{name}: {match['name']} has only one of its two factors")
        found[match["name"]] = _gguf_pair(name, match["name"], (tensor, other), base, alpha, weight)
    if not found or len(tensors) != 2 * len(found):
        raise FormatError(f"{name}: not every factor has its pair")
    return found


def _gguf_pair(
    file: str,
    name: str,
    pair: tuple[Tensor, Tensor],
    base: Base,
    alpha: float,
    weight: float,
) -> LowRank:
    a, b = (_lazy(tensor, file) for tensor in pair)
    rank = b.shape[-1]
    scale = (alpha / rank if alpha else 1.0) * weight
    if "token_embd" in name:  # llama.cpp looks rows of A up, one a token
        low = LowRank(a, b.transpose(1, 0), scale)
    else:
        low = LowRank(b, a, scale)
    left, right = low.left.shape, low.right.shape
    if left[-1] != right[-2] or left[:-2] != right[:-2]:
        raise FormatError(f"{file}: the factors of {name} cannot be multiplied")
    _check(base, name, (*left[:-1], right[-1]), f"{file}: {name}")
    return low


def _lazy(tensor: Tensor, file: str) -> Lazy:
    """A tensor of a GGUF file as one of a checkpoint; a quantized one is decoded."""
    import numpy as np

    shape = tuple(reversed(tensor.dims))
    origin = f"{file}: {tensor.name}"
    dtype = _DTYPES.get(tensor.type)
    if dtype is not None:
        view = {DType.F32: "<f4", DType.F16: "<f2", DType.BF16: "<u2"}[dtype]

        def load() -> Any:
            data = memoryview(tensor.load()).cast("B")
            return np.frombuffer(data, view).reshape(shape)

        return Lazy(dtype, shape, load, origin)

    def decode() -> Any:
        import gguf

        data = np.frombuffer(memoryview(tensor.load()).cast("B"), np.uint8)
        rows = data.reshape(math.prod(shape[:-1]), -1)
        kind = gguf.GGMLQuantizationType(int(tensor.type))
        return gguf.quants.dequantize(rows, kind).reshape(shape)

    return Lazy(DType.F32, shape, decode, origin)


# Tokens that an adapter's vocabulary has more than its base.


def added_tokens(files: Mapping[str, Path]) -> dict[int, tuple[str, bool]]:
    """The added tokens of an adapter's folder by their numbers, and whether each is special."""
    found: dict[int, tuple[str, bool]] = {}
    reader = CheckpointFiles(files)
    tokenizer = reader.json_object("tokenizer.json") or {}
    for token in tokenizer.get("added_tokens") or ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            found[token["id"]] = str(token.get("content", "")), token.get("special") is True
    extra = reader.json_object("added_tokens.json") or {}
    for text, number in extra.items():
        if type(number) is int:
            found.setdefault(number, (str(text), False))
    return found
