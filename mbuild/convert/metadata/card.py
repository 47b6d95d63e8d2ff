"""The front matter of README.md, as Hugging Face's model cards have it.

It is YAML, and written by hand: only the entries that become metadata are
parsed, each value is limited, and a card that cannot be read counts as none.
PyYAML comes with the ``gguf`` package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.core.errors import SourceError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mbuild.convert.read.files import CheckpointFiles

CARD_LIMIT = 8 << 20
"""Most bytes of README.md; benchmark results make some front matters megabytes long."""
YAML_LIMIT = 32 << 10
"""Most characters of the entries that are used. The loader is PyYAML's own in Python: the one
in C overflows its stack on deep nesting."""
BRACKET_LIMIT = 1000
"""Most opened brackets there: PyYAML takes quadratic time for them."""
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})

USED = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "model_")
    for name in (
        *("name", "author", "version", "organization", "description", "finetune"),
        *("basename", "size_label", "url", "doi", "uuid", "repo_url"),
    )
) | frozenset(
    (
        *("model_creator", "model_type", "base_model", "base_models", "base_model_sources"),
        *("datasets", "dataset", "dataset_sources", "license", "license_name", "license_link"),
        *("tags", "pipeline_tag", "languages", "language"),
    )
)
_ENTRY = regex(r"(['\"]?)([A-Za-z_][\w-]*)\1\s*:(\s|$)")


def model_card(files: CheckpointFiles) -> dict[str, Any]:
    """The entries of README.md's front matter that are used; empty when there is none."""
    if "README.md" not in files:
        return {}
    try:
        text = files.text("README.md", CARD_LIMIT)
    except SourceError:
        return {}
    return parse_card(text)


def parse_card(text: str) -> dict[str, str | list[Any] | dict[str, Any]]:
    """The used entries of a card's text: texts, and lists and objects of them.

    Nothing but null is guessed from a text: ``version: 1.0`` is text.
    The front matter stands between two lines ``---`` at the start. As in
    llama.cpp, a tab is two spaces.
    """
    import yaml  # type: ignore[import-untyped]

    lines = text.splitlines()
    if not lines or lines[0] != "---":
        return {}
    used = "\n".join(_used(_front_matter(lines[1:]))) + "\n"
    used = used.replace("\t", "  ")
    if len(used) > YAML_LIMIT or used.count("[") + used.count("{") > BRACKET_LIMIT:
        return {}
    try:
        data = yaml.load(used, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {k: v for k, v in data.items() if k in USED and not (isinstance(v, str) and v in _NULLS)}


def _front_matter(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if line == "---":
            return
        yield line


def _used(lines: Iterable[str]) -> Iterable[str]:
    """Lines of the used entries: a name at the start of a line begins an entry."""
    keep = True
    for line in lines:
        if match := _ENTRY.match(line):
            keep = match[2] in USED
        if keep:
            yield line
