"""A model's tensors held against the layout of its architecture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.checks.origins import Origins
from mbuild.convert.rows.hyper import INCOMPLETE
from mbuild.convert.rows.layout import in_layer
from mbuild.convert.rows.parts import LAYER_EPSILON, RMS_EPSILON
from mbuild.convert.rows.sizes import Sizes
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.gguf.hyperparameters import MAX_EXPERTS, MAX_LAYERS

if TYPE_CHECKING:
    from mbuild.convert.rows.layout import Slot, TensorLayout
    from mbuild.convert.rows.row import Family
    from mbuild.gguf.model import KV

_LAYER = regex(r"^(?:enc\.|dec\.)?blk\.(\d+)\.(.+)$")
_OTHER_CONFIG = "a shard is missing, or config.json belongs to another checkpoint"
_PROMISES: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "qkv": (("attention_bias", True), ("qkv_bias", True)),
    "mlp": (("mlp_bias", True),),
    **dict.fromkeys(
        ("exp_probs_b.bias", "exp_probs_b."),
        (
            ("topk_method", "noaux_tc"),
            ("use_expert_bias", True),
            ("use_routing_bias", True),
            ("moe_router_enable_expert_bias", True),
        ),
    ),
}
"""What config.json says where sets of tensors that may be there have to be."""

_QUERIES = regex(r"\.attn_(?:q|qkv)\.weight$")

_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class DescribedModel(NamedTuple):
    """What is known of a model before its weights are read.

    ``row`` is the family's, ``untied`` says that silence about tie_word_embeddings means false,
    ``tied`` that the root of config.json says true;
    ``shapes`` are the tensors' under GGUF's names, slowest dimension first;
    ``origins`` say where each comes from, for messages; ``first`` is the first layer that the
    file has.
    """

    row: Family
    hf_arch: str
    untied: bool
    blocks: int
    config: Mapping[str, Any]
    entries: Sequence[KV]
    shapes: Mapping[str, tuple[int, ...]]
    origins: Mapping[str, str]
    tied: bool = False
    first: int = 0

    @property
    def arch(self) -> str:
        """GGUF's name of the architecture."""
        return self.row.gguf

    def origins_of(self) -> Origins:
        """What the checkpoint calls the tensors."""
        return Origins(self.arch, self.blocks, self.origins, self.row.head)

    def sizes(self, given: Mapping[str, int]) -> Sizes:
        """The sizes, with those that no metadata has."""
        fused = any(name.endswith(".attn_qkv.weight") for name in self.shapes)
        predicts = any(name.endswith("nextn.eh_proj.weight") for name in self.shapes)
        gated = any(name.endswith(".ffn_gate.weight") for name in self.shapes)
        found = {"fused": int(fused), "predicts": int(predicts), "gated": int(gated)}
        found["markov"] = (self.shapes.get("markov_w1.weight") or (0,))[-1]
        return Sizes(
            self.arch, self.entries, self.config, {**given, **found}, self.row.layout.sizes
        )


def check_layout(model: DescribedModel, tokens: int | None) -> list[str]:
    """Raise :class:`FormatError` unless llama.cpp finds every tensor, well shaped, and no other.

    ``tokens`` is the size of the vocabulary as far as config.json says it. Gives warnings
    of what llama.cpp's converter writes all the same, and its loader does not take.
    """
    layout = model.row.layout
    sizes = model.sizes({} if tokens is None else {"tokens": tokens})
    warnings = _check_keys(model, layout)
    _check_numbers(model, layout, sizes)
    places = layout_places(model, sizes)
    _check_present(model, places)
    for name, (slot, layer) in places.items():
        if name in model.shapes:
            _check_shape(model, sizes, name, slot, layer)
    _check_together(model, places)
    _check_no_other(model, places)
    _check_head(model, layout)
    warnings += _untyped(model, places)
    return [*warnings, *(layout.doubts(sizes, model.shapes) if layout.doubts else ())]


def check_vocabulary(model: DescribedModel, tokens: int, types: int | None) -> list[str]:
    """Raise :class:`FormatError` for an embedding that has not one row for each token.

    ``tokens`` and ``types`` are the counts that the metadata got. Gives a warning of tokens
    that only mark images and have no row.
    """
    layout = model.row.layout
    beyond = _tokens_of_images(model, tokens)
    tokens -= beyond
    sizes = model.sizes({"tokens": tokens} | ({} if types is None else {"types": types}))
    for slot in layout.model:
        if slot.name in model.shapes and {"tokens", "types"} & set(slot.dims):
            _check_shape(model, sizes, slot.name, slot, 0)
    if not beyond:
        return []
    return [
        f"the tokenizer has {tokens + beyond} tokens, {beyond} more than the embedding has rows:"
        " llama.cpp loads no such model; resize the embedding, or remove the tokens that were added"
    ]


def _tokens_of_images(model: DescribedModel, tokens: int) -> int:
    """How many tokens of a multimodal checkpoint have no row of the embedding.

    They were added to mark images, where the embedding has as many rows as config.json says;
    llama.cpp's converter writes them all the same.
    """
    rows = model.shapes.get("token_embd.weight", (0,))[0]
    sees = isinstance(model.config.get("vision_config"), dict)
    fits = sees and rows == model.config.get("vocab_size")
    return max(tokens - rows, 0) if fits else 0


def layout_places(model: DescribedModel, sizes: Sizes) -> dict[str, tuple[Slot, int]]:
    """The places for tensors of a model of these sizes, by whole names; each with its layer."""
    layout = model.row.layout
    places = {slot.name: (slot, 0) for slot in layout.model}
    for layer in range(model.first, model.blocks):
        places |= {in_layer(slot.name, layer): (slot, layer) for slot in layout.at(sizes, layer)}
    return places


def _check_keys(model: DescribedModel, layout: TensorLayout) -> list[str]:
    """The metadata that llama.cpp stops without."""
    keys = {kv.key.removeprefix(f"{model.arch}.") for kv in model.entries}
    warnings = []
    attends = any(_QUERIES.search(name) for name in model.shapes)
    heads = ("attention.head_count",) if attends else ()
    for key in ("context_length", "embedding_length", *heads, *layout.keys):
        if key in keys:
            continue
        if (
            key == RMS_EPSILON and LAYER_EPSILON in keys
        ):  # what llama.cpp's converter makes of EXAONE 3
            warnings.append(
                f"llama.cpp cannot load a model without {model.arch}.{key};"
                " add rms_norm_eps to config.json"
            )
            continue
        raise FormatError(
            f"config.json has no value for {model.arch}.{key}, which llama.cpp needs",
            hint=INCOMPLETE,
        )
    return warnings


def _check_numbers(model: DescribedModel, layout: TensorLayout, sizes: Sizes) -> None:
    """The conditions under which llama.cpp stops before it looks at a tensor."""
    if model.blocks > MAX_LAYERS:
        raise FormatError(
            f"config.json has {model.blocks} layers; llama.cpp allows at most {MAX_LAYERS}"
        )
    experts = sizes.value("experts", 0) or 0
    used = max((sizes.value("used", layer) or 0 for layer in range(model.blocks)), default=0)
    if experts > MAX_EXPERTS:
        raise FormatError(
            f"config.json has {experts} experts; llama.cpp allows at most {MAX_EXPERTS}"
        )
    if used > experts or (experts and not used):
        raise FormatError(
            f"config.json has {sizes.described('experts', 0)}, but {sizes.described('used', 0)}"
        )
    if layout.one_head and sizes.value("rotary", 0) != sizes.value("key", 0):
        raise FormatError(
            f"config.json: RoPE rotates {sizes.value('rotary', 0)} of each head's "
            f"{sizes.value('key', 0)} dimensions; llama.cpp's {model.arch} needs all of them"
        )


def _check_present(model: DescribedModel, places: Mapping[str, tuple[Slot, int]]) -> None:
    missing = [n for n, (slot, _) in places.items() if not slot.together and n not in model.shapes]
    if not missing:
        return
    origins = model.origins_of()
    layers = sorted({int(match[1]) for name in missing if (match := _LAYER.match(name))})
    whole = [layer for layer in layers if not any(f"blk.{layer}." in name for name in model.shapes)]
    if whole:
        raise FormatError(
            f"config.json says {model.blocks} layers, but layer {whole[0]} has no tensors",
            hint=_OTHER_CONFIG,
        )
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise FormatError(
        f"tensor {origins.source(missing[0])!r} is missing{others}; "
        f"a {model.arch} model needs it as {missing[0]}",
        hint=_OTHER_CONFIG,
    )


def _check_shape(model: DescribedModel, sizes: Sizes, name: str, slot: Slot, layer: int) -> None:
    shape = model.shapes[name]
    dims = [sizes.dim(dim, layer) for dim in reversed(slot.dims)]
    wrong = [
        position
        for position, dim in enumerate(dims)
        if dim is not None and (len(shape) != len(dims) or shape[position] != dim)
    ]
    if not wrong or _flat(shape) == _flat(dims):
        return
    expressions = list(reversed(slot.dims))
    used = dict.fromkeys(
        n for at in wrong for n in sizes.names(expressions[at]) if n in sizes.known
    )
    asked = [value if value is not None else "any" for value in dims]
    turned = list(reversed(shape)) == dims
    values = ", ".join(dict.fromkeys(sizes.described(size, layer) for size in used))
    raise FormatError(
        f"{model.origins[name]} has the shape {list(shape)} as {name}, but config.json asks "
        f"for {asked}: {values}".replace("'any'", "any"),
        hint="the matrix is transposed" if turned else _hint(name, used),
    )


def _flat(shape: Sequence[int | None]) -> list[int | None]:
    """A shape without leading ones, which GGUF does not tell from none."""
    result = list(shape)
    while len(result) > 1 and result[0] == 1:
        del result[0]
    return result


def _hint(name: str, used: Iterable[str]) -> str:
    if "tokens" in used:
        return "resize the embedding or correct vocab_size in config.json"
    if _LAYER.match(name):
        return (
            "correct config.json, or take it from the base model; llama.cpp needs the same sizes "
            "in all layers"
        )
    return "config.json may belong to another checkpoint"


def _check_together(model: DescribedModel, places: Mapping[str, tuple[Slot, int]]) -> None:
    """Sets of optional tensors are complete, in all layers or in none."""
    sets: dict[str, list[str]] = {}
    for name, (slot, _) in places.items():
        if slot.together:
            sets.setdefault(slot.together, []).append(name)
    for label, names in sets.items():
        missing = [name for name in names if name not in model.shapes]
        if not missing:
            continue
        promises = (p for p in _PROMISES.get(label, ()) if model.config.get(p[0]) == p[1])
        name, value = next(promises, ("", None))
        if len(missing) < len(names):
            there = next(name for name in names if name in model.shapes)
            why = f"{model.origins[there]} is there"
        elif name:
            why = f"config.json says {name}: {json.dumps(value)}"
        elif label == "qkv" and model.row.biased:
            why = f"every {model.hf_arch} has it"
        else:
            continue
        source = model.origins_of().source(missing[0])
        raise FormatError(f"tensor {source!r} is missing, but {why}", hint=_OTHER_CONFIG)


def _untyped(model: DescribedModel, places: Mapping[str, tuple[Slot, int]]) -> Iterator[str]:
    """A warning of kinds of tokens that config.json speaks of and no tensor has."""
    types, name = model.config.get("type_vocab_size"), "token_types.weight"
    if name in places and name not in model.shapes and types:
        yield (
            f"config.json says type_vocab_size: {str(types)[:20]}, but the checkpoint has no"
            " embeddings of token types: they are left out"
        )


def _check_no_other(model: DescribedModel, places: Mapping[str, tuple[Slot, int]]) -> None:
    other = [name for name in model.shapes if name not in places]
    if other:
        raise FormatError(
            f"{model.origins[other[0]]} would be {other[0]}, for which llama.cpp has no place in "
            f"this {model.arch} model",
            hint="config.json may belong to another checkpoint, or the layer is one that llama.cpp "
            "does not know; without the tensor it would be another model",
        )


def _check_head(model: DescribedModel, layout: TensorLayout) -> None:
    """A model that does not share its embedding has an output matrix of its own."""
    embeds = any(kv.key == f"{model.arch}.pooling_type" for kv in model.entries)
    if layout.tied or model.tied or "output.weight" in model.shapes or embeds:
        return
    said = model.config.get("tie_word_embeddings")
    if said is None and model.untied:
        said, why = False, "does not say tie_word_embeddings, which is false for this model_type"
    else:
        why = "says tie_word_embeddings: false"
    if said is False and model.hf_arch.endswith(_WITH_HEAD):
        source = model.origins_of().source("output.weight")
        raise FormatError(
            f"tensor {source!r} is missing, and config.json {why}",
            hint="a shard is missing, or the model uses the embedding there and"
            " tie_word_embeddings should be true",
        )
