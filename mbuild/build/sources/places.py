"""What lies at a path that an instruction names: which files count, which are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mbuild.build.sources.values import PROCESSORS, CheckpointSource, ModelSource
from mbuild.core.errors import MissingFileError, SourceError

CHECKPOINT_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",
        "model.safetensors.index.json",
        "params.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tekken.json",
        "vocab.json",
        "vocab.txt",
        "rwkv_vocab_v20230424.txt",
        "tokenizer.jsonl",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "modules.json",
        "adapter_config.json",
        "README.md",
    }
)
"""What a conversion can read beside ``*.safetensors``; other files change nothing."""

FOLDERS = ("additional_chat_templates", "_Pooling", "_Dense")
"""How the names of those folders inside a checkpoint end in which a conversion reads files."""

_FOLDER_FILES = (".jinja", "config.json", "model.safetensors")

_CARD_LIMIT = 1 << 20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLED_STARTS = ("pytorch_model", "consolidated", "model", "adapter_model")
_WEIGHT_ENDS = (".safetensors", ".safetensors.index.json", ".bin.index.json")
_SHOWN = 500  # characters of a value in a message
_PATH_STARTS = ("./", "../", "/", "~", ".\\", "..\\", "\\")
_PATH_ENDS = (".gguf", ".safetensors", *PICKLES)
_HUB_STARTS = ("hf.co/", "huggingface.co/")


def is_part_of_checkpoint(name: str) -> bool:
    """Whether a conversion can read the file of that relative name; logs and the like, not."""
    folder, _, base = name.rpartition("/")
    if folder:
        return "/" not in folder and folder.endswith(FOLDERS) and base.endswith(_FOLDER_FILES)
    known = base in CHECKPOINT_FILES or base in PROCESSORS
    return known or base.endswith(_WEIGHT_ENDS) or is_pickled(base)


def is_pickled(base: str) -> bool:
    """Whether a file of that name has pickled weights: a model's or an adapter's."""
    return base.startswith(_PICKLED_STARTS) and base.endswith(PICKLES[:-1])


def is_path(value: str) -> bool:
    """Whether a FROM value can only mean a path, not a model's name."""
    if value.startswith(_HUB_STARTS) and ":" in value:
        return False  # hf.co/ORG/REPO:FILE.gguf, as Ollama has it
    return value in (".", "..") or value.startswith(_PATH_STARTS) or value.endswith(_PATH_ENDS)


def unusable(path: Path, error: OSError) -> str:
    """Why a path leads to no file."""
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"a link to {os.readlink(path)}, which does not exist"
    return (error.strerror or str(error)).lower()


def short(text: str) -> str:
    """A value as a message shows it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_named(word: str, value: str) -> None:
    """Refuse an empty value: as a path it would be the Modelfile's own folder."""
    if not value.strip():
        raise SourceError(f"{word} names nothing", hint="for the Modelfile's own folder write .")


def front_matter(path: Path, name: str) -> bytes:
    """The part of a model card that a conversion reads: the YAML between two ``---`` lines.

    The card's text is for people, and changing it changes no model. Raises
    :class:`SourceError` for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_CARD_LIMIT)
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from None
    return front_matter_of(text)


def front_matter_of(text: bytes) -> bytes:
    """The same of a model card's first bytes."""
    text = text[:_CARD_LIMIT]
    if not text.startswith(b"---"):
        return b""
    end = text.find(b"\n---", 3)
    return text[:end] if end >= 0 else text


def check_inside(folder: Path, name: str, value: str) -> None:
    """Refuse a link that leaves a model's directory to a file that may be no part of a model.

    Weights may lie anywhere: they are only taken for what their format says. Of a
    text, which becomes part of the model as it is, the link has to keep the name, or
    lead into a Hugging Face cache, where ``<file>`` links to ``blobs/<digest>``: who
    publishes a checkpoint must not choose which files of this machine are published.
    """
    real = Path(os.path.realpath(folder / name))
    root = Path(os.path.realpath(folder))
    weights = name.lower().endswith((".safetensors", ".gguf")) or is_pickled(name)
    cached = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    same = real.name == name.rpartition("/")[2]
    if not (weights or cached or same or real.is_relative_to(root)):
        raise SourceError(
            f"{value}/{name} is a link to a file of another name outside the directory",
            hint="copy the file there, or name it directly",
        )


def refuse_part(word: str, value: str, path: Path) -> None:
    """Refuse one file of a checkpoint: what FROM, ADAPTER and DRAFT name is its folder."""
    name = path.name
    weights = name.endswith((".safetensors", ".json")) or is_pickled(name)
    if name not in CHECKPOINT_FILES and not weights:
        return
    with suppress(OSError), path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return
    raise SourceError(
        f"{word} {value}: it is one file of a checkpoint",
        hint=f"name the folder: {word} {os.path.dirname(value) or '.'}",
    )


def is_adapter(source: ModelSource) -> bool:
    """Whether a directory holds a PEFT adapter and no model."""
    files = source.files if isinstance(source, CheckpointSource) else {}
    return "adapter_config.json" in files and "config.json" not in files


def is_model(source: ModelSource) -> bool:
    """Whether a directory holds a model's checkpoint and no adapter."""
    files = source.files if isinstance(source, CheckpointSource) else {}
    return "config.json" in files and "adapter_config.json" not in files


def not_the_first(name: str, count: int, hint: str) -> SourceError:
    """The error for another shard than the first, with what to do at a front end."""
    return SourceError(f"{name} is not the first of {count} shards", hint=hint)


def shards_missing(shown: str, missing: Sequence[str], count: int, hint: str) -> MissingFileError:
    """The error for a split model of which some shards are not there."""
    return MissingFileError(
        f"{shown}: {len(missing)} of {count} shards are missing: {', '.join(missing[:3])}",
        hint=hint,
    )
