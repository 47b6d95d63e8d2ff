"""Matrices that llama.cpp can also load as one: queries, keys and values; experts' gate and up.

Which architectures have a place for them is what ``MODEL_TENSORS`` of llama.cpp's gguf-py says
(October 2026); its converter's ``--fuse-qkv`` and ``--fuse-gate-up-exps`` do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.joining import stack
from mbuild.convert.read.kept import KeptWeight
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from mbuild.convert.conversion import Conversion
    from mbuild.gguf.types import GGMLType

    Array = np.ndarray[Any, np.dtype[Any]]

_QKV_ARCHS = frozenset(
    """
    llama llama4 deci grok gptneox falcon baichuan starcoder bert modern-bert nomic-bert
    nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert mpt gptj refact bloom stablelm
    qwen qwen2 dream llada qwen2vl qwen2moe qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35
    qwen35moe qwen4exp plamo plamo2 plamo3 gpt2 phi2 phi3 phimoe codeshell orion internlm2
    minicpm gemma gemma2 gemma3 gemma3n gemma4 gemma-embedding starcoder2 jamba xverse
    command-r cohere2 dbrx olmo olmo2 seed_oss olmoe muse-glimmer openelm arctic deepseek
    deepseek2-ocr ernie4_5-moe chatglm glm4 glm4moe jais jais2 nemotron nemotron_h
    nemotron_h_moe exaone exaone4 exaone-moe granite granitemoe granitehybrid graniteswitch
    chameleon bailingmoe bailingmoe2 dots1 arcee afmoe ernie4_5 paddleocr falcon-h1 hunyuan-moe
    hunyuan-dense hunyuan_vl smollm3 gpt-oss lfm2 lfm2moe smallthinker apertus llada-moe
    grovemoe minimax-01 minimax-m2 cogvlm rnd1 pangu-embedded mistral3 mimo2 step35 spark2_5
    llama-embed maincoder kimi-linear
    """.split()  # noqa: SIM905
)
_EXPERT_ARCHS = frozenset(
    (
        *("qwen3next", "qwen35moe", "qwen4exp", "gemma4", "cohere2moe", "deepseek2-ocr"),
        *("granite_swa", "mistral4"),
    )
)
_LAYER = regex(r"^blk\.(\d+)\.(.+)$")


class Converted(NamedTuple):
    """A tensor of the model: GGUF's name, the values, and the type where that is settled already.

    ``source`` is the checkpoint's name of the weight, or of the stack that it became.
    """

    name: str
    item: Any
    type: GGMLType | None = None
    source: str = ""


class Fusion(NamedTuple):
    """Tensors of a layer that become one: their names in order, the new one, along which axis."""

    parts: tuple[str, ...]
    whole: str
    axis: int


_EXPERTS = Fusion(("ffn_gate_exps.weight", "ffn_up_exps.weight"), "ffn_gate_up_exps.weight", 1)


def _qkv(ending: str) -> Fusion:
    names = tuple(f"attn_{part}.{ending}" for part in "qkv")
    return Fusion(names, f"attn_qkv.{ending}", 0)


def fused(made: Mapping[str, Converted], arch: str, options: Conversion) -> dict[str, Converted]:
    """The tensors with those put together that the options ask for; each where its last part was.

    Raises :class:`UnsupportedError` for experts of an architecture without a place for them.
    """
    wanted: list[Fusion] = []
    if options.fuse_gate_up_exps:
        if arch not in _EXPERT_ARCHS:
            raise UnsupportedError(
                f"--fuse-gate-up-exps: llama.cpp has no place for fused experts in {arch} models",
                hint="leave the option out",
            )
        wanted.append(_EXPERTS)
    if options.fuse_qkv and arch in _QKV_ARCHS:
        wanted += [_qkv("weight"), _qkv("bias")]
    result = dict(made)
    for fusion in wanted:
        result = _together(result, fusion)
    return result


def _together(made: dict[str, Converted], fusion: Fusion) -> dict[str, Converted]:
    layers: dict[str, list[str]] = {}
    for name in made:
        match = _LAYER.match(name)
        if match is not None and match[2] in fusion.parts:
            layers.setdefault(match[1], []).append(name)
    last, gone = {}, set[str]()
    for layer, names in layers.items():
        if _complete(made, layer, names, fusion):
            last[names[-1]] = layer
            gone |= {*names}
    result = {}
    for name, each in made.items():
        if name in last:
            layer = last[name]
            items = [made[f"blk.{layer}.{part}"].item for part in fusion.parts]
            whole = f"blk.{layer}.{fusion.whole}"
            result[whole] = each._replace(name=whole, item=joined(items, fusion.axis))
        elif name not in gone:
            result[name] = each
    return result


def _complete(
    made: Mapping[str, Converted], layer: str, names: Sequence[str], fusion: Fusion
) -> bool:
    """Whether a layer has all parts, as values, and of queries, keys, values all biases or none."""
    items = [made[name].item for name in names]
    plain = all(isinstance(i, Lazy) and not isinstance(i, KeptWeight) for i in items)
    if len(names) < len(fusion.parts) or not plain:
        return False
    if fusion.axis == 1:
        return True
    biases = sum(f"blk.{layer}.attn_{part}.bias" in made for part in "qkv")
    return biases in (0, 3) or fusion.whole.endswith("bias")


def joined(items: Sequence[Lazy], axis: int) -> Lazy:
    """Tensors one behind another along an axis, in F32 if their types differ."""
    if len({item.dtype for item in items}) > 1:
        items = [_as_f32(item) for item in items]
    first = items[0]
    if axis == 1 and all(len(item.parts) == len(first.parts) > 0 for item in items):
        return stack([joined(each, 0) for each in zip(*(i.parts for i in items), strict=True)])
    shape = [*first.shape]
    shape[axis] = sum(item.shape[axis] for item in items)

    def load() -> Array:
        import numpy as np

        return np.concatenate([item.load() for item in items], axis)

    part = _part(items) if axis == 0 else None
    return Lazy(first.dtype, tuple(shape), load, first.origin, part=part)


def _as_f32(item: Lazy) -> Lazy:
    from mbuild.convert.read.dtypes import to_f32

    return Lazy(DType.F32, item.shape, lambda: to_f32(item.load(), item.dtype), item.origin)


def _part(items: Sequence[Lazy]) -> Callable[[int, int], Array] | None:
    """Values between two places of tensors that lie one behind another."""
    cuts = [item.part for item in items if item.part is not None and item.grain == 1]
    if len(cuts) < len(items):
        return None

    def part(start: int, stop: int) -> Array:
        import numpy as np

        found, at = [], 0
        for item, cut in zip(items, cuts, strict=True):
            low, high = max(start - at, 0), min(stop - at, item.size)
            if low < high:
                found.append(cut(low, high))
            at += item.size
        return np.concatenate(found)

    return part
