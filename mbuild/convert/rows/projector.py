"""One kind of projector: a row of the table that its conversion is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.keys import entry
from mbuild.convert.rows.towers import BLOCKS, FEED_FORWARD, HEADS, WIDTH, Towers, part
from mbuild.core.values import EMPTY, FrozenValue, NamedTuple
from mbuild.gguf.model import KV
from mbuild.gguf.types import GGMLType, ValueType

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.towers import Find, Section

U32, I32, F32 = ValueType.UINT32, ValueType.INT32, ValueType.FLOAT32
BOOL, TEXT = ValueType.BOOL, ValueType.STRING
Named = tuple[str, "Lazy"]
TowerKey = Callable[[Towers], Iterable[KV]]
Takes = Callable[[str], str | None]
Action = Callable[[Towers, str, "Lazy"], Iterable[Named]]
Change = Callable[[Towers, "Lazy"], "Lazy"]


class TowerRule(NamedTuple):
    """Tensors whose name matches ``pattern`` (searched) go through ``action``."""

    pattern: re.Pattern[str]
    action: Action


class Forced(NamedTuple):
    """Matrices that have a type of their own: F32 or F16, or F32 that is F16 in an F16 file.

    ``pattern`` is searched in the checkpoint's name, or in GGUF's where ``gguf``.
    """

    pattern: re.Pattern[str]
    type: GGMLType
    gguf: bool = False
    follows: bool = False


VISION = part("vision_config")


class Projector(FrozenValue):
    """How the encoders of one kind of multimodal checkpoint become a GGUF file.

    Attributes:
        names: the class names in config.json: of the vision config if it has one, else the root's.
        keys: the metadata behind that which all files of this kind have, in their order.
        takes: the name under which the rules know a tensor; None for one of the text model.
        needs: lines of tensors and shapes (:mod:`mbuild.convert.checks.towers`).
        vision: finds the vision encoder's part of config.json; None for none.
        audio: the same of the encoder of sound.
        processor: what preprocessor_config.json does not decide.
        processor_inner: the object in it whose fields count as its own.
        processor_defaults: what counts where it says nothing.
        before: metadata in front of that which all files have.
        rules: transforms; the first whose pattern is found in a name decides.
        extra: tensors that stand before all others, generated.
        forced: types of their own; the first whose pattern is found decides.
        uneven: names of GGUF's that not every layer has (searched).
        endings: what may follow a name that the table has.
        apart: config.json's name of the text model, for checkpoints that have none themselves.
    """

    names: tuple[str, ...]
    keys: tuple[TowerKey, ...]
    takes: Takes
    needs: str = ""
    vision: Find | None = VISION
    audio: Find | None = None
    processor: Mapping[str, Any] = EMPTY
    processor_inner: str = ""
    processor_defaults: Mapping[str, Any] = EMPTY
    before: tuple[TowerKey, ...] = ()
    rules: tuple[TowerRule, ...] = ()
    extra: Callable[[Towers], Iterable[Named]] | None = None
    forced: tuple[Forced, ...] = ()
    uneven: str = ""
    endings: tuple[str, ...] = (".weight", ".bias")
    apart: str = ""


# Names.


def only(
    *prefixes: str,
    inside: Sequence[str] = (),
    drop: Sequence[str] = (),
    replaced: Sequence[tuple[str, str]] = (),
    started: Sequence[tuple[str, str]] = (),
) -> Takes:
    """Tensors whose names begin with one of ``prefixes`` or have one of ``inside`` in them.

    Those with one of ``drop`` in their names are left out, beginnings are replaced by
    ``started`` before anything else, other parts of names by ``replaced`` after it.
    """

    def takes(name: str) -> str | None:
        for old, new in started:
            if name.startswith(old):
                name = new + name[len(old) :]
                break
        wanted = name.startswith(prefixes) or any(each in name for each in inside)
        if not wanted or "language_model." in name or any(each in name for each in drop):
            return None
        for old, new in replaced:
            name = name.replace(old, new)
        return name

    return takes


def without(*prefixes: str, drop: Sequence[str] = (), then: Takes | None = None) -> Takes:
    """All tensors but those of the text model, whose names begin with one of ``prefixes``."""

    def takes(name: str) -> str | None:
        if name.startswith(prefixes) or "language_model." in name:
            return None
        if any(each in name for each in drop):
            return None
        return name if then is None else then(name)

    return takes


# Rules.


def each(pattern: str, change: Change) -> TowerRule:
    """The same name, other values or another shape."""
    return TowerRule(re.compile(pattern), lambda t, name, lazy: [(name, change(t, lazy))])


def rename(
    pattern: str, *replaced: tuple[str, str], change: Change | None = None, ending: str = ""
) -> TowerRule:
    """Another name, made by replacing parts of it and adding an ending, perhaps other values."""

    def action(towers: Towers, name: str, lazy: Lazy) -> list[Named]:
        for old, new in replaced:
            name = name.replace(old, new)
        return [(name + ending, change(towers, lazy) if change else lazy)]

    return TowerRule(re.compile(pattern), action)


def drop(pattern: str) -> TowerRule:
    """No tensor."""
    return TowerRule(re.compile(pattern), lambda towers, name, lazy: [])


def parts(pattern: str, old: str, new: Sequence[str], axis: int = 0) -> TowerRule:
    """Equal parts of an axis, one for each of the names that ``old`` becomes."""

    def action(towers: Towers, name: str, lazy: Lazy) -> list[Named]:
        size = lazy.shape[axis] // len(new) if lazy.shape else 0
        pieces = lazy.split(axis, (size,) * len(new))
        return [(name.replace(old, label), piece) for label, piece in zip(new, pieces, strict=True)]

    return TowerRule(re.compile(pattern), action)


def plus_one(towers: Towers, lazy: Lazy) -> Lazy:
    """One added, for norms that the model applies as 1 + weight."""
    return lazy.compute(lambda values: values + values.dtype.type(1))


def column(towers: Towers, lazy: Lazy) -> Lazy:
    """A vector as a matrix of one column, as llama.cpp adds it to a convolution's output."""
    return lazy.reshape(*lazy.shape, 1)


def frames(pattern: str, count: int | None = 2) -> TowerRule:
    """A convolution over several frames as one over each; ``count`` is how many there must be."""

    def action(towers: Towers, source: str, lazy: Lazy) -> list[Named]:
        lazy.need_dims(5)
        out, channels, found, height, width = lazy.shape
        slabs = lazy.split(2, (1,) * (found if count is None else count))
        flat = [slab.reshape(out, channels, height, width) for slab in slabs]
        name = "v.patch_embd.weight"
        return [(f"{name}.{n}" if n else name, slab) for n, slab in enumerate(flat)]

    return TowerRule(re.compile(pattern), action)


# Types.


def force(pattern: str, type_: GGMLType = GGMLType.F32, *, gguf: bool = False) -> Forced:
    """That type for matrices whose name has the pattern in it."""
    return Forced(re.compile(pattern), type_, gguf)


def follow(pattern: str) -> Forced:
    """F32 for matrices whose GGUF name has the pattern in it, F16 in a file that is F16."""
    return Forced(re.compile(pattern), GGMLType.F32, gguf=True, follows=True)


# Keys.


def key(name: str, type_: ValueType, compute: Callable[[Towers], Any]) -> TowerKey:
    """A key below ``clip.`` whose value is computed; None writes nothing."""

    def rule(towers: Towers) -> Iterator[KV]:
        value = compute(towers)
        if type_ is I32:  # numbers below zero among them, which are checked where they are made
            yield KV(f"clip.{name}", ValueType.ARRAY, list(value), I32)
        elif value is not None:
            yield entry(f"clip.{name}", type_, value, name)

    return rule


def constant(name: str, type_: ValueType, value: Any) -> TowerKey:
    """A key with the same value in every file of the kind."""
    return key(name, type_, lambda towers: value)


def kind(name: str, encoder: str = "") -> TowerKey:
    """The projector's type; ``encoder`` (``vision``, ``audio``) in files that may have two."""
    return constant(f"{encoder}.projector_type" if encoder else "projector_type", TEXT, name)


def epsilon(default: float | None, *names: str, audio: bool = False) -> TowerKey:
    """The norms' epsilon, from the encoder's config."""
    where = "audio" if audio else "vision"

    def compute(towers: Towers) -> float:
        section = towers.hearing if audio else towers.sight
        return section.number(*names, default=default) if names else float(default or 0)

    return key(f"{where}.attention.layer_norm_epsilon", F32, compute)


GELU = constant("use_gelu", BOOL, True)
SILU = constant("use_silu", BOOL, True)


def mels(*names: str) -> TowerKey:
    """The number of mel bands."""
    return key("audio.num_mel_bins", U32, lambda t: t.hearing.integer(*names, low=1))


def usual(towers: Towers) -> Iterator[KV]:
    """What every file says of its encoders, in llama.cpp's order."""
    if towers.vision is not None:
        yield KV("clip.has_vision_encoder", BOOL, True)
        yield KV("clip.vision.projection_dim", U32, towers.width)
        yield KV("clip.vision.image_size", U32, towers.vision.integer("image_size"))
        yield KV("clip.vision.patch_size", U32, towers.vision.integer("patch_size", low=1))
        yield from _sizes("clip.vision", towers.vision)
        for name in ("image_mean", "image_std"):
            values = towers.processor.numbers(name)
            yield KV(f"clip.vision.{name}", ValueType.ARRAY, values, F32)
    if towers.audio is not None:
        yield KV("clip.has_audio_encoder", BOOL, True)
        yield KV("clip.audio.projection_dim", U32, towers.width)
        yield from _sizes("clip.audio", towers.audio)


def _sizes(prefix: str, section: Section) -> Iterator[KV]:
    yield KV(f"{prefix}.embedding_length", U32, section.integer(*WIDTH, low=1))
    yield KV(f"{prefix}.feed_forward_length", U32, section.integer(*FEED_FORWARD))
    yield KV(f"{prefix}.block_count", U32, section.integer(*BLOCKS))
    yield KV(f"{prefix}.attention.head_count", U32, section.integer(*HEADS))
