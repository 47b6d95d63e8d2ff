"""A checkpoint's tensors by the rules of its family: names, order, and what is made of each.

Nothing is read but where a rule has to know values; weights are loaded later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.convert.checks.head import differ
from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.convert.fusing import Converted
from mbuild.convert.read.dequantize import dequantize, eight_bit_names, kept_first, plain
from mbuild.convert.read.kept import KeptWeight, can_stay
from mbuild.convert.read.lazy import Lazy, constant, lazy_of
from mbuild.convert.read.leftovers import INTEGERS, UNQUANTIZED
from mbuild.convert.rows.hyper import Hyper
from mbuild.convert.rows.names import name_map
from mbuild.convert.rows.rules import Stacker, apply_rules
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.convert.checkpoint import Checkpoint
    from mbuild.convert.rows.row import Family
    from mbuild.convert.rows.rules import Named


_UNUSED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


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
    found = text_name(row, name)
    return found if found is None or row.renamed is None else row.renamed(config, found)


def text_name(row: Family, name: str) -> str | None:
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


def beside(made: Converted) -> Iterator[Converted]:
    """The factors of a weight that stays in its bits, as tensors of their own."""
    if isinstance(made.item, KeptWeight):
        for label, values in made.item.factors.tensors():
            name = f"{made.name.removesuffix('weight')}{label}"
            yield Converted(name, constant(values, made.item.origin))
