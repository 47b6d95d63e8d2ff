"""Put a vocabulary's entries together by a family's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TEMPLATE_LIMIT, CheckpointFiles
from mbuild.convert.vocabulary.context import ReaderContext, Unfit, Vocabulary
from mbuild.convert.vocabulary.doubts import doubts
from mbuild.convert.vocabulary.entries import Entries
from mbuild.convert.vocabulary.loader import CONFIG, added_tokens_decoder
from mbuild.convert.vocabulary.readers import READERS, segments
from mbuild.convert.vocabulary.rules import Prefix, Reader
from mbuild.convert.vocabulary.special import ADD_KEYS, ID_KEYS, PREFIX, Specials, read_specials
from mbuild.convert.vocabulary.spm import MODEL, declared_tokens, read_pieces
from mbuild.convert.vocabulary.tekken import TEKKEN, tekken_vocabulary
from mbuild.convert.vocabulary.templates import JINJA, KEY
from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mbuild.convert.vocabulary.rules import VocabRule
    from mbuild.gguf.model import KV


def vocabulary(
    paths: Mapping[str, Path],
    config: Mapping[str, Any],
    rule: VocabRule,
    *,
    pre: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> list[KV]:
    """All ``tokenizer.*`` entries of a checkpoint.

    ``paths`` maps names relative to the checkpoint's folder to readable
    files, ``config`` is config.json (with or without a nested text_config
    laid over it), ``rule`` the way of the model's family.
    ``pre`` names the pre-tokenizer instead of looking for it. ``warn`` is told
    of tokens that are dropped, and of files that disagree. Arrays of types are
    int32 and scores float32 numpy arrays; all else is plain Python.

    Raises :class:`~mbuild.core.errors.FormatError` for malformed or hostile files,
    :class:`~mbuild.core.errors.SourceError` when no vocabulary is there, and
    :class:`~mbuild.core.errors.UnsupportedError` for an unknown pre-tokenizer; its
    message has the hash, its hint the way to name one.
    """
    files = CheckpointFiles(paths)
    nested = config.get("text_config")
    flat = {**config, **nested} if isinstance(nested, dict) else config
    if rule.readers == (Reader.TEKKEN,) and TEKKEN in files:
        return tekken_vocabulary(files, rule.size_key).list()
    flat = _padded(flat, rule)
    original = files.json_object("config.json") or config
    found = _read(ReaderContext(files, flat, rule, pre, warn))
    entries = Entries()
    for name, flag in rule.flags_before:
        entries.boolean(ADD_KEYS[name], flag)
    if rule.prefix is Prefix.SETTINGS_FIRST:
        _space_prefix(files, rule, entries)
    for kv in found.first:
        entries.add(kv)
    _write_tokens(entries, found)
    _middle(files, rule, found, entries)
    specials = _specials(files, original, rule, found)
    for text in doubts(specials, found.tokens, files.json_object(CONFIG) or {}):
        warn(text)
    specials.write(entries)
    _second_pass(files, original, rule, entries, flat)
    _after(files, rule, found, entries, flat)
    _warn_without_template(rule, entries, warn)
    return entries.list()


def _warn_without_template(rule: VocabRule, entries: Entries, warn: Callable[[str], None]) -> None:
    """Name the file that llama.cpp's converter adds, where the checkpoint has no template."""
    if rule.elsewhere and KEY not in entries:
        warn(
            "the checkpoint has no chat template; llama.cpp's converter takes"
            f" models/templates/{rule.elsewhere} of its checkout: copy that file into the"
            f" checkpoint's folder as {JINJA}"
        )


def _padded(config: Mapping[str, Any], rule: VocabRule) -> Mapping[str, Any]:
    """The config with its vocabulary's size rounded up, where the family does that."""
    size, multiple = config.get("vocab_size"), config.get(rule.multiple_name, rule.multiple)
    if not rule.multiple or type(size) is not int or type(multiple) is not int or multiple < 1:
        return config
    return {**config, "vocab_size": -(size // -multiple) * multiple}


def _read(context: ReaderContext) -> Vocabulary:
    for reader in context.rule.readers:
        try:
            return READERS[reader](context)
        except Unfit:
            continue
    if TEKKEN in context.files:
        raise UnsupportedError(
            "tekken.json is in Mistral's own format, which is not supported",
            hint="use the checkpoint in Hugging Face format, which has a tokenizer.json",
        )
    files = (reader.value.removesuffix(" with byte fallback") for reader in context.rule.readers)
    wanted = " or ".join(dict.fromkeys(files))
    only = "tokenizer.json" in context.files and MODEL not in context.files
    raise SourceError(
        f"the checkpoint has no usable tokenizer: {wanted} is needed",
        hint="tokenizer.json alone does not have the scores of this family's vocabulary: copy"
        " tokenizer.model from the base model into the folder; tokens that tokenizer.json adds"
        " are taken from there"
        if only
        else "copy the tokenizer's files from the base model into the folder",
    )


def _write_tokens(entries: Entries, found: Vocabulary) -> None:
    tokens = found.tokens
    entries.string(PREFIX + "model", found.model)
    entries.string(PREFIX + "pre", found.pre)
    entries.array(PREFIX + "tokens", tokens.texts, ValueType.STRING)
    if tokens.scores is not None:
        entries.array(PREFIX + "scores", tokens.scores, ValueType.FLOAT32)
    entries.array(PREFIX + "token_type", tokens.types, ValueType.INT32)


def _space_prefix(files: CheckpointFiles, rule: VocabRule, entries: Entries) -> None:
    """Nothing where the settings say nothing; null is nothing only where the key comes first."""
    settings = files.json_object(CONFIG) or {}
    value = settings.get("add_prefix_space")
    if "add_prefix_space" not in settings:
        return
    if value is None:
        if rule.prefix is Prefix.SETTINGS_FIRST:
            return
        value = False
    if not isinstance(value, bool):
        raise FormatError(f"{CONFIG}: add_prefix_space must be true or false, not {value!r}")
    entries.boolean(PREFIX + "add_space_prefix", value)


def _middle(files: CheckpointFiles, rule: VocabRule, found: Vocabulary, entries: Entries) -> None:
    for kv in found.middle:
        entries.add(kv)
    if rule.prefix is Prefix.SETTINGS_MIDDLE:
        _space_prefix(files, rule, entries)
    elif rule.prefix is Prefix.MODEL_MIDDLE:
        entries.boolean(PREFIX + "add_space_prefix", read_pieces(files).add_dummy_prefix)


def _specials(
    files: CheckpointFiles, config: Mapping[str, Any], rule: VocabRule, found: Vocabulary
) -> Specials:
    if found.specials is not None:
        return found.specials
    size = len(found.tokens.texts) if found.bounded else None
    specials = read_specials(
        files, config, merges=found.merges, size=size, renumbered=found.renumbered
    )
    if specials.template is None and rule.template:
        specials.template = rule.template
    for name, id_ in rule.defaults:
        specials.set_default(name, id_)
    specials.ids |= dict(rule.fixed)
    if rule.tokens:
        ids = {text: id_ for id_, text in enumerate(found.tokens.texts)}
        for name, text in rule.tokens:
            if text not in ids:
                raise FormatError(f"the vocabulary has no token {text!r}, which is its {name}")
            specials.set_default(name, ids[text])
    if rule.eos_in_chat and "eos" in specials.ids:
        for id_, raw, _ in declared_tokens(files):
            if raw["content"] == rule.eos_in_chat:
                specials.ids["eos"] = id_
    return specials


def _second_pass(
    files: CheckpointFiles,
    config: Mapping[str, Any],
    rule: VocabRule,
    entries: Entries,
    flat: Mapping[str, Any],
) -> None:
    """Ids of tokens for infilling and turns, which some vocabularies have without saying so."""
    for size, ids in rule.second_pass.items():
        if size not in (0, flat.get("vocab_size")):
            continue
        specials = read_specials(files, config, names=tuple(name for name, _ in ids))
        for name, id_ in ids:
            specials.set_default(name, id_)
        specials.write(entries)


def _after(
    files: CheckpointFiles,
    rule: VocabRule,
    found: Vocabulary,
    entries: Entries,
    flat: Mapping[str, Any],
) -> None:
    if rule.prefix is Prefix.FALSE_OF_JSON and not found.pieces:
        entries.boolean(PREFIX + "add_space_prefix", False)
    for size, flags in rule.flags_of_size.items():
        for name, flag in flags if size in (0, flat.get("vocab_size")) else ():
            entries.boolean(ADD_KEYS[name], flag)
    for name, id_ in (*rule.ids_after, *_ends(files, rule, flat)):
        entries.uint32(ID_KEYS[name], id_)
    if rule.prefix is Prefix.SETTINGS_LAST:
        _space_prefix(files, rule, entries)
    elif rule.prefix is Prefix.FALSE_LAST and found.pieces:
        entries.boolean(PREFIX + "add_space_prefix", False)
    for kv in found.last:
        entries.add(kv)
    _instead(files, rule, entries)
    if rule.eot_text in found.tokens.texts:
        entries.uint32(ID_KEYS["eot"], found.tokens.texts.index(rule.eot_text))
    if rule.segments:
        entries.add(segments(flat, rule))


def _instead(files: CheckpointFiles, rule: VocabRule, entries: Entries) -> None:
    """What counts in the place of what the checkpoint says."""
    if rule.template_instead:
        entries.string(KEY, rule.template_instead)
    elif rule.file_template and JINJA in files:
        entries.string(KEY, files.text(JINJA, TEMPLATE_LIMIT))
    declared = added_tokens_decoder(files.json_object(CONFIG) or {}) if rule.both_ends else {}
    found = next((id_ for id_, raw in declared.items() if raw["content"] == rule.both_ends), None)
    if found is not None:
        entries.uint32(ID_KEYS["bos"], found)
        entries.uint32(ID_KEYS["eos"], found)


def _ends(
    files: CheckpointFiles, rule: VocabRule, flat: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """The ids of eos and eot that other files than the tokenizer's name."""
    several = (files.json_object("generation_config.json") or {}).get("eos_token_id")
    ends = flat.get("eos_token_id")
    others = (
        [end for end in ends if end != flat.get("bos_token_id")] if isinstance(ends, list) else []
    )
    first = several[:1] if rule.eot_first and isinstance(several, list) and several[1:] else []
    found = {
        "eos": flat.get(rule.eos_name) if rule.eos_name else None,
        "eot": next(iter(first or (others if rule.eot_besides else ())), None),
    }
    for name, id_ in found.items():
        if id_ is None:
            continue
        if type(id_) is not int or not 0 <= id_ < 1 << 32:
            raise FormatError(f"the id of {name} is {str(id_)[:40]}; a whole number is needed")
        yield name, id_
