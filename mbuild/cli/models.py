"""``list``, ``show``, ``cp`` and ``rm``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import click

from mbuild.cli.common import (
    NameType,
    columns_of,
    format_option,
    harmless,
    human_size,
    open_store,
    store_option,
    write_json,
    write_text,
)
from mbuild.core.errors import MbuildError, UsageError
from mbuild.core.names import ModelName
from mbuild.models import library
from mbuild.models.library import Removed
from mbuild.store import Store, StoredManifest
from mbuild.store.contents import Contents

_AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "min"))


def human_age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for length, word in _AGES:
        count = int(seconds // length)
        if count:
            return f"{count} {word}{'s' if count > 1 and word != 'min' else ''} ago"
    return "just now"


def _row(stored: StoredManifest, now: float) -> tuple[str, str, str, str]:
    age = human_age(now - stored.modified_ns / 1e9)
    return str(stored.name), stored.id.short, human_size(stored.size), age


LIST_EPILOG = """\
\b
Examples:
  mbuild list
  mbuild list mario
  mbuild list --format json
"""


@click.command("list", epilog=LIST_EPILOG)
@click.argument("start", metavar="[NAME]", default="")
@store_option
@format_option
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.pass_context
def list_command(
    ctx: click.Context, *, start: str, store: str | None, style: str, as_json: bool
) -> None:
    """List the models in the store, newest first; with NAME, only those that begin with it."""
    opened = open_store(ctx, store)
    models, damaged = library.list_models(opened, start)
    if as_json or style == "json":
        rows = [
            {"name": str(m.name), "id": m.id.hex, "size": m.size, "modified_ns": m.modified_ns}
            for m in models
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        now = time.time()
        table, width = [_row(stored, now) for stored in models], columns_of()
        click.echo("\n".join(_narrow(table, width) if width else _wide(table)))
    if not (models or damaged or start):
        from mbuild.store.place import about_empty

        click.echo(f"hint: {about_empty(opened.root)}", err=True)
    for error in damaged:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"warning: {error.message}{hint}", err=True)


_HEAD = ("NAME", "ID", "SIZE", "MODIFIED")
_DROPPED = {"ID": 2, "MODIFIED": 1}
"""The columns that a narrow terminal does without, the highest number first."""


def _wide(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The table with columns as wide as they need."""
    table = [_HEAD, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEAD))]
    return [
        "    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _narrow(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """The table as it fits on a terminal."""
    from mbuild.cli.screen import Column, fitted

    name, *others = _HEAD
    columns = [Column(name, least=16), *(Column(head, _DROPPED.get(head, 0)) for head in others)]
    return fitted(columns, rows, width, gap=4)


_PARTS = ("modelfile", "template", "system", "parameters", "license")
_ONE_PART = "ask for one part at a time"

SHOW_EPILOG = """\
\b
Examples:
  mbuild show mario
  mbuild show mario --modelfile > Modelfile
  mbuild show mario --format json
  mbuild show mario --tensors --metadata
"""


@click.command("show", epilog=SHOW_EPILOG)
@click.argument("name", type=NameType())
@store_option
@click.option("--modelfile", is_flag=True, help="A Modelfile that builds the same layers again.")
@click.option("--template", is_flag=True, help="Only the template.")
@click.option("--system", is_flag=True, help="Only the system message.")
@click.option("--parameters", is_flag=True, help="Only the parameters.")
@click.option("--license", is_flag=True, help="Only the licenses.")
@click.option("--tensors", is_flag=True, help="The tensors: names, types, shapes, sizes.")
@click.option("--metadata", is_flag=True, help="The metadata in the weights' files.")
@format_option
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.pass_context
def show_command(
    ctx: click.Context,
    /,
    *,
    name: ModelName,
    store: str | None,
    style: str,
    as_json: bool,
    **parts: bool,
) -> None:
    """Show a model: details, parameters, template, system message, license.

    JSON has all of it in one object.
    """
    as_json = as_json or style == "json"
    asked = [part for part in _PARTS if parts[part]]
    if len(asked) + as_json > 1:
        raise UsageError(f"--{asked[0]} cannot be combined with another part", hint=_ONE_PART)
    opened = open_store(ctx, store)
    if parts["tensors"] or parts["metadata"]:
        if asked:
            raise UsageError(f"--{asked[0]} cannot be combined with another part", hint=_ONE_PART)
        _show_inside(opened, name, as_json, parts)
        return
    model = library.view(opened, name)
    if as_json:
        write_json(library.as_json(opened, model))
    elif asked:
        text = {
            "modelfile": lambda: library.modelfile_of(model, library.by_path(opened)),
            "template": lambda: model.template,
            "system": lambda: model.system,
            "parameters": lambda: "\n".join(_parameter_lines(model)),
            "license": lambda: "\n".join(model.licenses),
        }[asked[0]]()
        write_text(text if text.endswith("\n") else f"{text}\n")
    else:
        lines, width = [*map(harmless, _overview(opened, model))], columns_of()
        if width:
            from mbuild.cli.screen import wrapped

            lines = [part for line in lines for part in wrapped(*_indented(line, width))]
        click.echo("\n".join(lines))


def _show_inside(store: Store, name: ModelName, as_json: bool, parts: dict[str, bool]) -> None:
    """What ``--tensors`` and ``--metadata`` ask for."""
    from mbuild.cli.compare import inside, inside_lines

    layers = inside(store, library.find(store, name), parts)
    if as_json:
        write_json(layers)
    else:
        click.echo("\n".join(inside_lines(layers)))


def _overview(store: Any, model: Contents) -> list[str]:
    facts = library.model_facts(store, model)
    lines = [f"{model.stored.name}  {model.stored.id.short}", ""]
    lines += _section("Model", [f"{key:<20}{value}" for key, value in facts.items()])
    projector = library.projector_facts(store, model)
    lines += _section("Projector", [f"{key:<20}{value}" for key, value in projector.items()])
    layers = [
        f"{layer.kind:<12}{layer.digest.short}  {human_size(layer.size)}"
        for layer in model.stored.manifest.layers
    ]
    lines += _section("Layers", layers)
    lines += _section("Parameters", _parameter_lines(model))
    lines += _section("Template", model.template.splitlines())
    lines += _section("System", model.system.splitlines())
    lines += _section("Messages", [f"{m.get('role')}: {m.get('content')}" for m in model.messages])
    lines += _section("License", [text.strip().partition("\n")[0] for text in model.licenses])
    return lines[:-1]


def _indented(line: str, width: int) -> tuple[str, int, str, str]:
    """A line's text, and what stands before it and the lines that it may need more."""
    text = line.lstrip(" ")
    indent = line[: len(line) - len(text)]
    return text, width, indent + "  ", indent


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"  {title}", *(f"    {line}" for line in lines), ""] if lines else []


def _parameter_lines(model: Contents) -> list[str]:
    lines = []
    for key, value in sorted(model.parameters.items()):
        for item in value if isinstance(value, list) else [value]:
            shown = json.dumps(item, ensure_ascii=False) if isinstance(item, str) else item
            lines.append(f"{key:<31}{_number(shown)}")
    return lines


def _number(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return int(value) if isinstance(value, float) and value.is_integer() else value


CP_EPILOG = """\
\b
Examples:
  mbuild cp mario mario:backup
  mbuild cp 70d364a76ddf mario       an earlier build, by its id
"""


@click.command("cp", epilog=CP_EPILOG)
@click.argument("source", type=NameType())
@click.argument("target", type=NameType())
@store_option
@click.pass_context
def cp_command(
    ctx: click.Context, *, source: ModelName, target: ModelName, store: str | None
) -> None:
    """Give a model a second name without copying weights.

    SOURCE can also be an id, or its beginning: that of an earlier build, too, which was
    overwritten or removed and is still in the cache.
    """
    opened = open_store(ctx, store)
    is_name = opened.manifests.read_bytes(opened.manifests.resolve(source)) is not None
    replaced = library.copy(opened, source, target)
    click.echo(f"copied '{source if is_name else source.model}' to '{target}'")
    if replaced is not None:
        click.echo(f"replaced {target} (was {replaced.short})", err=True)


RM_EPILOG = """\
\b
Examples:
  mbuild rm mario:v2
  mbuild rm --purge mario            keep nothing of it in the cache
"""


@click.command("rm", epilog=RM_EPILOG)
@click.argument("names", type=NameType(), nargs=-1, required=True)
@store_option
@click.option("--purge", is_flag=True, help="Free its disk space now: keep nothing in the cache.")
@click.pass_context
def rm_command(
    ctx: click.Context, *, names: tuple[ModelName, ...], store: str | None, purge: bool
) -> None:
    """Remove models. What a build made of them stays in the cache, within its budget.

    The same build, or mbuild cp ID NAME, brings them back at once.
    """
    opened = open_store(ctx, store)
    for asked, removed in zip(names, library.remove(opened, names, purge=purge), strict=True):
        click.echo(f"deleted '{asked}'{_where_bytes_went(removed)}")
    _let_go(opened, names)


def _let_go(opened: Store, names: Iterable[ModelName]) -> None:
    """Have mbuild's server end the engines of what was removed, if one runs on the store."""
    from mbuild.store.serving import served_at

    served = served_at(opened.private)
    if not served.runs:
        return
    import urllib3

    from mbuild.cli.talking import ask_server

    http = urllib3.PoolManager(retries=False)
    for name in names:
        with suppress(MbuildError):  # most were not loaded
            body = {"model": str(name), "keep_alive": 0, "stream": False}
            ask_server(http, served.url, "/api/generate", body)


def _where_bytes_went(removed: Removed) -> str:
    texts = []
    if removed.id is not None:
        texts.append(f"was {removed.id.short}")
    if removed.kept:
        texts.append(f"{human_size(removed.kept)} kept in the cache")
    if removed.freed:
        texts.append(f"{human_size(removed.freed)} freed")
    if removed.waiting:
        texts.append(f"{human_size(removed.waiting)} to be freed when the running builds end")
    return f" ({', '.join(texts)})" if texts else ""
