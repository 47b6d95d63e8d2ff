"""Whether a checkpoint has encoders of images or sound, and which of its files decide them.

Seen from config.json alone, and from the index of the weights, so that a plan can be made before
any weights are read. A build with nothing to do comes through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.sources.places import PICKLES
from mbuild.build.sources.values import PROCESSORS
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.sources.values import SourceFile

_MARKS = (
    *("vision_config", "audio_config", "vision_encoder", "thinker_config", "encoder_config"),
    *("sound_config", "speech_config", "whisper_config", "vision_n_layers"),
)
"""Keys of config.json that only a checkpoint with encoders has."""

_LIMIT = 16 << 20
_INDEX, _PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_INDEX_LIMIT = 100 << 20
_NOTES = (_INDEX, _PICKLED_INDEX, "hf_quant_config.json")
"""Files that say how weights are stored."""
_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json")
_TEXT = regex(
    r"(?:language_model|text_model)\.|^(?:thinker\.)?(?:model\.(?:layers|norm)\.|lm_head\.)"
)
"""Names that are the text model's alone; not all of its embedding's, which Pixtral takes from."""


def encoder_files(files: Mapping[str, SourceFile]) -> tuple[str, ...]:
    """The files that decide the projector of a checkpoint, sorted; none where it has no encoders.

    Of several shards only those count that hold more than layers of the text model. A file that
    cannot be read says nothing here: the conversion refuses it by name.
    """
    native = "config.json" not in files  # Mistral's own format
    config = _object(files, "params.json" if native else "config.json", _LIMIT)
    if not any(config.get(mark) for mark in _MARKS):
        return ()
    names = {"config.json", "generation_config.json", *_NOTES, *PROCESSORS}
    if native:
        names = {"params.json", "tekken.json"}
    vision = config.get("vision_config")
    if isinstance(vision, dict) and vision.get("model_type") in ("pixtral", None):
        names.update(_TOKENIZERS)  # one of Pixtral's tensors is a token's embedding
    return tuple(sorted((names & files.keys()) | set(_shards(files))))


_DRAFTS = regex(r"DraftModel$|DSpark|Eagle3|^MuseGlimmerAssistantModel$")


def needs_target(files: Mapping[str, SourceFile]) -> bool:
    """Whether a checkpoint is a draft whose tokenizer is that of the model it drafts for."""
    config = _object(files, "config.json", _LIMIT)
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else ""
    return "draft_vocab_size" in config or bool(_DRAFTS.search(str(first)))


def _shards(files: Mapping[str, SourceFile]) -> Iterable[str]:
    plain = {name for name in files if "/" not in name}
    shards = {name for name in plain if name.endswith(".safetensors")}
    starts, index = "model", _INDEX
    if not any(not name.startswith("adapter") for name in shards):
        shards = {name for name in plain if name.endswith(PICKLES)}
        starts, index = "pytorch_model", _PICKLED_INDEX
    weights = _object(files, index, _INDEX_LIMIT).get("weight_map")
    if not isinstance(weights, dict):
        usual = {name for name in shards if name.startswith(starts)}
        return usual or shards
    found = {shard for name, shard in weights.items() if not _TEXT.search(name)}
    return shards & {shard for shard in found if isinstance(shard, str)}


def _object(files: Mapping[str, SourceFile], name: str, limit: int) -> dict[str, Any]:
    """A JSON object, empty for anything else."""
    if name not in files or files[name].stamp.size > limit:
        return {}
    path: Path = files[name].path
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(path.read_bytes())
        return value if isinstance(value, dict) else {}
    return {}
