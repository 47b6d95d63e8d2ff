"""Chat templates as metadata: one, or several with names. They are data and never run here."""

from __future__ import annotations

import string
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TEMPLATE_LIMIT
from mbuild.core.errors import FormatError
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.vocabulary.entries import Entries

Template = str | list[tuple[str, str]]
"""One template, or names and templates."""

KEY = "tokenizer.chat_template"
NAMES_KEY = "tokenizer.chat_templates"
JINJA = "chat_template.jinja"
FOLDER = "additional_chat_templates/"
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits)


def chat_template(files: CheckpointFiles, settings: Mapping[str, Any]) -> Template | None:
    """The checkpoint's templates.

    ``chat_template`` of tokenizer_config.json counts first, even when it is
    null; then chat_template.jinja with the files of
    ``additional_chat_templates/``, then chat_template.json.
    """
    value = settings["chat_template"] if "chat_template" in settings else _from_files(files)
    if isinstance(value, str):
        _check_size(value)
        return value
    if isinstance(value, list):
        return [_named(entry) for entry in value]
    return None


def _from_files(files: CheckpointFiles) -> object:
    if JINJA in files:
        default = files.text(JINJA, TEMPLATE_LIMIT)
        more = [
            {"name": PurePosixPath(name).stem, "template": files.text(name, TEMPLATE_LIMIT)}
            for name in files.names(FOLDER, ".jinja")
        ]
        return [{"name": "default", "template": default}, *more] if more else default
    return (files.json_object("chat_template.json") or {}).get("chat_template")


def _named(entry: object) -> tuple[str, str]:
    match entry:
        case {"name": str() as name, "template": str() as template}:
            _check_size(template)
            return name, template
    raise FormatError("tokenizer_config.json: chat_template: an entry lacks a name or a template")


def _check_size(template: str) -> None:
    if len(template) > TEMPLATE_LIMIT:
        raise FormatError(f"a chat template of {len(template)} characters is too long")


def write_template(entries: Entries, template: Template) -> None:
    """Set the template's entries (``GGUFWriter.add_chat_template``).

    Characters other than ASCII letters and digits in names become ``_``. The
    list of names keeps the templates' order; gguf-py writes it in the random
    order of a Python set.
    """
    if isinstance(template, str):
        entries.string(KEY, template)
        return
    default = None
    names: dict[str, None] = {}
    for raw, text in template:
        name = "".join(c if c in _NAME_CHARACTERS else "_" for c in raw)
        if name == "default":
            default = text
        elif name:
            names[name] = None
            entries.string(f"{KEY}.{name}", text)
    entries.array(NAMES_KEY, [*names], ValueType.STRING)
    if default is not None:
        entries.string(KEY, default)
