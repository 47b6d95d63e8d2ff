"""Special token ids, flags, merges and chat templates (``SpecialVocab`` of gguf-py 0.19).

Where the ids come from, the first that is found: the text of
``<name>_token`` in tokenizer_config.json, looked up among tokenizer.json's
added tokens; ``<name>_token_id`` of config.json (whole numbers only).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.vocabulary.loader import CONFIG, SPECIAL_NAMES, token_text
from mbuild.convert.vocabulary.postprocessor import PostProcessor
from mbuild.convert.vocabulary.templates import chat_template, write_template
from mbuild.convert.vocabulary.tokenizer_json import read_merges
from mbuild.core.errors import FormatError
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.vocabulary.entries import Entries
    from mbuild.convert.vocabulary.templates import Template

PREFIX = "tokenizer.ggml."

ID_KEYS: dict[str, str] = {
    "bos": PREFIX + "bos_token_id",
    "eos": PREFIX + "eos_token_id",
    "unk": PREFIX + "unknown_token_id",
    "sep": PREFIX + "seperator_token_id",
    "pad": PREFIX + "padding_token_id",
    "mask": PREFIX + "mask_token_id",
    "eot": PREFIX + "eot_token_id",
    "eom": PREFIX + "eom_token_id",
}
"""Keys of special ids (``GGUFWriter.add_<name>_token_id``); other names have none."""

ADD_KEYS: dict[str, str] = {name: f"{PREFIX}add_{name}_token" for name in ("bos", "eos", "sep")}

_MERGES_LIMIT = 64 << 20


@dataclass(slots=True)
class Specials:
    """What the writer will say about special tokens; readers may still change it."""

    merges: list[str] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    template: Template | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    normalizer: dict[str, bool] = field(default_factory=dict)

    def set_default(self, name: str, id_: object, size: int | None = None) -> None:
        """Set an id unless it is known, no whole number, or beyond the vocabulary's ``size``."""
        if type(id_) is not int:
            return
        if id_ < 0:
            raise FormatError(f"{name}_token_id: {id_} is not a token")
        if size is None or id_ < size:
            self.ids.setdefault(name, id_)
        else:
            self.dropped.setdefault(name, id_)

    def write(self, entries: Entries) -> None:
        """Set all entries in gguf-py's order."""
        entries.array(PREFIX + "merges", self.merges, ValueType.STRING)
        for name, id_ in self.ids.items():
            if name in ID_KEYS:
                entries.uint32(ID_KEYS[name], id_)
        for name, flag in self.add.items():
            if name in ADD_KEYS:
                entries.boolean(ADD_KEYS[name], flag)
        if self.template is not None:
            write_template(entries, self.template)
        for name in ("lowercase", "strip_accents"):
            if name in self.normalizer:
                entries.boolean(f"{PREFIX}normalizer.{name}", self.normalizer[name])


def read_specials(
    files: CheckpointFiles,
    config: Mapping[str, Any],
    *,
    merges: bool = False,
    names: tuple[str, ...] = SPECIAL_NAMES,
    size: int | None = None,
    renumbered: Mapping[str, int] = MappingProxyType({}),
) -> Specials:
    """Collect the special tokens.

    ``config`` is config.json, ``names`` the kinds to look for, ``size`` the
    number of tokens, beyond which an id is dropped, ``merges`` whether a BPE
    model's merges are wanted, ``renumbered`` the ids of added tokens that have
    another one than tokenizer.json says.
    """
    specials = Specials()
    tokenizer = files.json_object("tokenizer.json", TOKENIZER_LIMIT) or {}
    settings = dict(files.json_object(CONFIG) or {})
    if tokenizer:
        model = tokenizer.get("model")
        if merges and isinstance(model, dict):
            specials.merges = read_merges(model)
        _read_normalizer(tokenizer.get("normalizer"), specials.normalizer)
        names = PostProcessor(settings, specials.add, names).read(tokenizer.get("post_processor"))
    if settings:
        specials.template = chat_template(files, settings)
        _from_settings(specials, settings, {**_ids(tokenizer), **renumbered}, names, size)
    _from_config(specials, config, names, size)
    if merges and not specials.merges and "merges.txt" in files:
        specials.merges = merges_txt(files)
    return specials


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, object]:
    """Added tokens of tokenizer.json by text, the first of each."""
    ids: dict[str, object] = {}
    entries = tokenizer.get("added_tokens")
    for token in entries if isinstance(entries, list) else ():
        if isinstance(token, dict) and isinstance(text := token.get("content"), str):
            ids.setdefault(text, token.get("id"))
    return ids


def _from_settings(
    specials: Specials,
    settings: Mapping[str, Any],
    ids: Mapping[str, object],
    names: tuple[str, ...],
    size: int | None,
) -> None:
    """tokenizer_config.json: what the post-processor has said about add_* flags stays."""
    for name in names:
        flag = settings.get(f"add_{name}_token")
        if isinstance(flag, bool):
            specials.add.setdefault(name, flag)
        text = token_text(settings.get(f"{name}_token"))
        if text is not None:
            specials.set_default(name, ids.get(text), size)


def _from_config(
    specials: Specials, config: Mapping[str, Any], names: tuple[str, ...], size: int | None
) -> None:
    nested = config.get("text_config")
    for name in names:
        id_ = config.get(f"{name}_token_id")
        if id_ is None and isinstance(nested, dict):
            id_ = nested.get(f"{name}_token_id")
        if id_ != -1:  # written for "none"
            specials.set_default(name, id_, size)


def _read_normalizer(normalizer: object, flags: dict[str, bool]) -> None:
    """Whether text is lower-cased or stripped of accents, for encoder models."""
    pending = [normalizer]
    while pending:
        part = pending.pop()
        if not isinstance(part, dict):
            continue
        kind = part.get("type")
        if kind == "Lowercase":
            flags["lowercase"] = True
        elif kind == "StripAccents":
            flags["strip_accents"] = True
        elif kind == "BertNormalizer":
            for name in ("lowercase", "strip_accents"):
                if name in part:
                    flags.pop(name, None)
                    if isinstance(part[name], bool):
                        flags[name] = part[name]
        elif kind == "Sequence" and isinstance(parts := part.get("normalizers"), list):
            pending += reversed(parts)


def merges_txt(files: CheckpointFiles) -> list[str]:
    """The older file of merges: two pieces a line, a comment first; other lines are dropped."""
    lines = files.text("merges.txt", _MERGES_LIMIT).split("\n")
    if lines[0].strip().startswith("#"):
        del lines[0]
    pairs = (line.split(None, 3) for line in lines)
    return [" ".join(pair) for pair in pairs if len(pair) == 2]
