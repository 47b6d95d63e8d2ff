"""The encoders of a multimodal checkpoint as a GGUF projector, equal to llama.cpp's converter's.

A projector file has the architecture ``clip``: encoders of images and sound, and what turns their
output into the text model's embeddings. As for the text model everything is decided from headers,
and weights are read when a tensor is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.checkpoint import class_name, what_it_is
from mbuild.convert.checks.towers import check_towers
from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.convert.convert import resolve_outtype
from mbuild.convert.encoded import MAX_DIMS, Encoded
from mbuild.convert.metadata.general import QUANTIZATION_VERSION, Parameters, general
from mbuild.convert.mistral import (
    PARAMS,
    WEIGHTS,
    is_mistral_format,
    mistral_towers,
)
from mbuild.convert.projectors import find
from mbuild.convert.read.dequantize import dequantize
from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.lazy import Lazy, lazy_of
from mbuild.convert.read.leftovers import INTEGERS, UNQUANTIZED, weights_alone
from mbuild.convert.read.modelopt import with_quant_file
from mbuild.convert.read.weight_files import INDEX_LIMIT, INDEXES, is_torch_file, read_tensors
from mbuild.convert.read.wrappers import unwrap
from mbuild.convert.rows.clip_names import clip_name
from mbuild.convert.rows.keys import FILE_TYPES, merged
from mbuild.convert.rows.projector import usual
from mbuild.convert.rows.tower_defaults import completed
from mbuild.convert.rows.towers import Section, Towers
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.core.values import NamedTuple, replace
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mbuild.convert.read.safetensors import StoredTensor
    from mbuild.convert.rows.projector import Projector
    from mbuild.convert.rows.towers import Find
    from mbuild.gguf.files import Seen

ARCH = "clip"
TEXT_ONLY = "to build the text half alone: --text-only"

_GGML = {
    OutType.F32: GGMLType.F32,
    OutType.F16: GGMLType.F16,
    OutType.BF16: GGMLType.BF16,
    OutType.Q8_0: GGMLType.Q8_0,
}
_SMALL = (".patch_embd.weight", ".patch_merger.weight")
"""Matrices that are F32, or F16 in an F16 file, whatever the others are."""

_TEXTS = ("text_config", "llm_config", "lm_config", "language_config", "lfm")
_GGUFS = ("v.", "a.", "mm.")
_WIDTH = ("hidden_size", "n_embd")
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")


class TowerCheckpoint(NamedTuple):
    """The encoders of a checkpoint: its files, its config, the kind of projector, the tensors."""

    name: str
    files: Mapping[str, Path]
    config: Mapping[str, Any]
    row: Projector
    tensors: Mapping[str, Lazy]


def open_towers(
    name: str, files: Mapping[str, Path], seen: Mapping[str, Seen] | None = None
) -> TowerCheckpoint | None:
    """Read the config and the headers of all shards; None where no encoder has a tensor.

    Raises:
        UnsupportedError: for encoders of a class without a row, and unknown quantizations.
        FormatError: for files whose content is wrong or does not fit together.
        SourceError: for files that are missing or cannot be read.
    """
    small = CheckpointFiles(files)
    root = small.json_object("config.json")
    if root is None and is_mistral_format(files):
        root = mistral_towers(small.json_object(PARAMS) or {})
    if root is None:
        raise SourceError(f"{name} has no config.json", hint=what_it_is(files))
    class_ = tower_class(root)
    row = find(class_)
    if row is None:
        raise UnsupportedError(
            f"the encoders of {class_[:100]!r} cannot be converted",
            hint=f"{TEXT_ONLY}; a projector file that was made elsewhere can be added with a"
            " second FROM",
        )
    stored, _ = unwrap(_headers(files, small, seen or {}))
    taken = [tensor for tensor in stored if row.takes(tensor.name) is not None]
    kept, config, _ = weights_alone(taken, with_quant_file(root, small), ARCH)
    tensors: dict[str, Lazy] = {}
    for tensor in kept:
        known = row.takes(tensor.name)
        assert known is not None
        if known in tensors:
            raise FormatError(
                f"two tensors would be named {known!r}; {tensor.name!r} is the second"
            )
        tensors[known] = lazy_of(tensor)
    if not tensors:
        return None
    return TowerCheckpoint(name, dict(files), completed(config), row, tensors)


def _headers(
    files: Mapping[str, Path], small: CheckpointFiles, seen: Mapping[str, Seen]
) -> list[StoredTensor]:
    """The tensors of those shards that are there: others may hold text alone."""
    usual, pickled = INDEXES
    plain = [name for name in sorted(files) if "/" not in name]
    shards = [name for name in plain if name.endswith(".safetensors")]
    starts, index = "model", usual
    if not any(not name.startswith("adapter") for name in shards):
        shards = [name for name in plain if is_torch_file(name)]
        starts, index = "pytorch_model", pickled
    weights = (small.json_object(index, INDEX_LIMIT) or {}).get("weight_map")
    if isinstance(weights, dict):
        named = {shard for shard in weights.values() if isinstance(shard, str)}
        shards = [name for name in shards if name in named]
    else:
        starts = WEIGHTS if is_mistral_format(files) else starts
        shards = [name for name in shards if name.startswith(starts)] or shards
    found: list[StoredTensor] = []
    for name in shards:
        found += read_tensors(files[name], name, seen.get(name))
    return found


def tower_class(root: Mapping[str, Any]) -> str:
    """The class that decides the kind of projector: the vision config's own before the root's."""
    vision = root.get("vision_config")
    names = vision.get("architectures") if isinstance(vision, dict) else None
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return class_name({"architectures": root.get("architectures")})


def convert_projector(
    checkpoint: TowerCheckpoint,
    outtype: OutType = OutType.AUTO,
    *,
    naming: Conversion = AS_IT_IS,
    warn: Callable[[str], None] = lambda text: None,
) -> Model:
    """The projector file of a checkpoint: metadata complete, tensors loaded on demand.

    ``auto`` keeps BF16 or F16, as the encoders' first matrix has it; ``naming`` has the model's
    name and metadata, where they are given. Raises as
    :func:`~mbuild.convert.convert.convert` does.
    """
    row = checkpoint.row
    towers = _towers(checkpoint, resolve_outtype(outtype, checkpoint.tensors))
    items: dict[str, tuple[str, Lazy]] = {}
    for source, name, lazy in _named(row, towers):
        if name in items:
            raise FormatError(
                f"two tensors of the checkpoint would be named {name}: {items[name][1].origin}"
                f" and {lazy.origin}"
            )
        items[name] = source, lazy
    keys = [kv for rule in row.before for kv in rule(towers)]
    keys.append(KV("general.file_type", ValueType.UINT32, FILE_TYPES[towers.outtype]))
    keys += usual(towers)
    keys += [kv for rule in row.keys for kv in rule(towers)]
    check_towers(row, keys, {name: lazy for name, (_, lazy) in items.items()})
    tensors = tuple(_tensor(name, *item, towers.outtype, row) for name, item in items.items())
    parameters = Parameters.count((t.name, t.dims) for t in tensors)
    about = general(
        checkpoint.name,
        checkpoint.files,
        ARCH,
        parameters,
        model_name=naming.model_name,
        override=naming.overrides,
        kind="mmproj",
    )
    architecture = KV("general.architecture", ValueType.STRING, ARCH)
    return Model(merged((architecture, *about, *keys, QUANTIZATION_VERSION)), tensors)


def _towers(checkpoint: TowerCheckpoint, outtype: OutType) -> Towers:
    """What the row's rules and keys read."""
    files = CheckpointFiles(checkpoint.files)
    root = Section(checkpoint.config)
    text = _text(checkpoint.config)
    width = replace(text, values={**root.values, **text.values}).integer(*_WIDTH, low=1)
    row, processor = checkpoint.row, _processor(files)
    inner = processor.section(row.processor_inner).values if row.processor_inner else {}
    said = {**row.processor_defaults, **processor.values, **inner, **row.processor}
    processor = replace(processor, values=said)
    towers = Towers(root, text, processor, width, outtype, files, checkpoint.tensors)

    def found(find: Find | None, place: str) -> Section | None:
        values = None if find is None else find(towers)
        return None if values is None else Section(values, f"config.json: {place}")

    vision, audio = found(row.vision, "vision_config"), found(row.audio, "audio_config")
    if vision is None and audio is None:
        raise FormatError(
            "config.json does not describe the encoders: it has no vision_config and no"
            " audio_config",
            hint=f"take config.json from the base model; {TEXT_ONLY}",
        )
    order = {name: place for place, name in enumerate(checkpoint.tensors)}
    return replace(towers, vision=vision, audio=audio, order=order)


def _text(config: Mapping[str, Any]) -> Section:
    """The text model's part of config.json, empty where it has none of its own."""
    thinker = config.get("thinker_config")
    inner = thinker.get("text_config") if isinstance(thinker, dict) else None
    nested = next((config[name] for name in _TEXTS if isinstance(config.get(name), dict)), inner)
    return Section(nested if isinstance(nested, dict) else {}, "config.json: text_config")


def _processor(files: CheckpointFiles) -> Section:
    """preprocessor_config.json, and processor_config.json laid over it."""
    values: dict[str, Any] = {}
    place = "preprocessor_config.json"
    for name, inner in ((place, "media_proc_cfg"), ("processor_config.json", "image_processor")):
        found = files.json_object(name)
        if found is not None:
            nested = found.get(inner)
            values |= {**found, **(nested if isinstance(nested, dict) else {})}
            place = name if name not in files or not values else place
    return Section(values, place)


def _named(row: Projector, towers: Towers) -> Iterator[tuple[str, str, Lazy]]:
    """The checkpoint's names, GGUF's, and the values to be stored, in the file's order."""
    if row.extra is not None:
        for source, lazy in row.extra(towers):
            yield source, _gguf_name(row, source), lazy
    for source, each in dequantize(towers.root.values, towers.tensors).items():
        lazy = each.plain()  # an encoder's weights are never kept in four bits
        if source.endswith((".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")):
            continue
        if lazy.dtype in INTEGERS:
            raise UnsupportedError(
                f"{lazy.origin} holds integers ({lazy.dtype}) without scales: it is quantized",
                hint=UNQUANTIZED,
            )
        for label, item in _transformed(row, towers, source, lazy):
            yield source, _gguf_name(row, label), item


def _transformed(
    row: Projector, towers: Towers, name: str, lazy: Lazy
) -> Iterator[tuple[str, Lazy]]:
    for rule in row.rules:
        if rule.pattern.search(name):
            yield from rule.action(towers, name, lazy)
            return
    yield name, lazy


def _gguf_name(row: Projector, name: str) -> str:
    """GGUF's name; a rule may give it itself, where no table has it."""
    if name.startswith(_GGUFS):
        return name
    found = clip_name(name, row.endings)
    if found is None:
        raise UnsupportedError(
            f"tensor {name!r} has no place in a projector of {row.names[0]}",
            hint=f"config.json may belong to another checkpoint; {TEXT_ONLY}",
        )
    return found


def _tensor(name: str, source: str, item: Lazy, outtype: OutType, row: Projector) -> Tensor:
    dims = tuple(reversed(item.shape)) or (1,)
    if len(dims) > MAX_DIMS:
        raise FormatError(f"tensor {name} has {len(dims)} dimensions, more than {MAX_DIMS}")
    type_ = _type(name, source, item.shape, outtype, row)
    return Tensor(name, dims, type_, Encoded(name, item, type_, 0, item.size))


def _type(
    name: str, source: str, shape: tuple[int, ...], outtype: OutType, row: Projector
) -> GGMLType:
    """What a tensor is stored as (``tensor_force_quant`` of llama.cpp's converter)."""
    if len(shape) <= 1 or name.endswith("_norm.weight"):
        return GGMLType.F32
    small = GGMLType.F16 if outtype is OutType.F16 else GGMLType.F32
    forced = next(
        (each for each in row.forced if each.pattern.search(name if each.gguf else source)), None
    )
    if forced is not None:
        return small if forced.follows else forced.type
    if any(each in name for each in _SMALL):
        return small
    counted = any(part.isdecimal() for part in source.split("."))
    if not name.endswith(".weight") or (name in _POSITIONS and not counted):
        return GGMLType.F32
    if outtype is OutType.Q8_0 and shape[-1] % 32:
        return GGMLType.F16
    return _GGML[outtype]
