"""Write what the documentation takes from the code: commands, events, every sentence, options.

python docs/generate.py
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from keyword import iskeyword
from pathlib import Path
from typing import Any

import click

from mbuild.api.keywords import OWN, TABLES
from mbuild.cli.main import COMMANDS, cli
from mbuild.cli.main import EXIT_STATUS as EXIT
from mbuild.core import events
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, UsageError
from mbuild.language.parameters import PARAMETERS, ParameterType
from mbuild.language.word_help import PARAMETER_HELP
from mbuild.quant.choose.options import COUNT, FLAG, OPTIONS, Option
from mbuild.quant.choose.rules import NEEDS_IMPORTANCES
from mbuild.quant.choose.rules import ROWS as RULES
from mbuild.quant.choose.types import FILE_TYPES, FileType
from mbuild.runtime.options import OPTIONS as REQUEST_OPTIONS
from mbuild.server.shapes import CREATE

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # for those who load this file by its path

import request_schema  # noqa: E402
import sentences  # noqa: E402

COMMAND = "python docs/generate.py"

EXIT_STATUS = f"""\
## Exit status

| status | meaning |
|---|---|
| 0 | done |
| {EXIT[MbuildError]} | it failed, or a model, a build or a file that was named is not there; \
`check`, `verify` and `diff --exit-code` found something |
| {EXIT[UsageError]} | the command line is wrong; nothing was tried |
| 130, 143 | stopped by Ctrl-C or SIGTERM |
"""


def pages() -> dict[str, str]:
    """Each generated file's name and text."""
    return {
        "cli.md": command_line(),
        "messages.md": sentences.page(sentences.found().messages, COMMAND),
        "progress.schema.json": json.dumps(schema(), indent=2) + "\n",
        "request.schema.json": json.dumps(request_schema.schema(), indent=2) + "\n",
        "quantize.md": _with_types(_with_options("quantize.md", _flags())),
        "api.md": _with_options("api.md", _properties()),
        "modelfile.md": _with_options("modelfile.md", _parameters()),
        "../mbuild/api/given.py": _keywords(),
    }


def _keywords() -> str:
    """The module with the options that Python's callers may give, for type checkers."""
    rows = [row for table in TABLES for row in table.values() if not iskeyword(row.name)]
    lines = [f"    {row.name}: {_annotation(row)}" for row in rows if row.name not in OWN]
    return _GIVEN + "\n".join(lines) + "\n"


def _annotation(option: Option) -> str:
    """What Python's callers may give for an option."""
    if option.kind == FLAG:
        return "bool"
    if option.kind.repeats:
        return "Sequence[str]"
    if option.kind == COUNT:
        return "int | str | None"
    return "str" if isinstance(option.default, str) else "str | None"


_GIVEN = f'''\
"""What Python may give of the tables of options. Written by {COMMAND}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class TableOptions(TypedDict, total=False):
    """The options of the tables, under the names that docs/cli.md has with ``-`` for ``_``."""

'''


def _with_types(page: str) -> str:
    """The page with its table of file types as it ought to be."""
    before, rest = page.split(f"{_TYPES}\n")
    rows = ["| `-q` | most tensors | |", "|---|---|---|", *map(_type_row, FILE_TYPES)]
    return f"{before}{_TYPES}\n" + "\n".join(rows) + "\n<!-- end -->\n" + rest.split(_END_TYPES)[1]


_TYPES, _END_TYPES = "<!-- types: checked by tests/project/test_docs.py -->", "<!-- end -->\n"


def _type_row(type_: FileType) -> str:
    """The name for -q, most tensors' type, and what it asks for."""
    rules = [row for category in RULES.values() for row in category]
    made = {type_.default, *(kind for names, _, kind in rules if type_.name in names.split())}
    note = "needs `--imatrix`" if type_.name == "Q2_K_S" or NEEDS_IMPORTANCES & made else ""
    return f"| `{type_.name}` | {type_.default.name} | {note} |"


def _with_options(name: str, rows: list[str]) -> str:
    """A page with its table of options as it ought to be."""
    before, rest = (DOCS / name).read_text(encoding="utf-8").split(f"{_BEGIN}\n")
    return f"{before}{_BEGIN}\n" + "\n".join(rows) + f"\n{_END}\n" + rest.split(f"{_END}\n")[1]


_BEGIN = f"<!-- options: written by {COMMAND} -->"
_END = "<!-- end of the options -->"


def _flags() -> list[str]:
    """The options on a command line."""
    rows = ["| option | |", "|---|---|"]
    for option in OPTIONS.values():
        word = " or ".join(option.choices) or option.kind.metavar
        rows.append(f"| `{f'{option.flag} {word}'.strip()}` | {_sentence(option)} |")
    return rows


def _properties() -> list[str]:
    """The options as fields of ``POST /api/create``."""
    rows = ["| field | JSON | |", "|---|---|---|"]
    for option in OPTIONS.values():
        kind = CREATE.fields[option.name].schema
        word = " or ".join(each["type"] for each in kind.get("oneOf", [kind]))
        rows.append(f"| `{option.name}` | {word} | {_sentence(option)} |")
    return rows


def _parameters() -> list[str]:
    """What PARAMETER takes, with the values that count where nobody sets one."""
    rows = ["| parameter | type | default | |", "|---|---|---|---|"]
    for name, text in PARAMETER_HELP.items():
        default = REQUEST_OPTIONS[name].default
        said = "none" if default == () else str(default).lower()
        said = "the server's" if name == "num_ctx" else said
        rows.append(f"| `{name}` | {_KINDS[PARAMETERS[name]]} | {said} | {text} |")
    return rows


_KINDS = {
    ParameterType.INT: "whole number",
    ParameterType.FLOAT: "number",
    ParameterType.BOOL: "`true`, `false`",
    ParameterType.TEXTS: "text",
}


def _sentence(option: Option) -> str:
    """What an option does, as ``--help`` says it."""
    return option.help.replace("  [", " [")


def command_line() -> str:
    """Every command's ``--help``."""
    parts = [f"# The command line\n\n<!-- written by {COMMAND} -->\n"]
    parts.append(f"```text\n{_help(cli, 'mbuild', None)}\n```\n")
    group = click.Context(cli, info_name="mbuild")
    for name in COMMANDS:
        command = cli.get_command(group, name)
        assert command is not None
        parts.append(f"## `mbuild {name}`\n\n```text\n{_help(command, name, group)}\n```\n")
    return "\n".join([*parts, EXIT_STATUS])


def _help(command: click.Command, name: str, parent: click.Context | None) -> str:
    settings = {"help_option_names": ["-h", "--help"], "terminal_width": 88}
    return command.get_help(click.Context(command, info_name=name, parent=parent, **settings))


def schema() -> dict[str, Any]:
    """A JSON Schema of one line of ``--progress json``, from the events' fields."""
    kinds = typing.get_args(events.BuildEvent)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of mbuild --progress json",
        "oneOf": [_event(kind) for kind in kinds],
    }


def _event(kind: type) -> dict[str, Any]:
    """One event; a status has its sentence, too."""
    found = _object(kind, {"event": {"const": kind.__name__}})
    if kind is events.Status:
        found["properties"]["text"] = {"type": "string"}
        found["required"].append("text")
    return found


def _object(kind: type, first: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _type(hint) for name, hint in typing.get_type_hints(kind).items()}
    return {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "properties": {**first, **fields},
        "required": [*first, *fields],
    }


def _type(hint: Any) -> dict[str, Any]:
    simple = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if hint in simple:
        return {"type": simple[hint]}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if typing.get_origin(hint) is Mapping:
        return {"type": "object", "additionalProperties": _type(typing.get_args(hint)[1])}
    if hint is Digest:
        return {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        return {
            "anyOf": [{"type": "null"} if part is type(None) else _type(part) for part in parts]
        }
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _type(typing.get_args(hint)[0])}
    return _object(hint, {})


def main() -> None:
    """Write the files."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
