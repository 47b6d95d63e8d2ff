"""What adapters change, by the names of GGUF: of PEFT's folders, GGUF adapters and MLX's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.convert.lora.adapter import LoraAdapter, _known, open_adapter
from mbuild.convert.lora.factors import by_rules, pairs_by_rules, scaled
from mbuild.convert.lora.merging import Delta, LowRank, WholeWeight
from mbuild.convert.model_tensors import is_skipped, renamed
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.rules import Stacker
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.convert.lora.base import Base
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model, Tensor

_PART = regex(r"(?P<name>.+)\.lora_(?P<kind>[ab])$")
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
    adapter = open_adapter(name, files, warn, seen, merging=True)
    left = [w for w in (*adapter.vectors, *adapter.pairs) if _is_left_out(base, w)]
    if left:
        warn(
            f"{name}: {left[0]} and {len(left) - 1} more are changed by the adapter, but a GGUF"
            " model of this family has no place for them"
        )
        adapter = replace(
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
        for label, item in by_rules(base, _known(base, module), lazy):
            name = name_of(label)
            _check(base, name, item.shape, item.origin, may_grow=True)
            yield name, WholeWeight(item, weight)
    used = [s for s in base.row.stacks if any(s.pattern.search(w) for w in adapter.pairs)]
    stacks = (Stacker(used, base.hp), Stacker(used, base.hp))
    for module, pair in adapter.pairs.items():
        known = _known(base, module)
        scale = adapter.config.scale(module.removesuffix(".weight"), pair.rank)
        if any(stack.pattern.search(known) for stack in used):  # one scale for all of a stack
            pair = scaled(adapter.config, module, pair)
            scale = adapter.config.written_alpha() / pair.rank
        for label, a, b in pairs_by_rules(base, known, pair, stacks):
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


# GGUF.


def changes_of_gguf(adapter: Model, name: str, base: Base, weight: float) -> dict[str, Delta]:
    """The changes of a GGUF adapter, with llama.cpp's scale: alpha / rank, or 1 without alpha.

    Raises :class:`FormatError` where it does not fit the base.
    """
    kind, form = adapter.get("general.type"), adapter.get("adapter.type")
    if kind != "adapter" or form != "lora":
        raise UnsupportedError(f"{name}: it is not a LoRA adapter", hint="MERGE needs one")
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
            raise FormatError(f"{name}: {tensor.name} is not a factor of a LoRA pair")
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
        from mbuild.quant.decode import decoded

        data = np.frombuffer(memoryview(tensor.load()).cast("B"), np.uint8)
        return decoded(data, tensor.type).reshape(shape)

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
