"""A Hugging Face checkpoint, checked as a whole before anything is converted.

``config.json`` names the family and the sizes, ``model*.safetensors`` hold the
tensors, ``model.safetensors.index.json`` (where there are several) promises
which. Nothing here depends on where the files lie: a checkpoint is a map from
plain relative names to paths, which over the HTTP API are blobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.conversion import TARGET
from mbuild.convert.families import find
from mbuild.convert.mistral import (
    FORMAT,
    PARAMS,
    WEIGHTS,
    is_mistral_format,
    mistral_config,
    mistral_row,
)
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.leftovers import weights_alone
from mbuild.convert.read.modelopt import with_quant_file
from mbuild.convert.read.weight_files import WeightFiles, read_tensors
from mbuild.convert.read.wrappers import unwrap
from mbuild.convert.rows.hyper import COMPOSED
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mbuild.convert.read.safetensors import StoredTensor
    from mbuild.convert.rows.row import Family
    from mbuild.gguf.files import Seen

_AS_A_WHOLE = (["DeepseekOCRForCausalLM"], ["DeepseekOCR2ForCausalLM"])
"""Models whose text half has another class's name, and is none of that class."""
_NESTED = ("text_config", "llm_config", "lm_config", "language_config")


class Checkpoint(NamedTuple):
    """A checkpoint that can be converted.

    Attributes:
        name: the folder's name.
        files: relative names and the paths to open.
        config: config.json, a nested text_config laid over the root.
        hf_arch: the class name that decides the family.
        family: the family's row.
        tensors: the weights, ordered by their file's name, then their own.
        warnings: what was put right or left out, one sentence each.
        tied: the root of config.json says tie_word_embeddings, whatever a nested text_config does.
        composed: transformers knows the model as a whole, where it is made of several.
    """

    name: str
    files: Mapping[str, Path]
    config: Mapping[str, Any]
    hf_arch: str
    family: Family
    tensors: tuple[StoredTensor, ...]
    warnings: tuple[str, ...] = ()
    tied: bool = False
    composed: bool = True


def open_checkpoint(
    name: str,
    files: Mapping[str, Path],
    seen: Mapping[str, Seen] | None = None,
    like: str | None = None,
) -> Checkpoint:
    """Read the config and the headers of all shards, and check that they belong together.

    ``seen`` has, for some of the files, who is shown what is read of their tensors; ``like``
    names the family for a class that has none (:func:`~mbuild.convert.families.find`).

    Raises:
        UnsupportedError: for a family without a row, before any shard is
            opened; for pickled weights and unknown quantizations.
        FormatError: for files whose content is wrong or does not fit together.
        SourceError: for files that are missing or cannot be read.
    """
    small = CheckpointFiles(files)
    root = small.json_object("config.json")
    if is_mistral_format(files):
        return _in_mistral_format(name, files, seen or {}, small)
    if root is None:
        raise SourceError(f"{name} has no config.json", hint=what_it_is(files))
    hf_arch = class_name(root)
    config = with_quant_file(flat_config(root), small)
    family = _family(name, root, hf_arch, like)
    family = family.variant(config) if family.variant else family
    if family.drafts:
        _check_target(name, hf_arch, files)
    stored, renamed = unwrap(_tensors(name, files, small, seen or {}))
    tensors, config, more = weights_alone(stored, config, family.gguf)
    warnings = (*renamed, *more)
    if "adapter_config.json" in files:
        warnings += (
            "the adapter beside the model is not applied: to apply it, name it with ADAPTER",
        )
    if like is not None:
        warnings += (
            f"{hf_arch} is converted as {like}: its tensors fit, but only whoever made it knows"
            " whether it computes the same",
        )
    tied = root.get("tie_word_embeddings") is True
    inner = _nested(root) or _of_layers(root)
    composed = not inner or root.get("model_type") in COMPOSED
    return Checkpoint(name, dict(files), config, hf_arch, family, tensors, warnings, tied, composed)


def _check_target(name: str, hf_arch: str, files: Mapping[str, Path]) -> None:
    """Raise :class:`UnsupportedError` for a draft whose target is not known."""
    if f"{TARGET}config.json" not in files:
        raise UnsupportedError(
            f"{name} is a draft model ({hf_arch}), whose tokenizer is that of the model that it"
            " drafts for",
            hint="name the folder of that model's checkpoint in FROM, and this one with DRAFT",
        )


def _in_mistral_format(
    name: str, files: Mapping[str, Path], seen: Mapping[str, Seen], small: CheckpointFiles
) -> Checkpoint:
    """A checkpoint in Mistral's own format."""
    config = mistral_config(small.json_object(PARAMS) or {})
    family = mistral_row(config)
    shards = [f for f in sorted(files) if f.startswith(WEIGHTS) and f.endswith(".safetensors")]
    if not shards:
        raise SourceError(
            f"{name} has no {WEIGHTS}*.safetensors",
            hint="a checkpoint in Mistral's format has params.json, the weights and tekken.json",
        )
    stored, config, warnings = weights_alone(_stored(shards, files, seen), config, family.gguf)
    tied = config.get("tie_word_embeddings") is True
    return Checkpoint(name, dict(files), config, FORMAT, family, stored, tuple(warnings), tied)


def _family(name: str, root: Mapping[str, Any], hf_arch: str, like: str | None) -> Family:
    """The row of a class; an encoder whose text model lies elsewhere is refused with its name."""
    try:
        return find(hf_arch, like)
    except UnsupportedError as error:
        from mbuild.convert.projectors import find as find_projector

        row = find_projector(hf_arch)
        other = root.get(row.apart) if row is not None and row.apart else None
        if row is None or not row.apart:
            raise
        named = f", {str(other)[:100]!r}," if other else ""
        raise UnsupportedError(
            f"{name} has encoders and no text model: its text model{named} is another checkpoint",
            hint="name that one's folder or GGUF file in the first FROM and this one in a second;"
            " or convert the encoders alone with --mmproj",
        ) from error


def what_it_is(files: Mapping[str, Path]) -> str:
    """What a folder without config.json may be, as a hint."""
    if "adapter_config.json" in files:
        return "it is a LoRA adapter: name it with ADAPTER, and its base model with FROM"
    return "a checkpoint is a folder with config.json and model*.safetensors"


def class_name(root: Mapping[str, Any]) -> str:
    """The first of ``architectures``, a nested text_config's before the root's."""
    if "_class_name" in root and "_diffusers_version" in root:
        raise UnsupportedError(
            f"config.json is that of a {str(root['_class_name'])[:60]} of Diffusers, which is no"
            " language model",
            hint="name the folder of its text encoder, if that is what you mean",
        )
    nested, whole = _nested(root), root.get("architectures")
    as_a_whole = isinstance(whole, list) and whole[:1] in _AS_A_WHOLE
    names = whole if as_a_whole else nested.get("architectures") or whole
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise FormatError(
            "config.json does not name the model's class: architectures is missing",
            hint='add the class name, such as "architectures": ["LlamaForCausalLM"]',
        )
    return names[0]


def _nested(root: Mapping[str, Any]) -> Mapping[str, Any]:
    thinker = root.get("thinker_config")
    if isinstance(thinker, dict) and isinstance(thinker.get("text_config"), dict):
        return thinker["text_config"]  # type: ignore[no-any-return]
    for key in _NESTED:
        if key in root:
            if not isinstance(root[key], dict):
                raise FormatError(f"config.json: {key} is not an object")
            return root[key]  # type: ignore[no-any-return]
    return {}


def flat_config(root: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with a nested text_config, or a draft's layers, laid over it."""
    return {**root, **_nested(root), **_of_layers(root)}


def _of_layers(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json of a draft in the format of Speculators says of its layers."""
    layers = root.get("transformer_layer_config")
    return layers if isinstance(layers, dict) else {}


def _tensors(
    name: str, files: Mapping[str, Path], small: CheckpointFiles, seen: Mapping[str, Seen]
) -> tuple[StoredTensor, ...]:
    shards = WeightFiles(name, files, small)
    found = {tensor.name: tensor for tensor in _stored(shards.names, files, seen)}
    shards.check(found)
    if not found:
        raise FormatError(f"{name}: the checkpoint has no tensors")
    return tuple(found.values())


def _stored(
    shards: Iterable[str], files: Mapping[str, Path], seen: Mapping[str, Seen]
) -> tuple[StoredTensor, ...]:
    """The tensors of all shards; raises :class:`FormatError` for one that two of them have."""
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        for tensor in read_tensors(files[shard], shard, seen.get(shard)):
            if tensor.name in found:
                raise FormatError(
                    f"tensor {tensor.name!r} is in two files: "
                    f"{found[tensor.name].shard.name} and {shard}",
                    hint="one of them is left over from an earlier save: remove it",
                )
            found[tensor.name] = tensor
    return tuple(found.values())
